"""A pass that leaves out what nobody reads: where only one token goes on, only that one is computed.

A transformer's classifier reads one token of the last block. Everything after that block's attention works on each
token alone, so that for all other tokens it can be left out, forward and backward.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from cutaway.graph.nodes import Node, bound_arguments, map_nodes
from cutaway.graph.rewrite import Rewrite, rewrite

if TYPE_CHECKING:
    from cutaway.graph.graph import Graph

aten = torch.ops.aten
Read = tuple[int, int]  # the dimension along which, and the position at which, all readers read
Sources = dict[Node, int]  # the arguments that are needed at one position only, and along which dimension


def _each_alone(node: Node, dim: int) -> Sources | None:
    """Entry by entry: arguments of the same size are read where the result is, broadcast ones are read whole."""
    found: Sources = {}
    for source in node.inputs:
        if source.shape is None or node.shape is None:
            return None
        place = dim - (len(node.shape) - len(source.shape))
        if place >= 0 and source.shape[place] == node.shape[dim]:
            found[source] = place
        elif place >= 0 and source.shape[place] != 1:
            return None
    return found


def _last_alone(node: Node, dim: int) -> Sources | None:
    """The last dimension is worked on, the others are only carried along."""
    return {node.args[0]: dim} if node.shape is not None and dim < len(node.shape) - 1 else None


def _layer_norm(node: Node, dim: int) -> Sources | None:
    normalized = len(bound_arguments(node)["normalized_shape"])
    return {node.args[0]: dim} if node.shape is not None and dim < len(node.shape) - normalized else None


def _transpose(node: Node, dim: int) -> Sources | None:
    first, second = (axis % len(node.shape or ()) for axis in node.args[1:3])
    return {node.args[0]: {first: second, second: first}.get(dim, dim)}


def _reshape(node: Node, dim: int) -> Sources | None:
    """The dimensions up to this one are the same before and after."""
    before = node.args[0].shape
    kept = before is not None and node.shape is not None and before[: dim + 1] == node.shape[: dim + 1]
    return {node.args[0]: dim} if kept else None


def _attention(node: Node, dim: int) -> Sources | None:
    """One query alone, with all keys and values."""
    given = bound_arguments(node)
    free = given["attn_mask"] is None and not given["is_causal"] and given["dropout_p"] == 0
    return {given["query"]: dim} if free and node.shape is not None and dim == len(node.shape) - 2 else None


CARRIED: dict[Any, Callable[[Node, int], Sources | None]] = {
    aten.linear.default: _last_alone,
    aten.layer_norm.default: _layer_norm,
    aten.transpose.int: _transpose,
    aten.reshape.default: _reshape,
    aten.view.default: _reshape,
    aten.scaled_dot_product_attention.default: _attention,
} | dict.fromkeys(
    (
        aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.gelu.default, aten.relu.default,
        aten.silu.default, aten.tanh.default, aten.sigmoid.default, aten.hardswish.default, aten.clone.default,
        aten.contiguous.default,
    ),
    _each_alone,
)  # fmt: skip


def skip_unread(graph: "Graph") -> "Graph":
    """Where all readers of a value take the same position of it, the others are not computed.

    >>> import cutaway as ct
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.GELU())
    >>> graph = ct.capture(lambda x: model(x)[:, 0], torch.randn(2, 50, 4))
    >>> graph.cost().total.multiply_adds, skip_unread(graph).cost().total.multiply_adds
    (800, 16)
    """
    reads = unread(graph)
    small: dict[tuple[Node, int], Node] = {}

    def at(work: Rewrite, source: Node, dim: int, index: int) -> Node:
        """A value at its one position, with size one there."""
        key = (source, -1 if source in reads else dim)
        if key not in small:
            args = (work.new[source], dim, index, index + 1)
            small[key] = work.helper(source, "read", aten.slice.Tensor, args, _one(source, dim))
        return small[key]

    def visit(work: Rewrite, node: Node) -> Node | None:
        if node.op is aten.select.int and node.args[0] in reads:
            dim, index = reads[node.args[0]]
            return work.place(node, node.op, (at(work, node.args[0], dim, index), dim, 0))
        if node not in reads:
            return None
        dim, index = reads[node]
        sources = CARRIED[node.op](node, dim) or {}
        args = map_nodes(lambda n: at(work, n, sources[n], index) if n in sources else work.new[n], node.args)
        if node.op in (aten.reshape.default, aten.view.default):
            args = (args[0], [1 if place == dim else size for place, size in enumerate(args[1])])
        made = work.helper(node, "read", node.op, args, _one(node, dim))
        made.kwargs = map_nodes(work.new.__getitem__, node.kwargs)
        small[node, -1] = made
        return made

    return rewrite(graph, visit)


def _one(node: Node, dim: int) -> tuple:
    return tuple(1 if place == dim else size for place, size in enumerate(node.shape or ()))


def unread(graph: "Graph") -> Mapping[Node, Read]:
    """The nodes of which one position is read, and that can be computed there alone."""
    kept = {*graph.outputs, *graph.updates.values()}
    reads: dict[Node, Read] = {}
    for node in reversed(graph.nodes):
        if node in kept or node.op not in CARRIED or not node.users or node.shape is None:
            continue
        asked = {_read(user, node, reads) for user in node.users}
        read = asked.pop()
        if asked or read is None or CARRIED[node.op](node, read[0]) is None:
            continue
        reads[node] = read
    return reads


def _read(user: Node, node: Node, reads: Mapping[Node, Read]) -> Read | None:
    """Where a user reads a node; None where it reads the whole of it."""
    if user.op is aten.select.int and user.args[0] is node and node.shape is not None:
        dim, index = user.args[1] % len(node.shape), user.args[2]
        size = node.shape[dim]
        fixed = isinstance(size, int) and size > 1 and isinstance(index, int)
        return (dim, index % size) if fixed else None
    if user not in reads:
        return None
    dim, index = reads[user]
    sources = CARRIED[user.op](user, dim) or {}
    return (sources[node], index) if node in sources else None
