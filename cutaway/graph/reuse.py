"""Memory reuse: overwrite a value in its last use, where nobody else can be looking at it.

A table says which functions make memory of their own (so that reading from them leaves no second name behind) and which
have a form that writes into an argument. A value may be overwritten when the line that made it is in the first table,
every line that read it is too, and this is its last use.
"""

import operator
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cutaway.graph.backward import Line, Ref, shape_of
from cutaway.graph.emit import references
from cutaway.graph.fused import CONVOLUTIONS, convolution, relu_adjoint_
from cutaway.graph.rows import OVERWRITING, TABLE
from cutaway.graph.table_convolution import convolution_input, convolution_weight

aten = torch.ops.aten

_FRESH_OPERATIONS = (
    "conv1d", "conv2d", "conv3d", "linear", "mm", "bmm", "matmul", "addmm", "batch_norm", "layer_norm", "group_norm",
    "add", "sub", "mul", "div", "relu", "gelu", "silu", "hardswish", "hardsigmoid", "hardtanh", "sigmoid", "tanh",
    "elu", "leaky_relu", "max_pool2d", "avg_pool2d", "softmax", "mean", "sum", "cat",
)  # fmt: skip


def _table_rule(operation: str, argument: str) -> Any:
    return TABLE[operation].adjoints[argument]


def batch_norm_input_(grad: Tensor, weight: Tensor | None, running_var: Tensor, eps: float) -> Tensor:
    """The rule of batch norm with fixed statistics, written into the adjoint."""
    scale = torch.rsqrt(running_var + eps)
    scale = scale if weight is None else scale * weight
    return grad.mul_(scale.view(1, -1, *[1] * (grad.ndim - 2)))


class Tables:
    """Which functions make fresh memory, and which have a form that overwrites an argument."""

    def __init__(self) -> None:
        overloads = [
            getattr(packet, overload)
            for name in _FRESH_OPERATIONS
            for packet in [getattr(aten, name)]
            for overload in packet.overloads()
        ]
        rules = [row.forward for row in TABLE.values() if row.forward is not None]
        rules += [_table_rule(f"aten.{name}", "self") for name in ("relu", "max_pool2d", "avg_pool2d")]
        rules += [
            _table_rule("aten.conv2d.default", name) for name in ("input", "weight", "bias")
        ]  # conv1d and conv3d share the row
        rules += [_table_rule("aten.batch_norm", name) for name in ("input", "weight", "bias")]
        rules += [convolution, convolution_input, convolution_weight]
        self.fresh: set[Any] = {*overloads, *rules, operator.add}
        self.harmless: set[Any] = {*self.fresh, shape_of}
        # function → (the arguments that may be overwritten, the form that does it)
        self.in_place: dict[Any, tuple[tuple[int | str, ...], Callable]] = {
            aten.relu.default: ((0,), aten.relu_.default),
            _table_rule("aten.relu", "self"): (("grad",), relu_adjoint_),
            _table_rule("aten.batch_norm", "input"): (("grad",), batch_norm_input_),
            operator.add: ((0, 1), operator.iadd),
        }


def reuse(lines: Sequence[Line], returns: Sequence[str], tables: Tables) -> list[Line]:
    """The same lines, overwriting values in their last use where that is safe.

    Args:
        lines: of the program, in order.
        returns: the names it returns, which are never overwritten.
        tables: what is known about functions.
    """
    last = {name: i for i, line in enumerate(lines) for name in references([line.args, line.kwargs])}
    owned: set[str] = set()  # names whose memory nobody else holds
    bundles: dict[str, tuple[int, ...]] = {}  # tuples, with the places in them whose memory nobody else holds
    out = []
    for position, line in enumerate(lines):
        names = references([line.args, line.kwargs])
        own = {name for name in names if name in owned and names.count(name) == 1 and last[name] == position}
        form = _overwriting(line, own.difference(returns), tables)
        out.append(form)
        if line.function not in tables.harmless:
            owned.difference_update(names)
        owned.difference_update(line.targets)
        if line.function in tables.fresh:
            owned.update(line.targets)
        elif line.function in CONVOLUTIONS:
            bundles[line.targets[0]] = (0, 1) if form is not line or line.kwargs["relu"] else (0,)
        elif line.function is operator.getitem and line.args[1] in bundles.get(line.args[0].name, ()):
            owned.update(line.targets)
    return out


def _overwriting(line: Line, own: Set[str], tables: Tables) -> Line:
    """The form of a line that overwrites one of the values it may; the line itself where there is none."""
    usual = (("grad",), OVERWRITING[line.function]) if line.function in OVERWRITING else ((), line.function)
    places, form = tables.in_place.get(line.function, usual)
    for place in places:
        given = line.args[place] if isinstance(place, int) else line.kwargs[place]
        if isinstance(given, Ref) and given.name in own:
            args = line.args if place != 1 else (line.args[1], line.args[0])
            return replace(line, function=form, label=f"{line.label}_", args=args)
    return line
