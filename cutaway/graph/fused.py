"""Fused operations that passes put in the place of several: convolution with bias, sum and ReLU in one kernel.

They call oneDNN's fused kernels with weights laid out for them beforehand. Outside of the CPU, or in other precisions
than float32, they do the same in plain operations.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cutaway.graph.rows import OVERWRITING, TABLE, Row
from cutaway.graph.table_convolution import convolution_input, phases_pay

aten = torch.ops.aten


class Packed:
    """A convolution's weight with the layouts its kernels want, which are others for one image than for several.

    Attributes:
        weight: the plain weight, `(out, in / groups, kh, kw)`, channels last.
    """

    def __init__(self, weight: Tensor, stride: list, padding: list, dilation: list, groups: int, size: tuple) -> None:
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        self.settings, self.size = (stride, padding, dilation, groups), size
        self.served = (
            weight.dtype == torch.float32 and weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
        )
        self.layouts: dict[bool, tuple[Tensor, Tensor | None]] = {}

    def layout(self, batch: int) -> tuple[Tensor, Tensor | None] | tuple[None, None]:
        """The weight for the forward kernel and for that of the input's adjoint, or None where there is no kernel."""
        if not self.served:
            return None, None
        if (batch > 1) not in self.layouts:
            stride, padding, dilation, groups = self.settings
            size = (min(batch, 2), *self.size[1:])
            ahead = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, padding, stride, dilation, groups, list(size)
            )
            self.layouts[batch > 1] = ahead, _transposed(self.weight, stride, padding, dilation, groups, size)
        return self.layouts[batch > 1]

    @cached_property
    def parts(self) -> tuple["Packed", "Packed"]:
        """Its positive and its negative entries, packed alike."""
        ends = self.weight.clamp(min=0), self.weight.clamp(max=0)
        return Packed(ends[0], *self.settings, self.size), Packed(ends[1], *self.settings, self.size)


def _transposed(weight: Tensor, stride: list, padding: list, dilation: list, groups: int, size: tuple) -> Tensor | None:
    """The weight laid out for the transposed convolution that computes the input's adjoint."""
    if groups == 1 and dilation == [1, 1] and phases_pay(weight, stride):
        return None
    out_size = [size[0], weight.shape[0], *(_out(size[2 + i], weight, stride, padding, dilation, i) for i in (0, 1))]
    extra = _output_padding(size[2:], out_size[2:], weight, stride, padding, dilation)
    return torch.ops.mkldnn._reorder_convolution_transpose_weight(
        weight, padding, extra, stride, dilation, groups, out_size
    )


def _out(size: int, weight: Tensor, stride: list, padding: list, dilation: list, axis: int) -> int:
    return (size + 2 * padding[axis] - dilation[axis] * (weight.shape[2 + axis] - 1) - 1) // stride[axis] + 1


def _output_padding(
    size: Sequence[int], out: Sequence[int], weight: Tensor, stride: list, padding: list, dilation: list
) -> list[int]:
    """What a transposed convolution has to add at the end to come back to the input's size."""
    return [
        size[i] - ((out[i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (weight.shape[2 + i] - 1) + 1)
        for i in (0, 1)
    ]


def pack(weight: Tensor, stride: list, padding: list, dilation: list, groups: int, size: tuple) -> Packed:
    """Lay a weight out for its kernels; see `Packed`."""
    return Packed(weight, stride, padding, dilation, groups, size)


def _finish(out: Tensor, other: Tensor | None, relu: bool) -> Tensor:
    out = out if other is None else out + other
    return out.relu_() if relu else out


def convolution(
    input: Tensor,
    packed: Packed,
    bias: Tensor | None,
    other: Tensor | None,
    stride: list,
    padding: list,
    dilation: list,
    groups: int,
    relu: bool,
) -> Tensor:
    """ReLU(convolution(input) + bias + other) in one kernel; `other` and the ReLU may be missing."""
    settings = (padding, stride, dilation, groups)
    ahead = packed.layout(len(input))[0]
    if ahead is None or input.dtype != torch.float32:
        out = aten.conv2d(input, packed.weight.to(input.dtype), bias, stride, padding, dilation, groups)
        return _finish(out, other, relu)
    last = input.contiguous(memory_format=torch.channels_last)
    kind = "relu" if relu else "none"
    if other is None:
        return torch.ops.mkldnn._convolution_pointwise.default(last, ahead, bias, *settings, kind, [], "")
    other = other.contiguous(memory_format=torch.channels_last)
    return torch.ops.mkldnn._convolution_pointwise.binary(
        last, other, ahead, bias, *settings, "add", 1.0, kind if relu else None, [], ""
    )


def convolution_input_packed(
    grad: Tensor, input_shape: Any, packed: Packed, stride: list, padding: list, dilation: list, groups: int
) -> Tensor:
    """The adjoint of a packed convolution's input: a transposed convolution with the layout made for it."""
    back = packed.layout(len(grad))[1]
    if back is None or grad.dtype != torch.float32:
        return convolution_input(grad, input_shape, packed.weight.to(grad.dtype), stride, padding, dilation, groups)
    extra = _output_padding(input_shape[2:], grad.shape[2:], packed.weight, stride, padding, dilation)
    return torch.ops.mkldnn._convolution_transpose_pointwise(
        grad.contiguous(memory_format=torch.channels_last),
        back, None, padding, extra, stride, dilation, groups, "none", [], "",
    )  # fmt: skip


Rectify = Callable[[Tensor, Tensor], Tensor]
CONVOLUTIONS: set[Callable] = set()  # the rules of fused convolutions


def convolution_row(rectify: Rectify, overwriting: Rectify | None = None) -> Row:
    """The row of fused convolutions for a rule of the ReLU at their end, a function of adjoint and result.

    The ReLU's rule comes first; what is left goes to the summand as it is, to the bias summed, and to the input through
    the kernel. A packed weight has no adjoint (see `backward.refuse_out_of_reach`).
    `overwriting` is the same rule, written into the adjoint.
    """
    rule = _convolution_rule(rectify)
    CONVOLUTIONS.add(rule)
    if overwriting is not None:
        OVERWRITING[rule] = _convolution_rule(overwriting)
    return Row({("input", "other", "bias"): rule})


def _convolution_rule(rectify: Rectify) -> Callable:
    def convolution_adjoints(
        grad: Tensor,
        result: Tensor,
        input_shape: Any,
        packed: Packed,
        relu: bool,
        stride: list,
        padding: list,
        dilation: list,
        groups: int,
        needs: tuple,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        before = rectify(grad, result) if relu else grad
        to_input = None
        if "input" in needs:
            to_input = convolution_input_packed(before, input_shape, packed, stride, padding, dilation, groups)
        to_bias = before.sum((0, 2, 3)) if "bias" in needs else None
        return to_input, before if "other" in needs else None, to_bias

    return convolution_adjoints


def relu_adjoint(grad: Tensor, result: Tensor) -> Tensor:
    """z̄ = ȳ where y > 0."""
    return aten.threshold_backward(grad, result, 0)


def relu_adjoint_(grad: Tensor, result: Tensor) -> Tensor:
    """The same, written into the adjoint."""
    return aten.threshold_backward.grad_input(grad, result, 0, grad_input=grad)


TABLE["cutaway.convolution"] = convolution_row(relu_adjoint, relu_adjoint_)


def folded_weight(weight: Tensor, gamma: Tensor | None, running_var: Tensor, eps: float) -> Tensor:
    """The weight of a convolution that does the work of the batch norm behind it: w·γ/√(σ² + ε)."""
    scale = torch.rsqrt(running_var + eps)
    scale = scale if gamma is None else scale * gamma
    return weight * scale.view(-1, *[1] * (weight.ndim - 1))


def scaled(weight: Tensor, factor: Tensor) -> Tensor:
    """A convolution's weight or bias, times a factor for each output channel."""
    return weight * factor.reshape(-1, *[1] * (weight.ndim - 1))


def folded_bias(
    bias: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    eps: float,
) -> Tensor:
    """Its bias: (b − μ)·γ/√(σ² + ε) + β."""
    scale = torch.rsqrt(running_var + eps)
    scale = scale if gamma is None else scale * gamma
    shift = (-running_mean if bias is None else bias - running_mean) * scale
    return shift if beta is None else shift + beta
