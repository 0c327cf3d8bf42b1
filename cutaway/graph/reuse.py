"""Memory reuse: overwrite a value in its last use, where nobody else can be looking at it.

A table says which functions make memory of their own (so that reading from them leaves no second name behind) and which
have a form that writes into an argument. A value may be overwritten when the line that made it is in the first table,
every line that read it is too, and this is its last use.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cutaway.graph.backward import Line, Ref, shape_of
from cutaway.graph.emit import references
from cutaway.graph.rows import TABLE
from cutaway.graph.table_convolution import convolution_input, convolution_weight

aten = torch.ops.aten

_FRESH_OPERATIONS = (
    "conv1d", "conv2d", "conv3d", "linear", "mm", "bmm", "matmul", "addmm", "batch_norm", "layer_norm", "group_norm",
    "add", "sub", "mul", "div", "relu", "gelu", "silu", "hardswish", "hardsigmoid", "hardtanh", "sigmoid", "tanh",
    "elu", "leaky_relu", "max_pool2d", "avg_pool2d", "softmax", "mean", "sum", "cat",
)  # fmt: skip


def _table_rule(operation: str, argument: str) -> Any:
    return TABLE[operation].adjoints[argument]


def relu_rule_(grad: Tensor, result: Tensor) -> Tensor:
    """The ReLU's rule, written into the adjoint."""
    return aten.threshold_backward.grad_input(grad, result, 0, grad_input=grad)


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
        rules += [_table_rule("aten.relu", "self"), _table_rule("aten.batch_norm", "input")]
        rules += [
            _table_rule("aten.conv2d.default", name) for name in ("input", "weight", "bias")
        ]  # conv1d and conv3d share the row
        rules += [_table_rule("aten.batch_norm", "weight"), _table_rule("aten.batch_norm", "bias")]
        self.fresh: set[Any] = {*overloads, *rules, operator.add, convolution_input, convolution_weight}
        self.harmless: set[Any] = {*self.fresh, shape_of}
        # function → (the argument that may be overwritten, the form that does it)
        self.in_place: dict[Any, tuple[tuple[int | str, ...], Callable, str]] = {
            aten.relu.default: ((0,), aten.relu_.default, "aten_relu_"),
            _table_rule("aten.relu", "self"): (("grad",), relu_rule_, "vjp_relu_self_"),
            _table_rule("aten.batch_norm", "input"): (("grad",), batch_norm_input_, "vjp_batch_norm_input_"),
            operator.add: ((0, 1), operator.iadd, "iadd"),
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
    out = []
    for position, line in enumerate(lines):
        entry = tables.in_place.get(line.function)
        form = line
        if entry is not None:
            for place in entry[0]:
                given = line.args[place] if isinstance(place, int) else line.kwargs[place]
                names = references([line.args, line.kwargs])
                safe = isinstance(given, Ref) and given.name in owned and given.name not in returns
                if safe and names.count(given.name) == 1 and last[given.name] == position:
                    args = line.args if place != 1 else (line.args[1], line.args[0])
                    form = replace(line, function=entry[1], label=entry[2], args=args)
                    break
        if line.function not in tables.harmless:
            owned.difference_update(references([line.args, line.kwargs]))
        owned.difference_update(line.targets)
        if line.function in tables.fresh:
            owned.update(line.targets)
        out.append(form)
    return out
