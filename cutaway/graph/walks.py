"""Walks over a graph: Jacobians, sums over paths, the linear algebra of an MLP, finite-difference checks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cutaway.errors import ArgumentError
from cutaway.graph.backward import Reverse, adjoint_name, ancestors, choose, shape_line
from cutaway.graph.emit import interpret
from cutaway.graph.forward import forward_mode
from cutaway.graph.nodes import Node
from cutaway.graph.trace import Trace
from cutaway.rng import generator

if TYPE_CHECKING:
    from cutaway.graph.graph import Graph


def pullback(trace: Trace, of: Node, wrt: Node, nodes: Sequence[Node]) -> Callable[[Tensor], Tensor]:
    """The function that sends an adjoint of `of` back to `wrt` through the given nodes, at the values of a trace."""
    choice = choose(nodes, [of], [wrt], None)
    walk = Reverse(choice, [of], [wrt])
    walk.walk(nodes)
    known = dict(trace.values)
    interpret([shape_line(node) for node in walk.shapes], known)

    def pull(seed: Tensor) -> Tensor:
        if wrt not in walk.ready:
            return torch.zeros_like(trace.values[wrt.identifier])
        return interpret(walk.lines, known | {"seed_0": seed})[adjoint_name(wrt)]

    return pull


def _each(function: Callable[[Tensor], Tensor], seeds: Tensor, chunk: int) -> Tensor:
    """Apply a linear function to every seed: vectorised where its operations allow it, one by one elsewhere."""
    with torch.no_grad():
        try:
            return torch.vmap(function, chunk_size=chunk)(seeds)
        except RuntimeError:
            return torch.stack([function(seed) for seed in seeds])


def jacobian(
    graph: "Graph", of: Node, wrt: Node, inputs: tuple, mode: str = "auto", chunk: int = 64, **keywords: Any
) -> Tensor:
    """The Jacobian of one node by another: how each entry of `of` moves when an entry of `wrt` moves.

    Args:
        graph: the graph both stand in.
        of, wrt: the nodes.
        inputs, keywords: the model's inputs.
        mode: "reverse" (one pass per entry of `of`), "forward" (one per entry of `wrt`) or "auto": the cheaper.
        chunk: how many passes run at once.

    Returns:
        One Jacobian per example, `(N, *of, *wrt)`, when both nodes have the batch in dimension 0 (the sum over examples
        is taken as the examples do not mix); otherwise `(*of, *wrt)`.
    """
    trace = graph.run(*inputs, **keywords)
    at, source = trace.values[of.identifier], trace.values[wrt.identifier]
    batched = (of.shape or ())[:1] == ("N",) and (wrt.shape or ())[:1] == ("N",)
    rows, columns = (at[0].numel(), source[0].numel()) if batched else (at.numel(), source.numel())
    if mode == "auto":
        mode = "reverse" if rows <= columns else "forward"
    if mode not in ("reverse", "forward"):
        raise ArgumentError(f"mode is 'auto', 'reverse' or 'forward', but got {mode!r}")
    if mode == "reverse":
        pull = pullback(trace, of, wrt, graph.nodes[: of.index + 1])
        found = _each(pull, _basis(at, batched), chunk)  # (rows, N, *wrt) or (rows, *wrt)
        return (
            found.transpose(0, 1).reshape(*at.shape, *source.shape[1:])
            if batched
            else found.reshape(*at.shape, *source.shape)
        )
    program = forward_mode(graph, of, [wrt])
    found = _each(lambda tangent: program(*inputs, tangents=tangent, **keywords)[1], _basis(source, batched), chunk)
    if batched:
        return found.movedim(0, -1).reshape(*at.shape, *source.shape[1:])  # (columns, N, *of) → (N, *of, columns)
    return found.movedim(0, -1).reshape(*at.shape, *source.shape)


def _basis(value: Tensor, batched: bool) -> Tensor:
    """Unit vectors shaped like a value: one per entry, or one per entry of an example, the same for all examples."""
    example = value[0] if batched else value
    eye = torch.eye(example.numel(), dtype=value.dtype, device=value.device).reshape(-1, *example.shape)
    return eye.unsqueeze(1).expand(-1, *value.shape) if batched else eye


@dataclass(frozen=True)
class Path:
    """One path through the graph with the derivative along each of its edges.

    Attributes:
        nodes: from the source to the target.
        factors: the local Jacobian of each edge as a matrix (entries of the later node × entries of the earlier one);
            none where a seed was pulled back.
        product: their product, the path's contribution; with a seed, its share of the source's adjoint.
    """

    nodes: tuple[Node, ...]
    factors: tuple[Tensor, ...]
    product: Tensor

    def __str__(self) -> str:
        return " → ".join(node.name for node in self.nodes)


@dataclass(frozen=True)
class Paths:
    """The chain rule written out: all paths between two nodes; `total` is the sum of their products."""

    paths: tuple[Path, ...]
    total: Tensor

    def table(self) -> list[dict[str, Any]]:
        """One row per path: its nodes, its edges' derivatives, its product."""
        return [
            {"path": str(path), "factors": [f.tolist() for f in path.factors], "product": path.product.tolist()}
            for path in self.paths
        ]


def sources_of(node: Node) -> list[Node]:
    """The nodes an edge leads from; the tuple of an operation with several outputs is passed over."""
    return [s for source in node.inputs for s in (source.inputs if source.parts is not None else [source])]


def path_nodes(source: Node, target: Node, limit: int = 10_000) -> list[tuple[Node, ...]]:
    """Every path from one node to another, as tuples of nodes.

    Raises:
        ArgumentError: there are more than `limit`; the message says how many.
    """
    reach = ancestors([target])
    counts: dict[Node, int] = {source: 1}
    order = sorted((node for node in reach if node.index > source.index), key=lambda node: node.index)
    for node in order:
        if node.parts is None:
            counts[node] = sum(counts.get(before, 0) for before in sources_of(node))
    if counts.get(target, 0) > limit:
        raise ArgumentError(
            f"there are {counts[target]} paths from {source.name!r} to {target.name!r} and at most {limit} are listed; "
            "choose nodes that are closer"
        )
    found: list[tuple[Node, ...]] = []

    def extend(tail: tuple[Node, ...]) -> None:
        if tail[0] is source:
            found.append(tail)
            return
        for before in sources_of(tail[0]):
            if counts.get(before, 0):
                extend((before, *tail))

    if counts.get(target, 0):
        extend((target,))
    return found


def local_jacobian(trace: Trace, node: Node, source: Node) -> Tensor:
    """The derivative along one edge: of a node by one of its direct inputs, all others held, as a matrix."""
    value = trace.values[node.identifier]
    found = _each(pullback(trace, node, source, _itself(node)), _basis(value, False), 256)
    return found.reshape(value.numel(), -1)


def _itself(node: Node) -> list[Node]:
    """The operation of a node; before it the one with several outputs it takes a part of."""
    return [*(n for n in node.inputs if n.parts is not None), node]


def paths(
    graph: "Graph",
    source: Node,
    target: Node,
    inputs: tuple,
    limit: int = 1_000,
    seed: Tensor | Callable[[Tensor], Tensor] | None = None,
    **keywords: Any,
) -> Paths:
    """The sum over all paths of the product of the derivatives along their edges.

    Args:
        graph: the graph both stand in.
        source, target: where the paths begin and end.
        inputs, keywords: the model's inputs.
        limit: refuse to list more paths than this.
        seed: an adjoint of the target (or a function of its value). With one, no matrices are made: it is pulled back
            along each path, so that networks of any size can be read; a product is then shaped like the source, and
            the total is the source's adjoint.
    """
    trace = graph.run(*inputs, **keywords)
    found = path_nodes(source, target, limit)
    value, start = trace.values[target.identifier], trace.values[source.identifier]
    if seed is not None:
        given = seed if isinstance(seed, Tensor) else seed(value)
        listed = _pulled(trace, found, given)
        return Paths(tuple(listed), sum((path.product for path in listed), torch.zeros_like(start)))
    edges: dict[tuple[Node, Node], Tensor] = {}
    listed = []
    for nodes in found:
        factors = []
        for before, after in pairwise(nodes):
            if (before, after) not in edges:
                edges[before, after] = local_jacobian(trace, after, before)
            factors.append(edges[before, after])
        product = factors[0] if factors else torch.eye(start.numel())
        for factor in factors[1:]:
            product = factor @ product
        listed.append(Path(nodes, tuple(factors), product))
    zero = torch.zeros((value.numel(), start.numel()), dtype=start.dtype)
    return Paths(tuple(listed), sum((path.product for path in listed), zero))


def _pulled(trace: Trace, found: Sequence[tuple[Node, ...]], seed: Tensor) -> list[Path]:
    """Pull a seed back along each path; what two neighbours in the list share at the target's end is done once."""
    edges: dict[tuple[Node, Node], Callable[[Tensor], Tensor]] = {}
    stack: list[tuple[Node, Tensor]] = []  # from the target down
    listed = []
    with torch.no_grad():
        for nodes in found:
            backward = nodes[::-1]
            shared = next(
                (k for k, ((node, _), mine) in enumerate(zip(stack, backward, strict=False)) if node is not mine),
                min(len(stack), len(backward)),
            )
            del stack[shared:]
            for place in range(shared, len(backward)):
                edge = (backward[place - 1], backward[place])
                if place and edge not in edges:
                    edges[edge] = pullback(trace, *edge, _itself(edge[0]))
                stack.append((backward[place], edges[edge](stack[-1][1]) if place else seed))
            listed.append(Path(nodes, (), stack[-1][1]))
    return listed


@dataclass(frozen=True)
class LayerReading:
    """One layer of an MLP as three statements of linear algebra.

    Attributes:
        name: the linear node.
        v: what enters the layer, `(N, in)`.
        delta_bar: δ̄, the adjoint of the layer's affine output v̄, `(N, out)`.
        delta: δ, the adjoint of what enters, `(N, in)`: W·δ̄.
        weight_adjoint: Δ = Σ δ̄·vᵀ, `(out, in)`.
        error: the largest relative difference between the three statements and the trace's own adjoints.
    """

    name: str
    v: Tensor
    delta_bar: Tensor
    delta: Tensor
    weight_adjoint: Tensor
    error: float


def linear_algebra(trace: Trace) -> list[LayerReading]:
    """Read backpropagation as linear algebra off an MLP's trace, and check each statement against the adjoints.

    Args:
        trace: a trace that has run backward.

    >>> import torch, cutaway as ct
    >>> x = torch.randn(4, 3, dtype=torch.float64)
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)).double()
    >>> readings = linear_algebra(ct.capture(model, x).run(x).backward())
    >>> [reading.name for reading in readings], max(reading.error for reading in readings) < 1e-12
    (['0', '2'], True)
    """
    if not trace.adjoints:
        raise ArgumentError("the trace has no adjoints: call trace.backward(…) first")
    readings = []
    for node in trace.graph.nodes:
        if node.op is not torch.ops.aten.linear.default:
            continue
        entering, weight = node.args[0], node.args[1]
        v, matrix, delta_bar = trace[entering].value, trace[weight].value, trace.adjoints[node]
        flat_v, flat_bar = v.reshape(-1, v.shape[-1]), delta_bar.reshape(-1, delta_bar.shape[-1])
        delta, weight_adjoint = delta_bar @ matrix, flat_bar.T @ flat_v
        alone = len(entering.users) == 1 and len(weight.users) == 1
        pairs = [(delta, trace.adjoints[entering]), (weight_adjoint, trace.adjoints[weight])] if alone else []
        errors = [((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item() for a, b in pairs]
        readings.append(LayerReading(node.name, v, delta_bar, delta, weight_adjoint, max(errors, default=0.0)))
    return readings


@dataclass(frozen=True)
class FiniteDifferences:
    """A gradient checked by central differences.

    Attributes:
        error: the smallest relative error over the steps tried.
        step: the step that gave it.
        steps, errors: all that were tried.
        agrees: whether the error is below the tolerance.
    """

    error: float
    step: float
    steps: tuple[float, ...]
    errors: tuple[float, ...]
    agrees: bool


def check_gradient(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    gradient: Tensor,
    directions: int = 5,
    tolerance: float = 1e-6,
    seed: int = 0,
) -> FiniteDifferences:
    """Check a gradient by central differences along random directions, over a range of steps.

    Args:
        function: from `x` to a number.
        x: where.
        gradient: what is checked, shaped like `x`.
        directions: how many random unit directions.
        tolerance: the relative error up to which the two agree.
        seed: of the directions.

    The error first falls with the step (truncation, ∝ h²) and then rises (rounding, ∝ 1/h); the best step is reported.

    >>> import torch
    >>> x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    >>> check_gradient(lambda x: (x**3).sum(), x, 3 * x**2).agrees
    True
    """
    random = generator(seed, "finite differences")
    along = [torch.randn(x.shape, generator=random, dtype=torch.float64).to(x) for _ in range(directions)]
    along = [direction / direction.norm() for direction in along]
    expected = torch.stack([(gradient * direction).sum() for direction in along])
    scale = max(x.abs().max().item(), 1.0)
    steps, errors = [], []
    for exponent in range(-1, -11, -1):
        h = scale * 10.0**exponent
        found = torch.stack([(function(x + h * d) - function(x - h * d)) / (2 * h) for d in along])
        steps.append(h)
        errors.append(((found - expected).norm() / expected.norm().clamp(min=1e-30)).item())
    best = min(range(len(steps)), key=lambda i: errors[i])
    return FiniteDifferences(errors[best], steps[best], tuple(steps), tuple(errors), errors[best] <= tolerance)
