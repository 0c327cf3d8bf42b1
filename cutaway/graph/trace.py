"""Traces: what every node was worth in one run, and what its adjoint is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from cutaway.graph.backward import (
    Line,
    Reverse,
    adjoint_name,
    choose,
    forward_lines,
    out_of_reach,
    refuse_out_of_reach,
    restricted,
    shape_line,
)
from cutaway.graph.emit import interpret
from cutaway.graph.nodes import Node
from cutaway.graph.rows import RuleSet, cache_key

if TYPE_CHECKING:
    from cutaway.graph.graph import Graph


@dataclass(frozen=True)
class Reading:
    """One node in a trace: its value, and its adjoint once the trace has run backward."""

    node: Node
    value: Any
    adjoint: torch.Tensor | None


class Plan:
    """The lines of a trace, made once for a graph and a rule set: forward, and backward from each node asked for."""

    def __init__(self, graph: "Graph", rules: RuleSet | None) -> None:
        self.choice = choose(graph.nodes, None, _leaves(graph), rules)
        self.forward = forward_lines(graph.nodes, self.choice)
        self.walks: dict[Any, tuple[list[Line], set[Node], set[Node]]] = {}

    def backward(self, graph: "Graph", of: Node, wrt: Sequence[Node] | None) -> tuple[list[Line], set[Node], set[Node]]:
        """The lines that compute adjoints, the nodes whose adjoint they compute, and those that can have none."""
        key = (of, None if wrt is None else tuple(wrt))
        if key not in self.walks:
            nodes = graph.nodes[: of.index + 1]
            refuse_out_of_reach([of], wrt or ())
            choice = self.choice if wrt is None else restricted(self.choice, nodes, wrt)
            walk = Reverse(choice, [of], _leaves(graph) if wrt is None else wrt)
            walk.walk(nodes)
            self.walks[key] = [*map(shape_line, walk.shapes), *walk.lines], walk.ready, out_of_reach([of]) - walk.ready
        return self.walks[key]


@dataclass(frozen=True)
class Trace:
    """One run of a graph with every value kept; `backward` adds every adjoint.

    >>> import torch, cutaway as ct
    >>> trace = ct.capture(lambda x: (x * x).sum(), torch.ones(2)).run(torch.tensor([3.0, 4.0]))
    >>> trace["output"].value
    tensor(25.)
    >>> trace.backward("output")["x"].adjoint
    tensor([6., 8.])
    """

    graph: "Graph"
    values: Mapping[str, Any]  # by the nodes' identifiers, residuals beside them
    adjoints: Mapping[Node, torch.Tensor]
    plan: Plan

    def __getitem__(self, name: "str | Node") -> Reading:
        node = self.graph[name]
        return Reading(node, self.values[node.identifier], self.adjoints.get(node))

    def backward(
        self,
        of: "str | Node" = "output",
        seed: Any = None,
        wrt: "str | Node | Sequence[str | Node] | None" = None,
    ) -> "Trace":
        """Give every node its adjoint, the derivative of `of` seeded with `seed`.

        Args:
            of: the node that is differentiated.
            seed: its adjoint: None for ones, a tensor shaped like it, or a function of its value.
            wrt: go only to these nodes; others than those on the way have no adjoint then. None: everywhere, to inputs
                and parameters.
        """
        node = self.graph[of]
        named = [wrt] if isinstance(wrt, str | Node) else wrt
        ends = None if named is None else [self.graph[name] for name in named]
        lines, ready, hidden = self.plan.backward(self.graph, node, ends)
        env = dict(self.values) | {"seed_0": seed}
        with torch.no_grad():
            interpret(lines, env)
        adjoints = {
            each: env[adjoint_name(each)] if each in ready else torch.zeros_like(self.values[each.identifier])
            for each in (self.graph.nodes if ends is None else [*ready, *ends])
            if each.differentiable and each.shape is not None and each not in hidden
        }
        return replace(self, adjoints=adjoints)


def run(graph: "Graph", inputs: tuple, keywords: Mapping[str, Any], rules: RuleSet | None = None) -> Trace:
    """Run a graph forward, keeping every value (and every residual a backward pass may want)."""
    plan = graph.remembered(("trace", cache_key(rules)), lambda: Plan(graph, rules))
    env: dict[str, Any] = graph.leaf_values(inputs, keywords)
    with torch.no_grad():
        interpret(plan.forward, env)
    return Trace(graph, env, {}, plan)


def _leaves(graph: "Graph") -> list[Node]:
    """What everything is differentiated with respect to: inputs and parameters."""
    return [leaf for leaf in graph.nodes if leaf.kind in ("input", "parameter") and leaf.differentiable]


def first_nonfinite(trace: Trace) -> Node | None:
    """The first node, in the order of computation, whose value holds NaN or infinity; None if there is none.

    Args:
        trace: one run of a graph.

    >>> import torch, cutaway as ct
    >>> trace = ct.capture(lambda x: x.log().sum(), torch.ones(2)).run(torch.tensor([1.0, -1.0]))
    >>> first_nonfinite(trace)
    <log: log (2)>
    """
    for node in trace.graph.nodes:
        value = trace.values[node.identifier]
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not torch.isfinite(value).all():
            return node
    return None
