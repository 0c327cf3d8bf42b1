"""Attributions to the units of a layer, and of one unit to the input."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway import graph as G
from cutaway.errors import ArgumentError, nearest
from cutaway.explain import averages, gradients, propagation, rectifiers
from cutaway.explain.attribution import Attribution
from cutaway.explain.averages import Baseline, reference
from cutaway.explain.frame import (
    Compute,
    Found,
    at_node,
    attribute,
    explained,
    missed,
    outputs,
    repeated,
    repeats,
    settled,
)
from cutaway.explain.layers import deepest_map, spatial_nodes
from cutaway.explain.layouts import Layout, layouts
from cutaway.explain.objective import Objective, Of, Target

if TYPE_CHECKING:
    from cutaway.graph import Node

NEURON: dict[str, Compute] = {
    "gradient": gradients.gradient_map,
    "gradient_x_input": gradients.gradient_x_input_map,
    "smooth_grad": averages.smooth_grad_map,
    "integrated_gradients": averages.integrated_gradients_map,
    "guided_backprop": rectifiers.guided_map,
    "deconvnet": rectifiers.deconvnet_map,
    "lrp": propagation.lrp_map,
    "deep_lift": propagation.deep_lift_map,
}


def layer_attribution(
    model: nn.Module | Callable,
    x: Float[Tensor, "n ..."],
    target: Target = None,
    *,
    layer: "str | Node | None" = None,
    by: str = "gradient",
    of: Of = "logit",
    baseline: Baseline = None,
    steps: int = 20,
    score: bool = True,
    seed: int = 0,
) -> Attribution:
    """Share the explained number out among the units of a layer: which of them made this prediction.

    Args:
        model, x, target, of, score, seed: as for `gradient`.
        layer: a node or module by name, or a node; None for the deepest map, or else for what the last layer reads.
        by: "gradient" (activation times adjoint), "conductance" (the adjoint integrated over the activation's way from
            a baseline), "deep_lift" or "lrp".
        baseline: where conductance and DeepLIFT start, as for `integrated_gradients`.
        steps: how many steps conductance takes.

    Returns:
        values shaped like the layer's map (N, C, h, w) or its units (N, C); `.channels()` adds the places up. `.gap` is
        the relative error of their sum, except for "gradient"; it is large where other paths lead past the layer.

    Raises:
        ArgumentError: the layer is not real-valued, steps < 1, and as for `gradient`.
        LookupFailure: no node has this name, or `by` is unknown.

    Source: K. Dhamdhere, M. Sundararajan, Q. Yan, How Important Is a Neuron?, 2018, eq. 3 (conductance).

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2, bias=False))
    >>> x = torch.ones(1, 3)
    >>> bool(torch.isclose(layer_attribution(net, x, 1, layer="1").values.sum(), net(x)[0, 1], atol=1e-6))
    True
    """
    if by not in LAYER:
        raise nearest(by, LAYER, "way to attribute to a layer")
    if steps < 1:
        raise ArgumentError(f"layer_attribution needs steps >= 1, got {steps}")
    settings = {"layer": layer, "by": by, "baseline": baseline, "steps": steps}
    return attribute("layer_attribution", layer_map, model, x, target, of, settings=settings, score=score, seed=seed)


def neuron_attribution(
    model: nn.Module | Callable,
    x: Float[Tensor, "n ..."],
    target: Target = None,
    *,
    layer: "str | Node | None" = None,
    unit: int | list[int] | None = None,
    by: str = "gradient",
    of: Of = "logit",
    score: bool = True,
    seed: int = 0,
) -> Attribution:
    """Explain one unit of a layer instead of the output: what in the input it answers to.

    Args:
        model, x, score, seed: as for `gradient`.
        layer: as for `layer_attribution`.
        unit: the unit (channel), one for all examples or one for each; None for the one that counts most for the target
            by `layer_attribution`.
        by: a method that explains by the input: "gradient", "guided_backprop", "integrated_gradients", "deep_lift", …
        target, of: for which prediction the unit is chosen where none is named.

    Returns:
        values shaped like x, for the unit's mean over its places; `.settings["unit"]` says which.

    Raises:
        ArgumentError: the layer has no such unit, and as for `gradient`.
        LookupFailure: no node has this name, or `by` is unknown.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> found = neuron_attribution(net, torch.ones(1, 3), layer="0", unit=2)
    >>> bool(torch.equal(found.values[0], net[0].weight[2]))
    True
    """
    if by not in NEURON:
        raise nearest(by, NEURON, "method that explains by the input")
    settings = {"layer": layer, "unit": unit, "by": by}
    return attribute("neuron_attribution", neuron_map, model, x, target, of, settings=settings, score=score, seed=seed)


def layer_map(
    graph: G.Graph,
    x: Tensor,
    goal: Objective,
    layer: "str | Node | None" = None,
    by: str = "gradient",
    baseline: Baseline = None,
    steps: int = 20,
) -> Found:
    """Attribute to a layer on a graph."""
    node, layout = _units_node(graph, layer)
    values, promised, target = LAYER[by](graph, x, goal, node, reference(x, baseline), steps)
    gap = None if promised is None else missed(values, promised)
    return Found(layout.as_map(values) if layout else values, target, layer=node.name, gap=gap)


def neuron_map(
    graph: G.Graph,
    x: Tensor,
    goal: Objective,
    layer: "str | Node | None" = None,
    unit: int | list[int] | None = None,
    by: str = "gradient",
) -> Found:
    """Explain a unit on a graph."""
    node, layout = _units_node(graph, layer)
    chosen = layer_map(graph, x, goal, node)
    count = chosen.values.shape[1]
    if unit is None:
        units = chosen.values.reshape(len(x), count, -1).sum(2).argmax(1)
    else:
        units = torch.as_tensor(unit, device=x.device).expand(len(x))
    if int(units.min()) < 0 or int(units.max()) >= count:
        raise ArgumentError(f"unit={unit} is none of layer {node.name!r}, which has the units 0 … {count - 1}")

    def mean(z: Tensor) -> Tensor:
        maps = layout.as_map(z) if layout else z
        asked = units.repeat(len(z) // len(units))[:, None]
        return maps.reshape(*maps.shape[:2], -1).mean(2).gather(1, asked)[:, 0]

    found = NEURON[by](graph.derived(("cut", node), lambda: G.cut(graph, node)), x, Objective(mean, None))
    return Found(found.values, chosen.target, node.name, found.gap, {"unit": units.tolist()})


Shares = tuple[Tensor, Tensor | None, Tensor | None]  # values at the node, the sum they should have, classes


def _by_gradient(graph: G.Graph, x: Tensor, goal: Objective, node: "Node", start: Tensor, steps: int) -> Shares:
    value, adjoint, output = at_node(graph, x, goal, node)
    return value * adjoint, None, explained(goal, output)


def _by_lrp(graph: G.Graph, x: Tensor, goal: Objective, node: "Node", start: Tensor, steps: int) -> Shares:
    output, found, shares = propagation.relevance(graph, x, goal, "epsilon", wrt=node.name)
    return found, shares, explained(goal, output)


def _by_deep_lift(graph: G.Graph, x: Tensor, goal: Objective, node: "Node", start: Tensor, steps: int) -> Shares:
    goal = settled(graph, x, goal)
    multipliers, moved, change = propagation.multipliers(graph, x, start, goal, node)
    return multipliers * moved, change, goal.target


def _by_conductance(graph: G.Graph, x: Tensor, goal: Objective, node: "Node", start: Tensor, steps: int) -> Shares:
    """Σ mean of the adjoints at both ends of a step, times the activation's change over it."""
    goal = settled(graph, x, goal)
    name = node.name
    program = graph.optimized(keep=[name]).gradient(wrt=[name], values=[name])
    total, last = torch.zeros(()), None
    for chunk in repeats(graph, x, steps + 1):
        points = torch.cat([start + (x - start) * (k / steps) for k in chunk])
        values, adjoints = program.evaluate(points, seed=repeated(goal, len(chunk)).adjoint)
        parts = (each.unflatten(0, (len(chunk), len(x))) for each in (values[name], adjoints[name]))
        for value, adjoint in zip(*parts, strict=True):
            if last is not None:
                total = total + (value - last[0]) * (adjoint + last[1]) / 2
            last = value, adjoint
    return total, goal.value(outputs(graph, x)) - goal.value(outputs(graph, start)), goal.target


LAYER: dict[str, Callable[..., Shares]] = {
    "gradient": _by_gradient,
    "conductance": _by_conductance,
    "deep_lift": _by_deep_lift,
    "lrp": _by_lrp,
}


def _units_node(graph: G.Graph, layer: "str | Node | None") -> tuple["Node", Layout | None]:
    """The node a user means, and how its value is laid out if it keeps places."""
    if layer is not None:
        node = graph[layer]
    elif spatial_nodes(graph):
        node = deepest_map(graph)
    else:
        node = next((source for source in graph.outputs[0].inputs if source.op is not None), graph.inputs[0])
    if node.shape is None or len(node.shape) < 2 or not node.differentiable:
        raise ArgumentError(f"layer {layer!r} holds shape {node.shape}, no units (N, C, …) of real numbers")
    return node, layouts(graph).get(node)
