"""The frame around every method: capture the model, compute the map, test it against a randomised copy."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from cutaway import graph as G
from cutaway.errors import ArgumentError
from cutaway.explain.attribution import Attribution
from cutaway.explain.objective import Objective, Of, Target, objective
from cutaway.explain.picture import spelled
from cutaway.explain.randomize import control
from cutaway.explain.similarity import rank_correlation

PASSES = 0.5  # a method passes the quick sanity test when its mean score is at least this
FEW = 16  # below so many places, rank correlations of 0.5 are common between random maps
GAP = 0.05  # relative completeness error above which a map is reported
ADVICE = {  # what to do about values that miss their sum
    "integrated_gradients": "take more steps or set a tolerance",
    "lrp": "biases took the rest, or units without any contribution to share their relevance among",
    "layer_attribution": "other paths lead past the layer, biases took the rest, or conductance needs more steps",
}
CHUNK = 400_000  # input numbers in one pass: larger batches do not run faster per example


@dataclass(frozen=True)
class Found:
    """What a method computes on a graph.

    Attributes:
        values: the map (N, …).
        target: the classes explained (N,); None where a function of the outputs is explained.
        layer: the name of the node whose map it is.
        gap: relative completeness error (N,), for methods that promise a sum.
        chosen: settings the method chose itself (a number of steps), which replace those it was given.
    """

    values: Float[Tensor, "n ..."]
    target: Int[Tensor, " n"] | None
    layer: str | None = None
    gap: Float[Tensor, " n"] | None = None
    chosen: Mapping[str, Any] = field(default_factory=dict)


Compute = Callable[..., Found]  # (graph, x, goal, **settings) -> Found


def attribute(
    method: str,
    compute: Compute,
    model: nn.Module | Callable,
    x: Float[Tensor, "n ..."],
    target: Target,
    of: Of,
    *,
    settings: Mapping[str, Any],
    score: bool,
    seed: int = 0,
) -> Attribution:
    """Explain a model by one method and score the result.

    Args:
        method: the method's name.
        compute: the method.
        model: a module or a function of one tensor.
        x: inputs (N, …), real-valued.
        target, of: what is explained, see `cutaway.explain.objective`.
        settings: the method's arguments, kept in the result.
        score: whether to run the method once more on a randomised copy.
        seed: fixes the copy.

    Raises:
        ArgumentError: x is not a batch of real numbers, or the targets do not fit.
    """
    x = checked(x)
    goal = objective(x, target, of)
    graph = G.capture(model, x)
    found = compute(graph, x, goal, **settings)
    used = {**settings, **found.chosen}
    scores = sanity(compute, graph, x, goal, found, used, seed) if score else None
    return Attribution(
        values=found.values,
        method=method,
        target=found.target,
        of=goal.of,
        layer=found.layer,
        scores=scores,
        gap=found.gap,
        settings=used,
        seed=seed,
        warning=" ".join(warnings(method, found, scores, settings.get("tolerance") or GAP)),
    )


def sanity(
    compute: Compute,
    graph: G.Graph,
    x: Float[Tensor, "n ..."],
    goal: Objective,
    found: Found,
    settings: Mapping[str, Any],
    seed: int,
) -> Float[Tensor, " n"] | None:
    """Score each map: 1 − |rank correlation| with the same method's map for a control; None without parameters.

    The control is a copy of the model whose upper half (the layers nearer the output) has parameters drawn anew; it
    explains the class it predicts itself, since its classes mean nothing. Values are compared with their sign.

    Source: J. Adebayo et al., Sanity Checks for Saliency Maps, 2018, section 3 (cascading randomisation, halfway down).
    """
    if not graph.parameters:
        return None
    random = compute(on(graph, control(graph, seed)), x, Objective(goal.of, None), **settings)
    scores = 1 - rank_correlation(found.values, random.values).abs()
    return torch.where(_constant(found.values) | _constant(random.values), torch.nan, scores)


def on(graph: G.Graph, module: nn.Module) -> G.Graph:
    """The same graph, reading its parameters and buffers from another module of the same architecture."""
    twin = copy.copy(graph)
    twin.module = module
    return twin


def warnings(method: str, found: Found, scores: Float[Tensor, " n"] | None, gap: float) -> Iterator[str]:
    """What to beware of in a map, in sentences; `gap` is the largest completeness error that goes without one."""
    name = spelled(method)
    places = found.values[0].numel()
    mean = 1.0 if scores is None or scores.isnan().all() else float(scores.nanmean())
    if mean < PASSES and places >= FEW:
        yield (
            f"{name} draws much the same map when the upper half of the model is random (rank correlation "
            f"{1 - mean:.2f}): it shows structure of the input more than what the model has learned."
        )
    elif mean < PASSES:
        yield f"{places} places are too few for a sanity score: maps of random numbers are as alike as these."
    empty = (found.values == 0).flatten(1).all(1).nonzero()[:, 0].tolist()
    if empty:
        yield f"the map is zero everywhere for {_examples(empty)}: it says nothing about the target."
    broken = (~torch.isfinite(found.values)).flatten(1).any(1).nonzero()[:, 0].tolist()
    if broken:
        yield f"the map holds NaN or infinity for {_examples(broken)}."
    if found.gap is not None and float(found.gap.max()) > gap:
        advice = ADVICE.get(method, "some operation is not shared out completely")
        yield f"the values miss the sum they should have by up to {float(found.gap.max()):.0%}: {advice}."


def outputs(graph: G.Graph, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
    """The model's first output, in evaluation mode."""
    return next(leaf for leaf in pytree.tree_leaves(graph(x)) if isinstance(leaf, Tensor))


def numbers(graph: G.Graph, x: Float[Tensor, "m ..."], goal: Objective, times: int) -> Float[Tensor, "times n"]:
    """The explained number of `times` variants of a batch, one whole batch after the other in x; forward only."""
    return repeated(goal, times).value(outputs(graph.optimized(), x)).unflatten(0, (times, -1))


def at_node(
    graph: G.Graph, x: Float[Tensor, "n ..."], goal: Objective, node: G.Node
) -> tuple[Float[Tensor, "n ..."], Float[Tensor, "n ..."], Float[Tensor, "n ..."]]:
    """A node's value, the derivative of the explained number with respect to it, and the model's output."""
    program = graph.optimized(keep=[node.name]).gradient(wrt=[node.name], values=[node.name])
    values, adjoints = program.evaluate(x, seed=goal.adjoint)
    return values[node.name], adjoints[node.name], values["output"]


def missed(values: Float[Tensor, "n ..."], promised: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The completeness error: how far each map's sum is from the promised one, relative to that.

    >>> missed(torch.tensor([[1.0, 2.0]]), torch.tensor([4.0]))
    tensor([0.2500])
    """
    return (values.flatten(1).sum(1) - promised).abs() / promised.abs().clamp(min=1e-12)


def settled(graph: G.Graph, x: Float[Tensor, "n ..."], goal: Objective) -> Objective:
    """The objective with its target classes fixed, by one forward pass where none were given."""
    if callable(goal.of) or goal.target is not None:
        return goal
    return Objective(goal.of, goal.classes(outputs(graph, x)))


def explained(goal: Objective, output: Float[Tensor, "n ..."]) -> Int[Tensor, " n"] | None:
    """The classes an objective explains, given the outputs."""
    return None if callable(goal.of) else goal.classes(output)


def repeats(graph: G.Graph, x: Float[Tensor, "n ..."], total: int) -> Iterator[range]:
    """Cut `total` variants of a batch into ranges that fit into one pass each."""
    at_once = max(1, CHUNK // max(x.numel(), 1)) if graph.dynamic else 1
    for start in range(0, total, at_once):
        yield range(start, min(start + at_once, total))


def repeated(goal: Objective, times: int) -> Objective:
    """The objective for a batch that holds every example `times` times, one whole batch after the other."""
    return Objective(goal.of, None if goal.target is None else goal.target.repeat(times))


def checked(x: Any) -> Float[Tensor, "n ..."]:
    """The inputs, detached from any graph they came from; refused if no map can be made for them."""
    if not isinstance(x, Tensor):
        raise ArgumentError(f"x must be a tensor (N, …), got {type(x).__name__}")
    if x.dim() < 2 or not len(x):
        raise ArgumentError(f"x must be a batch (N, …) with at least one example, got shape {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ArgumentError(
            f"x holds {x.dtype}: a gradient needs real numbers; explain a function of the embeddings instead of tokens"
        )
    if not torch.isfinite(x).all():
        place = tuple((~torch.isfinite(x)).nonzero()[0].tolist())
        raise ArgumentError(f"x holds {x[place].item()} at index {place}")
    return x.detach()


def _constant(values: Float[Tensor, "n ..."]) -> Tensor:
    flat = values.flatten(1)
    return (flat == flat[:, :1]).all(1).cpu()


def _examples(indices: list[int]) -> str:
    listed = ", ".join(map(str, indices[:5])) + (", …" if len(indices) > 5 else "")
    return f"example{'s' if len(indices) > 1 else ''} {listed}"
