"""Class activation maps: which places of a layer's map speak for the target."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor, nn

from cutaway import graph as G
from cutaway.explain.attribution import Attribution, upsample
from cutaway.explain.frame import Found, attribute, explained
from cutaway.explain.layers import map_node
from cutaway.explain.objective import Objective, Of, Target
from cutaway.explain.rectifiers import guided_map

if TYPE_CHECKING:
    from cutaway.graph import Node


def grad_cam(
    model: nn.Module | Callable,
    x: Float[Tensor, "n c h w"],
    target: Target = None,
    *,
    layer: "str | Node | None" = None,
    of: Of = "logit",
    score: bool = True,
    seed: int = 0,
) -> Attribution:
    """Weigh a layer's channels by their mean adjoint, add them up, and keep what is positive.

    Args:
        model, x, target, of, score, seed: as for `gradient`.
        layer: a node or module by name, or a node; None for the deepest node with a spatial map. A module that is used
            several times stands for its last call; each call is a node of its own.

    Returns:
        values (N, 1, h, w) at the layer's resolution, nowhere negative; `.upsampled(size)` brings them to the input's.

    Raises:
        ArgumentError: the layer holds no map, and as for `gradient`.
        LookupFailure: no node or module has this name.

    Source: R. R. Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-Based Localization,
    2017, eq. 1 and 2.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
    >>> grad_cam(net, torch.rand(1, 1, 8, 8), layer="0").values.shape
    torch.Size([1, 1, 6, 6])
    """
    return attribute("grad_cam", grad_cam_map, model, x, target, of, settings={"layer": layer}, score=score, seed=seed)


def guided_grad_cam(
    model: nn.Module | Callable,
    x: Float[Tensor, "n c h w"],
    target: Target = None,
    *,
    layer: "str | Node | None" = None,
    of: Of = "logit",
    score: bool = True,
    seed: int = 0,
) -> Attribution:
    """Multiply guided backprop by the upsampled Grad-CAM map, place by place.

    Args:
        model, x, target, of, score, seed: as for `gradient`.
        layer: as for `grad_cam`.

    Returns:
        values shaped like x.

    Raises:
        ArgumentError, LookupFailure: as for `grad_cam`.

    Source: R. R. Selvaraju et al., Grad-CAM, 2017, section 3.2.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
    >>> guided_grad_cam(net, torch.rand(1, 1, 8, 8)).values.shape
    torch.Size([1, 1, 8, 8])
    """
    settings = {"layer": layer}
    return attribute(
        "guided_grad_cam", guided_grad_cam_map, model, x, target, of, settings=settings, score=score, seed=seed
    )


def grad_cam_map(graph: G.Graph, x: Tensor, goal: Objective, layer: "str | Node | None" = None) -> Found:
    """Compute Grad-CAM on a graph."""
    maps, adjoints, target, name = maps_of(graph, x, goal, layer)
    weights = adjoints.flatten(2).mean(2)  # (N, C)
    return Found(weighted(maps, weights).relu(), target, layer=name)


def guided_grad_cam_map(graph: G.Graph, x: Tensor, goal: Objective, layer: "str | Node | None" = None) -> Found:
    """Compute guided Grad-CAM on a graph."""
    cam, guided = grad_cam_map(graph, x, goal, layer), guided_map(graph, x, goal)
    return Found(guided.values * upsample(cam.values, tuple(x.shape[2:])), cam.target, layer=cam.layer)


def maps_of(
    graph: G.Graph, x: Tensor, goal: Objective, layer: "str | Node | None"
) -> tuple[Tensor, Tensor, Tensor | None, str]:
    """A layer's maps (N, C, h, w), the adjoints there, the classes explained and the layer's name."""
    node, layout = map_node(graph, layer)
    values, adjoints = graph.gradient(of="output", wrt=[node], values=[node]).evaluate(x, seed=goal.adjoint)
    return layout.as_map(values[node]), layout.as_map(adjoints[node]), explained(goal, values["output"]), node.name


def weighted(maps: Float[Tensor, "n c ..."], weights: Float[Tensor, "n c"]) -> Float[Tensor, "n 1 ..."]:
    """The sum of a layer's maps, each times the weight of its channel."""
    return (maps * weights.view(*weights.shape, *[1] * (maps.dim() - 2))).sum(1, keepdim=True)
