"""Class activation maps: which places of a layer's map speak for the target."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway import graph as G
from cutaway.errors import ArgumentError
from cutaway.explain.attribution import Attribution, upsample
from cutaway.explain.frame import Compute, Found, at_node, attribute, explained
from cutaway.explain.layers import map_node
from cutaway.explain.objective import Objective, Of, Target

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
    return _by_layer("grad_cam", model, x, target, layer, of, score, seed)


def grad_cam_plus_plus(
    model: nn.Module | Callable,
    x: Float[Tensor, "n c h w"],
    target: Target = None,
    *,
    layer: "str | Node | None" = None,
    of: Of = "logit",
    score: bool = True,
    seed: int = 0,
) -> Attribution:
    """Weigh a layer's channels by their positive adjoints, each place by how alone it stands; for several objects.

    Args:
        model, x, target, layer, of, score, seed: as for `grad_cam`.

    Returns:
        values (N, 1, h, w), nowhere negative; without the factor exp(logit), which all places of an image share.

    Raises:
        ArgumentError, LookupFailure: as for `grad_cam`.

    Source: A. Chattopadhyay et al., Grad-CAM++: Generalized Gradient-based Visual Explanations for Deep Convolutional
    Networks, 2018, eq. 10 and 19.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
    >>> grad_cam_plus_plus(net, torch.rand(1, 1, 8, 8)).values.shape
    torch.Size([1, 1, 6, 6])
    """
    return _by_layer("grad_cam_plus_plus", model, x, target, layer, of, score, seed)


def layer_cam(
    model: nn.Module | Callable,
    x: Float[Tensor, "n c h w"],
    target: Target = None,
    *,
    layer: "str | Node | None" = None,
    of: Of = "logit",
    score: bool = True,
    seed: int = 0,
) -> Attribution:
    """Weigh each place of a layer's channels by its own positive adjoint; sharp in shallow layers too.

    Args:
        model, x, target, layer, of, score, seed: as for `grad_cam`.

    Returns:
        values (N, 1, h, w), nowhere negative.

    Raises:
        ArgumentError, LookupFailure: as for `grad_cam`.

    Source: P.-T. Jiang et al., LayerCAM: Exploring Hierarchical Class Activation Maps for Localization, 2021, eq. 4–6.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
    >>> layer_cam(net, torch.rand(1, 1, 8, 8)).values.shape
    torch.Size([1, 1, 6, 6])
    """
    return _by_layer("layer_cam", model, x, target, layer, of, score, seed)


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
    return _by_layer("guided_grad_cam", model, x, target, layer, of, score, seed)


def mean_adjoint(maps: Tensor, adjoints: Float[Tensor, "n c ..."]) -> Float[Tensor, "n c ..."]:
    """Grad-CAM's weights: a channel's mean adjoint, eq. 1."""
    return over_places(adjoints, torch.mean)


def lone_adjoints(maps: Float[Tensor, "n c ..."], adjoints: Float[Tensor, "n c ..."]) -> Float[Tensor, "n c ..."]:
    """Grad-CAM++'s weights: a channel's positive adjoints, each times α of eq. 19, added up."""
    below = 2 * adjoints**2 + over_places(maps, torch.sum) * adjoints**3
    alone = torch.where(below != 0, adjoints**2 / torch.where(below == 0, 1, below), 0)  # α
    return over_places(alone * adjoints.relu(), torch.sum)


def positive_adjoints(maps: Tensor, adjoints: Float[Tensor, "n c ..."]) -> Float[Tensor, "n c ..."]:
    """LayerCAM's weights: each place's own positive adjoint, eq. 4."""
    return adjoints.relu()


# what a layer's maps (N, C, h, w) are multiplied with, given them and the adjoints there: (N, C, 1, 1) or (N, C, h, w)
WEIGHTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "grad_cam": mean_adjoint,
    "grad_cam_plus_plus": lone_adjoints,
    "layer_cam": positive_adjoints,
}


def weighted_map(method: str, graph: G.Graph, x: Tensor, goal: Objective, layer: "str | Node | None" = None) -> Found:
    """Compute the map of one of `WEIGHTS` on a graph: the weighted sum of a layer's channels where it is positive."""
    maps, adjoints, target, name = maps_of(graph, x, goal, layer)
    return Found(weighted(method, maps, adjoints), target, layer=name)


def weighted(method: str, maps: Float[Tensor, "n c ..."], adjoints: Float[Tensor, "n c ..."]) -> Tensor:
    """The positive part of the sum of the channels, each times its weights, (N, 1, …)."""
    return (maps * WEIGHTS[method](maps, adjoints)).sum(1, keepdim=True).relu()


def guided_grad_cam_map(graph: G.Graph, x: Tensor, goal: Objective, layer: "str | Node | None" = None) -> Found:
    """Compute guided Grad-CAM on a graph: one pass forward, one guided pass back, and plain backprop to the layer."""
    node, layout = map_node(graph, layer)
    fast = graph.optimized(keep=[node.name])
    program = fast.gradient(wrt=[fast.inputs[0]], rules=G.rules.guided, values=[node.name])
    values, guided = program.evaluate(x, seed=goal.adjoint)
    target = explained(goal, values["output"])
    try:
        head = graph.derived(("start", node.name), lambda: G.start(fast, node.name))
    except ArgumentError:  # the output depends on the input by ways around the layer too
        adjoint = at_node(graph, x, goal, node)[1]
    else:
        adjoint = head.gradient(wrt=node.name)(values[node.name], seed=Objective(goal.of, target).adjoint)
    cam = weighted("grad_cam", layout.as_map(values[node.name]), layout.as_map(adjoint))
    product = next(iter(guided.values())) * upsample(cam, tuple(x.shape[2:]))
    return Found(product, target, layer=node.name)


CAM_MAPS: dict[str, Compute] = {
    **{method: partial(weighted_map, method) for method in WEIGHTS},
    "guided_grad_cam": guided_grad_cam_map,
}


def _by_layer(
    method: str,
    model: nn.Module | Callable,
    x: Float[Tensor, "n c h w"],
    target: Target,
    layer: "str | Node | None",
    of: Of,
    score: bool,
    seed: int,
) -> Attribution:
    """Explain by one of `CAM_MAPS`; each has no setting but the layer."""
    compute, settings = CAM_MAPS[method], {"layer": layer}
    return attribute(method, compute, model, x, target, of, settings=settings, score=score, seed=seed)


def maps_of(
    graph: G.Graph, x: Tensor, goal: Objective, layer: "str | Node | None"
) -> tuple[Tensor, Tensor, Tensor | None, str]:
    """A layer's maps (N, C, h, w), the adjoints there, the classes explained and the layer's name."""
    node, layout = map_node(graph, layer)
    value, adjoint, output = at_node(graph, x, goal, node)
    return layout.as_map(value), layout.as_map(adjoint), explained(goal, output), node.name


def over_places(values: Float[Tensor, "n c ..."], total: Callable[..., Tensor]) -> Float[Tensor, "n c ..."]:
    """A channel's sum or mean over its places, (N, C, 1, …)."""
    return total(values, tuple(range(2, values.dim())), keepdim=True)
