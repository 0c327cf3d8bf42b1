"""Attributions that share the explained number out, layer by layer: LRP and DeepLIFT.

Both are the engine's reverse pass with another rule for each operation, so that functional and reused layers, residual
sums and attention are served like any other node.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway import graph as G
from cutaway.errors import ArgumentError, nearest
from cutaway.explain.attribution import Attribution
from cutaway.explain.averages import Baseline, quadrature, reference
from cutaway.explain.frame import Found, attribute, explained, missed, settled
from cutaway.explain.layouts import CONVOLUTIONS
from cutaway.explain.objective import Objective, Of, Target

LAYERS = CONVOLUTIONS | {"linear"}
# what stands before the first layer is preprocessing, as in `nets.normalized`
AFFINE = ("add", "sub", "mul", "div", "to_channels_last")
RULES = ("composite", "epsilon", "alpha_beta")


def lrp(
    model: nn.Module | Callable,
    x: Float[Tensor, "n ..."],
    target: Target = None,
    *,
    of: Of = "logit",
    rule: str | None = None,
    epsilon: float = 1e-6,
    alpha: float = 2.0,
    beta: float = 1.0,
    score: bool = True,
    seed: int = 0,
) -> Attribution:
    """Share the explained number out among the inputs, layer after layer, in proportion to what each contributes.

    Args:
        model, x, target, of, score, seed: as for `gradient`.
        rule: "epsilon" everywhere; "alpha_beta" in layers with weights; or "composite": a flat rule in the first layer,
            positive contributions only in further convolutions, ε elsewhere. None takes "composite" for images and
            signals that convolutions read, "epsilon" for anything else.
        epsilon: keeps quotients finite; larger values absorb weak contributions.
        alpha, beta: weights of positive and negative contributions, with alpha − beta = 1; for "alpha_beta" only.

    Returns:
        values shaped like x; `.gap` is how much of the explained number they miss, relative: what biases and ε took.
        Batch norms count as part of their convolution, and standardisation before the first layer takes nothing.

    Raises:
        ArgumentError: epsilon <= 0, alpha − beta is not 1, and as for `gradient`.
        LookupFailure: the rule is unknown.

    Source: S. Bach et al., On Pixel-wise Explanations for Non-linear Classifier Decisions by Layer-wise Relevance
    Propagation, 2015, eq. 58 and 60; M. Kohlbrenner et al., Towards Best Practice in Explaining Neural Network
    Decisions with LRP, 2020, section III (composite).

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    >>> x = torch.ones(1, 2)
    >>> bool(torch.isclose(lrp(net, x, target=1).values.sum(), net(x)[0, 1], atol=1e-3))
    True
    """
    if rule is not None and rule not in RULES:
        raise nearest(rule, RULES, "LRP rule")
    if epsilon <= 0:
        raise ArgumentError(f"lrp divides by values kept away from zero by epsilon > 0, got {epsilon}")
    settings = {"rule": rule, "epsilon": epsilon, "alpha": alpha, "beta": beta}
    return attribute("lrp", lrp_map, model, x, target, of, settings=settings, score=score, seed=seed)


def deep_lift(
    model: nn.Module | Callable,
    x: Float[Tensor, "n ..."],
    target: Target = None,
    *,
    of: Of = "logit",
    baseline: Baseline = None,
    score: bool = True,
    seed: int = 0,
) -> Attribution:
    """Share out the change of the explained number between a baseline and the input, by the rescale rule.

    Args:
        model, x, target, of, score, seed: as for `gradient`.
        baseline: what the input is compared with: a number, a tensor that broadcasts to x, or None for 0 (black).

    Returns:
        values shaped like x that sum to f(x) − f(baseline); `.gap` holds the relative error of that sum.

    Raises:
        ArgumentError: a baseline that does not broadcast, and as for `gradient`.

    Source: A. Shrikumar, P. Greenside, A. Kundaje, Learning Important Features Through Propagating Activation
    Differences, 2017, section 3.5.1.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    >>> x = torch.ones(1, 2)
    >>> change = (net(x) - net(torch.zeros(1, 2)))[0, 1]
    >>> bool(torch.isclose(deep_lift(net, x, target=1).values.sum(), change, atol=1e-6))
    True
    """
    settings = {"baseline": baseline}
    return attribute("deep_lift", deep_lift_map, model, x, target, of, settings=settings, score=score, seed=seed)


def lrp_map(
    graph: G.Graph,
    x: Tensor,
    goal: Objective,
    rule: str | None = None,
    epsilon: float = 1e-6,
    alpha: float = 2.0,
    beta: float = 1.0,
) -> Found:
    """Compute LRP on a graph, with the part of the explained number that did not reach the input."""
    rule = rule or _fitting(graph)
    output, found, shares = relevance(graph, x, goal, rule, epsilon, alpha, beta)
    return Found(found, explained(goal, output), gap=missed(found, shares), chosen={"rule": rule})


def relevance(
    graph: G.Graph,
    x: Tensor,
    goal: Objective,
    rule: str,
    epsilon: float = 1e-6,
    alpha: float = 2.0,
    beta: float = 1.0,
    wrt: str | None = None,
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n ..."], Float[Tensor, " n"]]:
    """The outputs, the relevance of a node (by default the input), and how much relevance there was to share out."""
    folded = graph.optimized(G.UNFUSED, keep=[wrt] if wrt else ())
    shares = []

    def seed(z: Tensor) -> Tensor:
        shares.append(z * goal.adjoint(z))  # (N, K)
        return shares[-1]

    rules = relevance_rules(folded, graph, rule, epsilon, alpha, beta)
    program = folded.gradient(wrt=None if wrt is None else [wrt], rules=rules, values=["output"])
    values, adjoints = program.evaluate(x, seed=seed)
    return values["output"], next(iter(adjoints.values())), shares[0].flatten(1).sum(1)


def relevance_rules(
    folded: G.Graph, graph: G.Graph, rule: str, epsilon: float, alpha: float, beta: float
) -> dict[Any, Any]:
    """The rule set for a graph, made once: programs are kept by the identity of their rules."""
    key = ("lrp", rule, epsilon, alpha, beta)
    if key not in graph.programs:
        made = {
            "composite": lambda: G.rules.lrp_composite(folded, epsilon),
            "epsilon": lambda: G.rules.lrp_epsilon(epsilon),
            "alpha_beta": lambda: G.rules.lrp_alpha_beta(alpha, beta, epsilon),
        }[rule]()
        graph.programs[key] = made | dict.fromkeys(preprocessing(folded), _whole)
    return graph.programs[key]


def preprocessing(graph: G.Graph) -> list[str]:
    """The sums and products with constants that an input passes before the first layer with weights.

    >>> net = lambda x: torch.nn.functional.linear((x - 0.5) / 0.25, torch.ones(2, 3)) * 2
    >>> preprocessing(G.capture(net, torch.zeros(2, 3)))
    ['sub', 'div']
    """
    found, moving = [], set(graph.inputs[:1])
    for node in graph.nodes:
        sources = [source for source in node.inputs if source in moving]
        if node.op_name in AFFINE and len(sources) == 1 and node.args[0] in moving:
            found.append(node.name)
            moving.add(node)
    return found


def deep_lift_map(graph: G.Graph, x: Tensor, goal: Objective, baseline: Baseline = None) -> Found:
    """Compute DeepLIFT on a graph, with the completeness error."""
    goal, start = settled(graph, x, goal), reference(x, baseline)
    found, _, change = multipliers(graph, x, start, goal, graph.inputs[0])
    values = found * (x - start)
    return Found(values, goal.target, gap=missed(values, change))


def multipliers(
    graph: G.Graph, x: Tensor, start: Tensor, goal: Objective, node: G.Node
) -> tuple[Float[Tensor, "n ..."], Float[Tensor, "n ..."], Float[Tensor, " n"]]:
    """A node's multipliers, how far its values are from those at the baseline, and the explained number's change."""
    program = graph.optimized(G.UNFUSED, keep=[node.name]).gradient(
        wrt=[node.name], rules=G.rules.deep_lift_rescale, values=[node.name]
    )
    shared = start.stride(0) == 0 and program.built.one_serves_all  # a baseline for all takes one pass for all
    values, adjoints = program.evaluate(
        x, seed=lambda z, z0: _between(z, z0.expand_as(z), goal), reference=start[:1] if shared else start
    )
    end, begin = values["output"], values["output", "reference"].expand_as(values["output"])
    moved = values[node.name] - values[node.name, "reference"]
    return adjoints[node.name], moved, goal.value(end) - goal.value(begin)


def _between(end: Float[Tensor, "n k"], start: Float[Tensor, "n k"], goal: Objective) -> Float[Tensor, "n k"]:
    """The objective's mean derivative on the line from the baseline's outputs to the input's."""
    if goal.of == "logit":
        return goal.adjoint(end)
    places, weights = quadrature(20)
    points = (start + (end - start) * float(place) for place in places)
    return sum((float(w) * goal.adjoint(point) for w, point in zip(weights, points)), torch.zeros_like(end))


def _fitting(graph: G.Graph) -> str:
    """Which LRP rule to take by default."""
    return "composite" if any(node.op_name in CONVOLUTIONS for node in graph.nodes) else "epsilon"


def _whole(grad: Tensor) -> Tensor:
    """Relevance passes on as it is."""
    return grad
