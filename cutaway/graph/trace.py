"""Traces: what every node was worth in one run, and what its adjoint is."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from cutaway.graph.backward import Choice, Reverse, adjoint_name, choose, forward_lines, shape_line
from cutaway.graph.emit import interpret
from cutaway.graph.nodes import Node

if TYPE_CHECKING:
    from cutaway.graph.graph import Graph


@dataclass(frozen=True)
class Reading:
    """One node in a trace: its value, and its adjoint once the trace has run backward."""

    node: Node
    value: Any
    adjoint: torch.Tensor | None


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
    choice: Choice

    def __getitem__(self, name: "str | Node") -> Reading:
        node = self.graph[name]
        return Reading(node, self.values[node.identifier], self.adjoints.get(node))

    def backward(self, of: "str | Node" = "output", seed: Any = None) -> "Trace":
        """Give every node its adjoint, the derivative of `of` seeded with `seed`.

        Args:
            of: the node that is differentiated.
            seed: its adjoint: None for ones, a tensor shaped like it, or a function of its value.
        """
        node = self.graph[of]
        walk = Reverse(self.choice, [node], _leaves(self.graph))
        walk.walk(self.graph.nodes[: node.index + 1])
        env = dict(self.values) | {"seed_0": seed}
        with torch.no_grad():
            interpret([shape_line(asked) for asked in walk.shapes], env)
            interpret(walk.lines, env)
        adjoints = {
            each: env[adjoint_name(each)] if each in walk.ready else torch.zeros_like(self.values[each.identifier])
            for each in self.graph.nodes
            if each.differentiable and each.shape is not None
        }
        return replace(self, adjoints=adjoints)


def run(graph: "Graph", inputs: tuple, keywords: Mapping[str, Any], rules: Any = None) -> Trace:
    """Run a graph forward, keeping every value (and every residual a backward pass may want)."""
    choice = choose(graph.nodes, None, _leaves(graph), rules)
    env: dict[str, Any] = graph.leaf_values(inputs, keywords)
    with torch.no_grad():
        interpret(forward_lines(graph.nodes, choice), env)
    return Trace(graph, env, {}, choice)


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
