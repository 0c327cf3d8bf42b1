"""Forward mode: the same walk in the order of computation, pushing tangents along (a Jacobian–vector product)."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from cutaway.errors import ArgumentError
from cutaway.graph.backward import Line, Ref, ancestors, describe, label_of
from cutaway.graph.emit import emit, references
from cutaway.graph.nodes import Node, map_nodes, nodes_in

if TYPE_CHECKING:
    from cutaway.graph.graph import Graph

aten = torch.ops.aten


def _attention_written_out(*args: Any, **kwargs: Any) -> torch.Tensor:
    return aten._scaled_dot_product_attention_math(*args, **kwargs)[0]


def _training_batch_norm_written_out(x, weight, bias, running_mean, running_var, training, momentum, eps):
    dims = (0, *range(2, x.ndim))
    mean, var = x.mean(dims), x.var(dims, unbiased=False)
    rstd = torch.rsqrt(var + eps)
    shape = (1, -1, *[1] * (x.ndim - 2))
    scale = rstd if weight is None else rstd * weight
    out = (x - mean.view(shape)) * scale.view(shape)
    out = out if bias is None else out + bias.view(shape)
    size = x.numel() / x.shape[1]
    new_mean = (1 - momentum) * running_mean + momentum * mean
    new_var = (1 - momentum) * running_var + momentum * var * size / (size - 1)
    return out, mean, rstd, new_mean, new_var


# operations whose kernels have no forward derivative, or a wrong one, as compositions that have it
WRITTEN_OUT: dict[Any, Callable] = {
    aten.scaled_dot_product_attention.default: _attention_written_out,
    aten._native_batch_norm_legit_functional.default: _training_batch_norm_written_out,
}


def tangent_name(node: Node) -> str:
    """What a node's tangent is called in a program."""
    return f"t_{node.identifier}"


def push(op: Callable, tangents: Sequence[Any], args: tuple, kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """The value of an operation and its tangent, given its arguments' tangents (None where there is none).

    Args:
        op: the operation.
        tangents: one entry for each tensor in (args, kwargs), in order.
        args, kwargs: the operation's arguments.
    """
    flat, rebuild = _flatten((args, kwargs))
    moving = [position for position, tangent in enumerate(tangents) if tangent is not None]
    primal = tuple(flat[position] for position in moving)

    def local(*values: torch.Tensor) -> Any:
        replaced = list(flat)
        for position, value in zip(moving, values, strict=True):
            replaced[position] = value
        new_args, new_kwargs = rebuild(replaced)
        return WRITTEN_OUT.get(op, op)(*new_args, **new_kwargs)

    directions = tuple(tangents[position].to(flat[position].dtype) for position in moving)
    value, tangent = torch.func.jvp(local, primal, directions)[:2]
    return value, tangent


def _flatten(tree: Any) -> tuple[list, Callable[[list], Any]]:
    leaves, spec = pytree.tree_flatten(tree)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]

    def rebuild(tensors: list) -> Any:
        filled = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        return pytree.tree_unflatten(filled, spec)

    return [leaves[i] for i in places], rebuild


def forward_mode(graph: "Graph", of: Node, wrt: Sequence[Node]) -> "Tangents":
    """The program of the tangent of `of` for given tangents of `wrt`."""
    key = ("jvp", of, tuple(wrt))
    if key not in graph.programs:
        active: set[Node] = set(wrt)
        lines: list[Line] = []
        reach = ancestors([of])
        for node in graph.nodes:
            if node.op is None or node not in reach:
                continue
            args, kwargs = (map_nodes(lambda n: Ref(n.identifier), tree) for tree in (node.args, node.kwargs))
            tangents = [
                Ref(tangent_name(n)) if n in active else None
                for n in nodes_in((node.args, node.kwargs))
                if n.shape is not None
            ]
            moved = any(n in active for n in nodes_in((node.args, node.kwargs)))
            if node in wrt or not moved or not node.differentiable or node.op in _CONSTANT:
                lines.append(Line((node.identifier,), node.op, label_of(node), args, kwargs, describe(node)))
                continue
            active.add(node)
            if node.args and isinstance(node.args[0], Node) and node.args[0].parts is not None:  # one part of a tuple
                position = node.args[1]
                source = node.args[0]
                lines.append(Line((node.identifier,), node.op, "getitem", args))
                lines.append(Line((tangent_name(node),), node.op, "getitem", (Ref(tangent_name(source)), position)))
                continue
            targets = (node.identifier, tangent_name(node))
            lines.append(Line(targets, push, "push", (node.op, tangents, args, kwargs), note=describe(node)))
        returns = [of.identifier, tangent_name(of)] if of in active else [of.identifier]
        used = {name for line in lines for name in references([line.args, line.kwargs])} | set(returns)
        leaves = [node.identifier for node in graph.nodes if node.op is None and node.identifier in used]
        names = [*leaves, *(tangent_name(node) for node in wrt)]
        graph.programs[key] = (emit("tangent", names, lines, returns), names, of in active)
    return Tangents(graph, of, tuple(wrt), *graph.programs[key])


_CONSTANT = {aten.detach.default, aten.zeros_like.default, aten.ones_like.default, aten.full_like.default}


class Tangents:
    """A forward-mode program: call it with the inputs and the tangents of what is moved.

    Attributes:
        code: the program's Python source.
    """

    def __init__(
        self, graph: "Graph", of: Node, wrt: tuple[Node, ...], emitted: Any, names: list[str], moves: bool
    ) -> None:
        self.graph, self.of, self.wrt = graph, of, wrt
        self.emitted, self.names, self.moves = emitted, names, moves

    @property
    def code(self) -> str:
        return self.emitted.code

    def __call__(self, *inputs: Any, tangents: Any, **keywords: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The value of `of` and its tangent: how it moves when `wrt` moves by `tangents`.

        Args:
            inputs, keywords: the model's inputs.
            tangents: one tensor shaped like the node it moves; a tuple for several.
        """
        given = tangents if isinstance(tangents, tuple | list) else (tangents,)
        env = self.graph.leaf_values(inputs, keywords)
        if len(given) != len(self.wrt):
            raise ArgumentError(
                f"{len(self.wrt)} tangents are needed ({[n.name for n in self.wrt]}), but got {len(given)}"
            )
        env |= {tangent_name(node): tangent for node, tangent in zip(self.wrt, given, strict=True)}
        with torch.no_grad():
            results = self.emitted.function(*(env.get(name) for name in self.names))
        return (results[0], results[1]) if self.moves else (results[0], torch.zeros_like(results[0]))
