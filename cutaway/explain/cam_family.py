"""Class activation maps without adjoints as weights: the original one by linear weights, and Score-CAM."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway import graph as G
from cutaway.errors import ArgumentError
from cutaway.explain.attribution import Attribution, upsample
from cutaway.explain.cam import maps_of, over_places
from cutaway.explain.frame import Found, attribute, numbers, outputs, repeats, settled
from cutaway.explain.layers import map_node, spatial_nodes
from cutaway.explain.layouts import CONVOLUTIONS
from cutaway.explain.objective import Objective, Of, Target
from cutaway.progress import track

if TYPE_CHECKING:
    from cutaway.graph import Node

POOLS = ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "avg_pool1d", "avg_pool2d", "mean")
PLAIN = ("view", "reshape", "flatten", "squeeze", "dropout", "clone", "linear", "addmm", "t", "permute", "unsqueeze")


def cam(
    model: nn.Module | Callable,
    x: Float[Tensor, "n c h w"],
    target: Target = None,
    *,
    of: Of = "logit",
    score: bool = True,
    seed: int = 0,
) -> Attribution:
    """Weigh the last maps by the linear layer's weights for the class: what each place adds to the logit.

    Args:
        model, x, target, of, score, seed: as for `gradient`; the model ends in global average pooling and at most
            linear layers.

    Returns:
        values (N, 1, h, w) with their sign: the mean over places is the logit less its bias.

    Raises:
        ArgumentError: the model does not end that way, and as for `gradient`.

    Source: B. Zhou et al., Learning Deep Features for Discriminative Localization, 2016, eq. 2.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2, bias=False))
    >>> x = torch.rand(1, 1, 8, 8)
    >>> bool(torch.isclose(cam(net, x, target=1).values.mean(), net(x)[0, 1]))
    True
    """
    return attribute("cam", cam_map, model, x, target, of, settings={}, score=score, seed=seed)


def score_cam(
    model: nn.Module | Callable,
    x: Float[Tensor, "n c h w"],
    target: Target = None,
    *,
    layer: "str | Node | None" = None,
    of: Of = "logit",
    channels: int | None = None,
    progress: bool = True,
    score: bool = True,
    seed: int = 0,
) -> Attribution:
    """Weigh a layer's channels by the explained number of the input seen through each of them; no gradient.

    Args:
        model, x, target, layer, of, score, seed: as for `grad_cam`.
        channels: how many channels are tried: those that vary most over their places; None for all, as in the paper.
        progress: whether to show a progress bar on a terminal.

    Returns:
        values (N, 1, h, w), nowhere negative.

    Raises:
        ArgumentError, LookupFailure: as for `grad_cam`; channels is below 1.

    Source: H. Wang et al., Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks, 2020,
    eq. 6–9 and algorithm 1.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
    >>> score_cam(net, torch.rand(1, 1, 8, 8)).values.shape
    torch.Size([1, 1, 6, 6])
    """
    if channels is not None and channels < 1:
        raise ArgumentError(f"score_cam needs channels >= 1 or None for all, got {channels}")
    settings = {"layer": layer, "channels": channels, "progress": progress}
    return attribute("score_cam", score_cam_map, model, x, target, of, settings=settings, score=score, seed=seed)


def cam_map(graph: G.Graph, x: Tensor, goal: Objective) -> Found:
    """Compute the class activation map on a graph."""
    node = pooled_node(graph)
    maps, adjoints, target, name = maps_of(graph, x, goal, node)
    flat = adjoints.flatten(2)  # (N, C, places)
    if (flat - flat[..., :1]).abs().max() > 1e-4 * flat.abs().max():
        raise ArgumentError(f"cam needs the mean over all places of {node.name!r}, but they count differently here")
    weights = over_places(adjoints, torch.sum)  # (N, C, 1, 1), what the linear layers multiply a channel's mean with
    return Found((maps * weights).sum(1, keepdim=True), target, layer=name)


def score_cam_map(
    graph: G.Graph,
    x: Tensor,
    goal: Objective,
    layer: "str | Node | None" = None,
    channels: int | None = None,
    progress: bool = True,
) -> Found:
    """Compute Score-CAM on a graph."""
    node, layout = map_node(graph, layer)
    goal = settled(graph, x, goal)
    maps = layout.as_map(outputs(graph.derived(("cut", node), lambda: G.cut(graph, node)), x))  # (N, C, h, w)
    if channels is not None and channels < maps.shape[1]:
        chosen = maps.flatten(2).std(2).topk(channels).indices  # (N, k), each example its own
        maps = maps.gather(1, chosen.view(*chosen.shape, *[1] * (maps.dim() - 2)).expand(-1, -1, *maps.shape[2:]))
    found = []
    for chunk in track(list(repeats(graph, x, maps.shape[1])), "looking through channels", progress):
        seen = [_unit(upsample(maps[:, k : k + 1], tuple(x.shape[2:]))) * x for k in chunk]
        found.append(numbers(graph, torch.cat(seen), goal, len(chunk)))  # (k, N)
    weights = torch.cat(found).T.softmax(1).view(*maps.shape[:2], *[1] * (maps.dim() - 2))  # (N, C, 1, 1)
    return Found((maps * weights).sum(1, keepdim=True).relu(), goal.target, layer=node.name)


def pooled_node(graph: G.Graph) -> "Node":
    """The map that is averaged over all its places and then only passes linear layers.

    Raises:
        ArgumentError: the model does not end like that.
    """
    maps, node, pooled = set(spatial_nodes(graph)), graph.outputs[0], False
    while node not in maps:
        pooled = pooled or node.op_name in POOLS
        if node.op_name not in (*POOLS, *PLAIN) and not (pooled and node.op_name in CONVOLUTIONS):
            break
        node = next(source for source in node.inputs if source.kind != "parameter")
    if node in maps and pooled:
        return node
    raise ArgumentError(
        "cam needs a model that ends in global average pooling and linear layers, but on the way back from the output "
        f"stands {node.name!r} ({node.op_name}); use grad_cam, which any model with maps has"
    )


def _unit(maps: Float[Tensor, "n 1 ..."]) -> Float[Tensor, "n 1 ..."]:
    """Each map stretched to [0, 1]; a constant one becomes 0."""
    low, high = (edge.view(-1, *[1] * (maps.dim() - 1)) for edge in (maps.flatten(1).amin(1), maps.flatten(1).amax(1)))
    return (maps - low) / torch.where(high > low, high - low, 1)
