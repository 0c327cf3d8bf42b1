"""The reverse pass: which rows serve a request, and the lines of the program they make.

The walk has no case for any operation. It goes through the nodes in reverse topological order; a node's adjoint is the
sum of what its users sent back (summed first, then multiplied by the local derivative), and the row of the node's
operation turns it into adjoints of its arguments. Only nodes that lie between what is asked for and what is
differentiated take part.
"""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from cutaway.errors import ArgumentError
from cutaway.graph.nodes import Node, bound_arguments, map_nodes, moves, nodes_in, operation_name
from cutaway.graph.rows import REFERENCE, Row, RuleSet, requests, resolve

PACK = "cutaway.pack"  # lays a weight out for its kernels; what it gives is no tensor, and has no adjoint


@dataclass(frozen=True)
class Ref:
    """A name of the program standing where its value will be."""

    name: str


@dataclass(frozen=True)
class Line:
    """One line of a program: `targets = function(*args, **kwargs)`."""

    targets: tuple[str, ...]
    function: Callable
    label: str
    args: tuple = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Choice:
    """Which nodes take part in a reverse pass, by which row, and through which arguments."""

    rows: Mapping[Node, Row]
    origins: Mapping[Node, str]  # "rule", "replaced" or "fallback"
    live: Mapping[Node, tuple[str, ...]]  # the arguments an adjoint flows back through


def ancestors(nodes: Iterable[Node]) -> set[Node]:
    """The nodes themselves and everything they are computed from."""
    found: set[Node] = set()
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(node.inputs)
    return found


def out_of_reach(of: Iterable[Node]) -> set[Node]:
    """What `of` depends on through something that a pass prepares beforehand: no adjoint comes back from there."""
    return ancestors(node for node in ancestors(of) if node.kind == "prepared" or operation_name(node.op) == PACK)


def refuse_out_of_reach(of: Iterable[Node], wrt: Iterable[Node]) -> None:
    """Refuse adjoints that would be silently zero, or only a part.

    Raises:
        ArgumentError: one of `wrt` goes into what a pass prepares, folded constants or weights laid out for kernels.
    """
    hidden = out_of_reach(of)
    for node in wrt:
        if node in hidden:
            raise ArgumentError(
                f"a pass prepares something of {node.name!r} beforehand, and no adjoint comes back from there: "
                "ask for the gradient before the passes, or leave out fuse_convolutions, pack_convolutions and "
                "fold_constants"
            )


def choose(nodes: Sequence[Node], of: Iterable[Node] | None, wrt: Iterable[Node], rules: RuleSet | None) -> Choice:
    """Choose the rows for the derivative of `of` (None: of anything) with respect to `wrt`.

    Args:
        nodes: the graph's nodes in topological order.
        of: what is differentiated.
        wrt: with respect to what.
        rules: laid over the table; None for plain backpropagation.
    """
    reach = None if of is None else ancestors(of)
    active = {node for node in wrt if node.differentiable}
    rows: dict[Node, Row] = {}
    origins: dict[Node, str] = {}
    live: dict[Node, tuple[str, ...]] = {}
    for node in nodes:
        if node.op is None or not node.differentiable or (reach is not None and node not in reach):
            continue
        wanted = tuple(name for name, tree in bound_arguments(node).items() if any(n in active for n in nodes_in(tree)))
        if not wanted:
            continue
        if node.op is operator.getitem:
            active.add(node)
            live[node] = wanted
            continue
        chosen, origin = resolve(node, rules, wanted)
        flows = tuple(name for name in wanted if _function(chosen, name) is not None)
        if flows:
            rows[node], origins[node], live[node] = chosen, origin, flows
            active.add(node)
    return Choice(rows, origins, live)


def restricted(choice: Choice, nodes: Sequence[Node], wrt: Iterable[Node]) -> Choice:
    """The same rows, applied only on the ways to `wrt`."""
    active = set(wrt)
    live: dict[Node, tuple[str, ...]] = {}
    for node in nodes:
        arguments = bound_arguments(node) if node in choice.live else {}
        kept = tuple(
            name for name in choice.live.get(node, ()) if any(source in active for source in nodes_in(arguments[name]))
        )
        if kept:
            live[node] = kept
            active.add(node)
    return Choice(choice.rows, choice.origins, live)


def _function(chosen: Row, argument: str) -> Callable | None:
    found = chosen.function_for(argument)
    return found[1] if found else None


def forward_lines(nodes: Iterable[Node], choice: Choice) -> list[Line]:
    """The lines that compute the given nodes, with residuals where the chosen rows want them."""
    lines = []
    for node in nodes:
        if node.op is None:
            continue
        args, kwargs = map_nodes(_value, node.args), map_nodes(_value, node.kwargs)
        row = choice.rows.get(node)
        if row is not None and row.forward is not None:
            targets = (node.identifier, *(residual_name(node, name) for name in row.residuals))
            lines.append(Line(targets, row.forward, f"{node.op_name}_forward", args, kwargs, describe(node)))
        else:
            lines.append(Line((node.identifier,), node.op, label_of(node), args, kwargs, describe(node)))
    return lines


def label_of(node: Node) -> str:
    """What a node's operation is called in a program's code ("aten_conv2d")."""
    return (
        "getitem" if node.op is operator.getitem else operation_name(node.op).replace(".default", "").replace(".", "_")
    )


def describe(node: Node) -> str:
    """A note for a line: shape and module."""
    shape = "" if node.shape is None else f"({', '.join(map(str, node.shape))})"
    return f"{shape} {node.module}".strip()


def residual_name(node: Node, residual: str) -> str:
    """What a residual of a node is called in a program."""
    return f"{node.identifier}__{residual}"


def renamed(line: Line, names: Mapping[str, str]) -> Line:
    """The same line with other names."""

    def other(tree: Any) -> Any:
        if isinstance(tree, Ref):
            return Ref(names.get(tree.name, tree.name))
        if isinstance(tree, Mapping):
            return {key: other(branch) for key, branch in tree.items()}
        if isinstance(tree, list | tuple):
            return type(tree)(other(branch) for branch in tree)
        if isinstance(tree, slice):
            return slice(other(tree.start), other(tree.stop), other(tree.step))
        return tree

    targets = tuple(names[target] for target in line.targets)
    return replace(line, targets=targets, args=other(line.args), kwargs=other(line.kwargs))


def at_reference(name: str) -> str:
    """What a value is called in a program for the reference that the input is compared with."""
    return f"{name}__reference"


def adjoint_name(node: Node) -> str:
    """What a node's adjoint is called in a program."""
    return f"d_{node.identifier}"


def _value(node: Node) -> Ref:
    return Ref(node.identifier)


def shape_line(node: Node) -> Line:
    """The line that notes a value's shape, so that the value itself can be freed."""
    return Line((f"{node.identifier}_shape",), shape_of, "shape_of", (_value(node),))


def shape_of(value: torch.Tensor) -> torch.Size:
    """The shape of a value."""
    return value.shape


def start(seed: Any, value: torch.Tensor, *reference: torch.Tensor) -> torch.Tensor:
    """The adjoint where a reverse pass begins: ones (∂L/∂L = 1), the given tensor, or a function of the value (and of
    that at the reference, where there is one)."""
    if seed is None:
        return torch.ones_like(value)
    seed = seed(value, *reference) if callable(seed) else seed
    if seed.shape != value.shape:
        raise ArgumentError(
            f"the seed has shape {tuple(seed.shape)}, but what is differentiated has {tuple(value.shape)}"
        )
    return seed.to(value.dtype)


def unbroadcast(adjoint: torch.Tensor, leading: int, kept: tuple[int, ...], dtype: torch.dtype | None) -> torch.Tensor:
    """Sum an adjoint over the dimensions its argument was broadcast along."""
    if leading:
        adjoint = adjoint.sum(tuple(range(leading)))
    if kept:
        adjoint = adjoint.sum(kept, keepdim=True)
    return adjoint if dtype is None else adjoint.to(dtype)


class Reverse:
    """One reverse walk over the nodes; collects the lines, and the shapes and references they ask for."""

    def __init__(self, choice: Choice, of: Sequence[Node], wrt: Iterable[Node], compared: bool = False) -> None:
        self.choice, self.compared = choice, compared
        self.takers = {*choice.live, *wrt}
        self.references: set[Node] = set()
        self.lines: list[Line] = []
        self.shapes: dict[Node, None] = {}
        self.ready: set[Node] = set()  # nodes whose adjoint name is bound
        self.parts: dict[Node, dict[int, str]] = {}  # operations with several outputs: adjoint of each part
        for position, node in enumerate(of):
            if not node.differentiable or node.shape is None:
                raise ArgumentError(
                    f"cannot differentiate {node.name!r}: its value is not a real tensor ({node.dtype})"
                )
            values = (_value(node), self.reference(node)) if compared else (_value(node),)
            seeded = Line((), start, "start", (Ref(f"seed_{position}"), *values), note=f"∂/∂{node.name}")
            self.send(node, seeded)

    def walk(self, nodes: Sequence[Node]) -> None:
        """Send adjoints backwards through all nodes."""
        for node in reversed(nodes):
            if node not in self.choice.live or not (node in self.ready or node in self.parts):
                continue
            if node.op is operator.getitem:
                source, position = node.args
                self.parts.setdefault(source, {})[position] = adjoint_name(node)
            else:
                self.pull(node)

    def pull(self, node: Node) -> None:
        """Apply the node's row: one line for each function that serves a live argument."""
        row, live = self.choice.rows[node], self.choice.live[node]
        arguments = bound_arguments(node)
        served: dict[Any, list[str]] = {}
        for name in live:
            found = row.function_for(name)
            if found is not None:
                served.setdefault(found[0], []).append(name)
        for names, needs in served.items():
            function = row.adjoints[names]
            assert function is not None  # noqa: S101 - live arguments have a function by construction
            call = {asked: self.request(node, row, asked, arguments, needs) for asked in requests(function)}
            label = f"vjp_{node.op_name}" if isinstance(names, tuple) else f"vjp_{node.op_name}_{names}"
            line = Line((), function, label, (), call)
            if isinstance(names, tuple):
                temporary = f"{adjoint_name(node)}__parts"
                self.lines.append(Line((temporary,), function, label, (), call, f"adjoints of {', '.join(names)}"))
                for position, name in enumerate(names):
                    if name in needs:
                        self.deliver(
                            node, arguments[name], Line((), operator.getitem, "getitem", (Ref(temporary), position))
                        )
            else:
                self.deliver(node, arguments[names], line)

    def request(self, node: Node, row: Row, asked: str, arguments: Mapping[str, Any], needs: list[str]) -> Any:
        """What a rule's parameter stands for."""
        if asked == "grad":
            if node.parts is None:
                return Ref(adjoint_name(node))
            known = self.parts.get(node, {})
            return tuple(Ref(known[i]) if i in known else None for i in range(len(node.parts)))
        if asked.endswith(REFERENCE) and self.compared:
            return self.compare(node, row, asked.removesuffix(REFERENCE), arguments)
        if asked == "result":
            return _value(node)
        if asked == "node":
            return node
        if asked == "needs":
            return tuple(needs)
        if asked in row.residuals:
            return Ref(residual_name(node, asked))
        if asked in arguments:
            return map_nodes(_value, arguments[asked])
        if asked.endswith("_shape") and asked.removesuffix("_shape") in arguments:
            return map_nodes(self.shape, arguments[asked.removesuffix("_shape")])
        if asked.endswith("_dtype") and asked.removesuffix("_dtype") in arguments:
            return map_nodes(lambda source: source.dtype, arguments[asked.removesuffix("_dtype")])
        raise ArgumentError(
            f"the rule for {node.name!r} ({operation_name(node.op)}) asks for {asked!r}; it may ask for grad, result, "
            f"node, needs, {', '.join([*arguments, *row.residuals])}, <argument>_shape or <argument>_dtype"
            + ("" if self.compared else "; there is no reference here, a program made by `graph.gradient` has one")
        )

    def compare(self, node: Node, row: Row, asked: str, arguments: Mapping[str, Any]) -> Any:
        """What a rule's parameter stands for at the reference."""
        if asked in arguments:
            return map_nodes(self.reference, arguments[asked])
        result = self.reference(node)
        return result if asked == "result" else Ref(at_reference(residual_name(node, asked)))

    def reference(self, node: Node) -> Ref:
        """A node's value at the reference; the same one where it depends on no input."""
        if not moves(node):
            return _value(node)
        self.references.add(node)
        return Ref(at_reference(node.identifier))

    def shape(self, node: Node) -> Any:
        if node.shape is not None and all(isinstance(size, int) for size in node.shape):
            return tuple(node.shape)
        self.shapes[node] = None
        return Ref(f"{node.identifier}_shape")

    def deliver(self, node: Node, tree: Any, line: Line) -> None:
        """Send a rule's result to the argument's node, or its parts to the nodes of a list argument."""
        if isinstance(tree, Node):
            self.send(tree, self.summed(node, tree, line))
            return
        temporary = f"{adjoint_name(node)}__list"
        self.lines.append(Line((temporary,), line.function, line.label, line.args, line.kwargs, line.note))
        for position, part in enumerate(tree):
            if isinstance(part, Node) and part in self.takers:
                self.send(part, Line((), operator.getitem, "getitem", (Ref(temporary), position)))

    def summed(self, node: Node, source: Node, line: Line) -> Line:
        """Follow a broadcasting operation's rule by the sum back to the argument's shape."""
        if not self.choice.rows[node].broadcasts or node.shape is None or source.shape is None:
            return line
        leading = len(node.shape) - len(source.shape)
        aligned = node.shape[leading:]
        kept = tuple(
            i for i, (small, large) in enumerate(zip(source.shape, aligned, strict=True)) if small == 1 and large != 1
        )
        dtype = source.dtype if source.dtype != node.dtype else None
        if not leading and not kept and dtype is None:
            return line
        temporary = f"{adjoint_name(source)}__wide"
        self.lines.append(Line((temporary,), line.function, line.label, line.args, line.kwargs, line.note))
        return Line((), unbroadcast, "unbroadcast", (Ref(temporary), leading, kept, dtype))

    def send(self, node: Node, line: Line) -> None:
        """Add one contribution to a node's adjoint: the first binds it, the others are summed."""
        name = adjoint_name(node)
        if node not in self.ready:
            self.lines.append(
                Line((name,), line.function, line.label, line.args, line.kwargs, line.note or describe(node))
            )
            self.ready.add(node)
            return
        more = f"{name}__more"
        self.lines.append(Line((more,), line.function, line.label, line.args, line.kwargs, line.note))
        self.lines.append(
            Line((name,), operator.add, "add", (Ref(name), Ref(more)), note=f"sum over users of {node.name}")
        )
