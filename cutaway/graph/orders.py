"""In which order to multiply the local Jacobians: forward, reverse, or better; and what each costs.

Between two nodes lies a graph whose edges are local Jacobians, dense matrices. Eliminating an inner node v joins each
of its predecessors p to each of its successors s by the product of the two edges, at |s|·|v|·|p| multiply-adds. Forward
mode eliminates in the order of computation, reverse mode in the opposite one. On a chain the best order is the
matrix-chain problem and dynamic programming solves it; on other graphs finding it is NP-complete (Naumann, 2008), so
that it is searched exactly when the graph is small and by a greedy rule otherwise, with a lower bound beside.

Source: Griewank, Walther, Evaluating Derivatives, 2nd edition, 2008, chapters 9 and 10.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cutaway.errors import ArgumentError
from cutaway.graph.backward import ancestors
from cutaway.graph.nodes import Node
from cutaway.graph.walks import local_jacobian, sources_of

if TYPE_CHECKING:
    from cutaway.graph.graph import Graph

Edges = Mapping[int, tuple[int, ...]]
EXACT = 12  # inner nodes up to which all orders are compared
LONGEST_CHAIN = 250  # dynamic programming over intervals takes their number cubed


@dataclass(frozen=True)
class Orders:
    """What each elimination order costs between two nodes, in multiply-adds.

    Attributes:
        forward, reverse, best: the cost of the three orders.
        order: the best order, as node names.
        bound: no order costs less.
        exact: whether `best` is known to be the least.
        chain: whether the graph between the nodes is a chain.
    """

    graph: "Graph"
    source: Node
    target: Node
    forward: int
    reverse: int
    best: int
    order: tuple[str, ...]
    bound: int
    exact: bool
    chain: bool

    def jacobian(self, *inputs: Any, order: Sequence[str] | None = None, **keywords: Any) -> tuple[Tensor, int]:
        """Compute the Jacobian in an order (the best by default).

        Returns:
            The matrix (entries of the target × entries of the source) and the multiply-adds counted on the way.
        """
        trace = self.graph.run(*inputs, **keywords)
        nodes, sources = between(self.source, self.target)
        names = [node.name for node in nodes]
        edges = {(b, a): local_jacobian(trace, nodes[a], nodes[b]) for a in sources for b in sources[a]}
        counted = 0
        for name in self.order if order is None else order:
            v = names.index(name)
            before, after = [b for b, a in edges if a == v], [a for b, a in edges if b == v]
            for b in before:
                for a in after:
                    left, right = edges[v, a], edges[b, v]
                    counted += left.shape[0] * left.shape[1] * right.shape[1]
                    edges[b, a] = left @ right + edges[b, a] if (b, a) in edges else left @ right
            edges = {key: value for key, value in edges.items() if v not in key}
        found = edges.get((0, len(nodes) - 1))
        if found is None:
            shape = (trace.values[self.target.identifier].numel(), trace.values[self.source.identifier].numel())
            found = torch.zeros(shape)
        return found, counted


def between(source: Node, target: Node) -> tuple[list[Node], dict[int, tuple[int, ...]]]:
    """The nodes on paths from source to target, in order, and for each the positions its edges come from."""
    reach, on_path = ancestors([target]), {source}
    nodes = [source]
    for node in sorted(reach, key=lambda n: n.index):
        if (
            node.index > source.index
            and node.parts is None
            and any(s in on_path for s in sources_of(node))
            and node.differentiable
        ):
            on_path.add(node)
            nodes.append(node)
    place = {node: position for position, node in enumerate(nodes)}
    sources = {
        place[node]: tuple(dict.fromkeys(place[s] for s in sources_of(node) if s in on_path)) for node in nodes[1:]
    }
    return nodes, sources


def orders(graph: "Graph", target: Node, source: Node, batch: int = 1) -> Orders:
    """Compare the elimination orders of the Jacobian of `target` by `source`.

    Args:
        graph: the graph both stand in.
        target, source: the nodes.
        batch: the number that stands for a dynamic batch size.
    """
    nodes, sources = between(source, target)
    if nodes[-1] is not target or len(nodes) < 2:
        raise ArgumentError(f"there is no path from {source.name!r} to {target.name!r}")
    sizes = [prod(batch if isinstance(size, str) else size for size in node.shape or ()) for node in nodes]
    inner = list(range(1, len(nodes) - 1))
    chain = all(
        len(sources[position]) == 1 and sources[position][0] == position - 1 for position in range(1, len(nodes))
    )
    forward, reverse = cost(sizes, sources, inner), cost(sizes, sources, inner[::-1])
    if chain and len(inner) <= LONGEST_CHAIN:
        best, order, exact = *matrix_chain(tuple(sizes)), True
    elif len(inner) <= EXACT:
        best, order, exact = *exhaustive(sizes, sources), True
    else:
        greedy = markowitz(sizes, sources)
        candidates = [(cost(sizes, sources, o), o) for o in (greedy, inner, inner[::-1])]
        (best, order), exact = min(candidates, key=lambda pair: pair[0]), False
    bound = best if exact else lower_bound(sizes, sources)
    names = tuple(nodes[position].name for position in order)
    return Orders(graph, source, target, forward, reverse, best, names, bound, exact, chain)


def _links(sources: Edges) -> set[tuple[int, int]]:
    return {(before, after) for after, befores in sources.items() for before in befores}


def _eliminate(links: set[tuple[int, int]], v: int, sizes: Sequence[int]) -> tuple[int, set[tuple[int, int]]]:
    """The cost of eliminating a node, and the links afterwards."""
    before, after = [b for b, a in links if a == v], [a for b, a in links if b == v]
    price = sum(sizes[a] * sizes[v] * sizes[b] for a in after for b in before)
    return price, {link for link in links if v not in link} | {(b, a) for b in before for a in after}


def cost(sizes: Sequence[int], sources: Edges, order: Sequence[int]) -> int:
    """The multiply-adds of an elimination order."""
    links, total = _links(sources), 0
    for v in order:
        price, links = _eliminate(links, v, sizes)
        total += price
    return total


def matrix_chain(sizes: tuple[int, ...]) -> tuple[int, list[int]]:
    """The best order on a chain, by dynamic programming over intervals.

    >>> matrix_chain((10, 100, 5, 50))  # the textbook's example: (A₁A₂)A₃ costs 7,500, A₁(A₂A₃) costs 75,000
    (7500, [1, 2])
    """

    @cache
    def solve(first: int, last: int) -> tuple[int, int]:
        choices = [
            (solve(first, v)[0] + solve(v, last)[0] + sizes[first] * sizes[v] * sizes[last], v)
            for v in range(first + 1, last)
        ]
        return min(choices, default=(0, -1))

    def order(first: int, last: int) -> list[int]:
        split = solve(first, last)[1]
        return [] if split < 0 else [*order(first, split), *order(split, last), split]

    final = len(sizes) - 1
    for width in range(2, final + 1):  # fill short intervals first: the recursion stays shallow
        for first in range(final - width + 1):
            solve(first, first + width)
    return solve(0, final)[0], order(0, final)


def exhaustive(sizes: Sequence[int], sources: Edges) -> tuple[int, list[int]]:
    """The best order of all, by dynamic programming over sets: the links left depend only on which nodes are gone."""
    inner = list(range(1, len(sizes) - 1))
    best: dict[frozenset[int], tuple[int, list[int], set[tuple[int, int]]]] = {frozenset(): (0, [], _links(sources))}
    for _ in inner:
        following: dict[frozenset[int], tuple[int, list[int], set[tuple[int, int]]]] = {}
        for done, (spent, order, links) in best.items():
            for v in inner:
                if v in done:
                    continue
                price, left = _eliminate(links, v, sizes)
                key = done | {v}
                if key not in following or spent + price < following[key][0]:
                    following[key] = (spent + price, [*order, v], left)
        best = following
    spent, order, _ = next(iter(best.values()))
    return spent, order


def markowitz(sizes: Sequence[int], sources: Edges) -> list[int]:
    """The greedy order: always the node that is cheapest to eliminate now."""
    links, left, order = _links(sources), set(range(1, len(sizes) - 1)), []
    while left:
        v = min(left, key=lambda node: (_eliminate(links, node, sizes)[0], node))
        links = _eliminate(links, v, sizes)[1]
        left.remove(v)
        order.append(v)
    return order


def lower_bound(sizes: Sequence[int], sources: Edges) -> int:
    """Whatever the order, each inner node joins at least its smallest ancestor to its smallest descendant."""
    links = _links(sources)
    smallest_before, smallest_after = list(sizes), list(sizes)
    total = 0
    for v in range(1, len(sizes)):
        smallest_before[v] = min((min(smallest_before[b], sizes[b]) for b, a in links if a == v), default=sizes[0])
    for v in range(len(sizes) - 2, -1, -1):
        smallest_after[v] = min((min(smallest_after[a], sizes[a]) for b, a in links if b == v), default=sizes[-1])
    for v in range(1, len(sizes) - 1):
        if any(b == v for b, _ in links):
            total += smallest_before[v] * sizes[v] * smallest_after[v]
    return total
