"""The parts of a computation graph: nodes, and the argument trees that connect them."""

import inspect
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch

Size = int | str  # a number, or the name of a dynamic size ("N" for the batch)


@dataclass(eq=False, slots=True, weakref_slot=True)
class Node:
    """One value of the computation: an input, a parameter, a buffer, a constant, or the result of one operation.

    Attributes:
        name: readable and unique in its graph (`layer4.1.conv2`, `layer1.0.add`, `layer1.0.relu@1` for a second call).
        kind: "input", "parameter", "buffer", "constant" or "operation".
        op: the ATen operation (or `operator.getitem` for one part of a tuple); None for leaves.
        args, kwargs: the operation's arguments; other nodes stand in them as `Node`.
        call: the chain of module calls around the operation, outermost first: (path, call, class) with call = path@k
            for the k-th repetition.
        source: "file.py:12: code" of the line that made the node.
        shape: sizes; a dynamic size is a name. None where the value is not a tensor.
        parts: for operations with several outputs, (shape, dtype) of each.
        target: for parameters and buffers, the qualified name in the module.
        value: for constants, the tensor.
        merged: for an operation that a pass put in the place of several, the nodes whose work it does.
    """

    name: str
    kind: str
    op: Any = None
    args: tuple = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    call: tuple[tuple[str, str, str], ...] = ()
    source: str = ""
    shape: tuple[Size, ...] | None = None
    dtype: torch.dtype | None = None
    parts: tuple | None = None
    target: str = ""
    value: Any = None
    merged: tuple["Node", ...] = ()
    users: list["Node"] = field(default_factory=list)
    index: int = -1
    identifier: str = ""

    @property
    def module(self) -> str:
        """The path of the innermost module the operation runs in ("" for the root)."""
        return self.call[-1][0] if self.call else ""

    @property
    def module_class(self) -> str:
        """The class name of the innermost module ("Conv2d")."""
        return self.call[-1][2] if self.call else ""

    @property
    def inputs(self) -> list["Node"]:
        """The nodes this one reads, each once, in order."""
        return list(dict.fromkeys(nodes_in((self.args, self.kwargs))))

    @property
    def differentiable(self) -> bool:
        """Whether the value is real-valued, so that a derivative can exist."""
        if self.parts is not None:
            return any(dtype is not None and (dtype.is_floating_point or dtype.is_complex) for _, dtype in self.parts)
        return self.dtype is not None and (self.dtype.is_floating_point or self.dtype.is_complex)

    @property
    def op_name(self) -> str:
        """The operation's short name ("conv2d"); the kind for leaves."""
        if self.op is None:
            return self.kind
        if self.op is operator.getitem:
            return "getitem"
        return operation_name(self.op).split(".")[1].lstrip("_")

    def __repr__(self) -> str:
        shape = "" if self.shape is None else f" ({', '.join(map(str, self.shape))})"
        return f"<{self.name}: {self.op_name}{shape}>"


def operation_name(op: Any) -> str:
    """The full name of an operation: "aten.conv2d.default"; a plain function's own name otherwise."""
    if isinstance(op, torch._ops.OpOverload):
        return str(op)
    module = getattr(op, "__module__", "") or ""
    return f"{module.split('.')[0]}.{getattr(op, '__name__', type(op).__name__)}"


def nodes_in(tree: Any) -> Iterator[Node]:
    """Every node that stands in an argument tree, in order, repetitions included."""
    if isinstance(tree, Node):
        yield tree
    elif isinstance(tree, Mapping):
        for branch in tree.values():
            yield from nodes_in(branch)
    elif isinstance(tree, list | tuple):
        for branch in tree:
            yield from nodes_in(branch)
    elif isinstance(tree, slice):
        yield from nodes_in((tree.start, tree.stop, tree.step))


_MOVING: WeakKeyDictionary[Node, bool] = WeakKeyDictionary()


def moves(value: Any) -> bool:
    """Whether a value depends on an input; parameters and constants do not."""
    if not isinstance(value, Node):
        return False
    stack = [value]
    while stack:
        node = stack[-1]
        unknown = [source for source in node.inputs if source not in _MOVING]
        if unknown:
            stack.extend(unknown)
            continue
        _MOVING[node] = any(_MOVING[source] for source in node.inputs) if node.op else node.kind == "input"
        stack.pop()
    return _MOVING[value]


def map_nodes(function: Callable[[Node], Any], tree: Any) -> Any:
    """The same argument tree with `function(node)` in the place of every node."""
    if isinstance(tree, Node):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: map_nodes(function, branch) for key, branch in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(map_nodes(function, branch) for branch in tree)
    if isinstance(tree, slice):
        return slice(*(map_nodes(function, part) for part in (tree.start, tree.stop, tree.step)))
    return tree


def link(nodes: Sequence[Node]) -> None:
    """Number the nodes and fill in who uses whom."""
    for index, node in enumerate(nodes):
        node.index, node.users = index, []
    for node in nodes:
        for source in node.inputs:
            source.users.append(node)


@lru_cache(maxsize=1024)
def _parameters(function: Callable, count: int) -> tuple[str, ...]:
    """The names of a plain function's first parameters; numbers where it does not tell."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        names = []
    return tuple(names[:count]) if len(names) >= count else tuple(map(str, range(count)))


def bound_arguments(node: Node) -> dict[str, Any]:
    """The operation's arguments by their schema names, defaults filled in.

    >>> import torch
    >>> x = Node("x", "input")
    >>> bound_arguments(Node("y", "operation", torch.ops.aten.softmax.int, (x, -1)))["dim"]
    -1
    """
    if node.op is operator.getitem:
        return {"self": node.args[0], "index": node.args[1]}
    if not isinstance(node.op, torch._ops.OpOverload):
        return dict(zip(_parameters(node.op, len(node.args)), node.args, strict=True)) | node.kwargs
    bound: dict[str, Any] = {}
    for position, argument in enumerate(node.op._schema.arguments):
        if position < len(node.args) and not argument.kwarg_only:
            bound[argument.name] = node.args[position]
        elif argument.name in node.kwargs:
            bound[argument.name] = node.kwargs[argument.name]
        else:
            bound[argument.name] = argument.default_value
    return bound
