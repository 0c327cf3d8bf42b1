"""How a graph is rebuilt: a copy in the making, in which nodes are copied, replaced or added."""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cutaway.graph.backward import ancestors
from cutaway.graph.nodes import Node, link, map_nodes

if TYPE_CHECKING:
    from cutaway.graph.graph import Graph


class Rewrite:
    """A copy of a graph in the making: go through the old nodes, copy or replace each."""

    def __init__(self, graph: "Graph") -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self.new: dict[Node, Node] = {}  # what users of an old node read now
        self.leaves: dict[Node, Node] = {}  # what stands for an input, where its users read something else
        self.taken = {node.identifier for node in graph.nodes}

    def copy(self, node: Node) -> Node:
        """The same node, reading what its arguments became."""
        return self.place(
            node, node.op, map_nodes(self.new.__getitem__, node.args), map_nodes(self.new.__getitem__, node.kwargs)
        )

    def place(self, node: Node, op: Any, args: tuple, kwargs: dict | None = None) -> Node:
        """Another operation in a node's place, under its name."""
        made = copy.copy(node)
        made.op, made.args, made.kwargs = op, args, kwargs or {}
        return self.add(node, made)

    def add(self, old: Node, made: Node) -> Node:
        """Put a node at the end, in the place of an old one."""
        self.new[old] = made
        self.nodes.append(made)
        return made

    def helper(self, like: Node, suffix: str, op: Callable, args: tuple, shape: Any = None) -> Node:
        """A further node that an old one needs now."""
        identifier = f"{like.identifier}_{suffix}"
        while identifier in self.taken:
            identifier += "_"
        self.taken.add(identifier)
        made = Node(f"{like.name}.{suffix}", "operation", op, args, {}, like.call, like.source, shape, like.dtype)
        made.identifier = identifier
        self.nodes.append(made)
        return made

    def finish(self) -> "Graph":
        """The new graph, without the operations nobody needs now."""
        old = self.graph
        outputs = [self.new.get(value, value) if isinstance(value, Node) else value for value in old.output_values]
        updates = {target: self.new[node] for target, node in old.updates.items()}
        needed = ancestors([*(value for value in outputs if isinstance(value, Node)), *updates.values()])
        nodes = [node for node in self.nodes if node in needed or node.kind in ("input", "parameter")]
        link(nodes)
        made = type(old)(old.module, nodes, outputs, old.in_spec, old.out_spec)
        made.updates = updates
        kept = set(nodes)
        aliases = {name: self.new[node] for name, node in old.by_name.items() if node.kind == "parameter"}
        made.by_name |= {name: node for name, node in aliases.items() if node in kept}
        leaves = {**self.new, **self.leaves}
        made.input_slots = [leaves[slot] if isinstance(slot, Node) else slot for slot in old.input_slots]
        return made


def rewrite(graph: "Graph", visit: Callable[[Rewrite, Node], Node | None]) -> "Graph":
    """Rebuild a graph; `visit` places what stands for a node, or returns None to have it copied."""
    work = Rewrite(graph)
    for node in graph.nodes:
        if visit(work, node) is None:
            work.copy(node)
    return work.finish()
