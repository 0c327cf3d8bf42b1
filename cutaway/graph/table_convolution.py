"""Rows of convolutions, plain and transposed."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from cutaway.graph.rows import row
from cutaway.graph.shapes import listed

aten = torch.ops.aten
LAST = torch.channels_last


def _convolution(
    mask: tuple[bool, bool], grad, input, weight, stride, padding, dilation, groups, transposed, output_padding
):
    spatial = weight.ndim - 2
    return aten.convolution_backward(
        grad,
        input,
        weight,
        None,
        listed(stride, spatial),
        listed(padding, spatial),
        listed(dilation, spatial),
        transposed,
        listed(output_padding, spatial),
        groups,
        [*mask, False],
    )


def convolution_input(grad, input_shape, weight, stride, padding, dilation, groups, transposed=False, output_padding=0):
    """The adjoint of a convolution's input: a transposed convolution of the adjoint with the same kernel."""
    if weight.ndim == 4 == grad.ndim and not transposed:
        steps = listed(stride, 2)
        if groups == 1 and set(listed(dilation, 2)) == {1} and phases_pay(weight, steps):
            return convolution_input_by_phases(grad, input_shape, weight, steps, listed(padding, 2))
    last = grad.ndim == 4 == weight.ndim and not grad.is_contiguous() and grad.is_contiguous(memory_format=LAST)
    layout = LAST if last else torch.contiguous_format  # the kernel follows the layout of the input
    shape_only = torch.empty(tuple(input_shape), dtype=grad.dtype, device=grad.device, memory_format=layout)
    args = (stride, padding, dilation, groups, transposed, output_padding)
    if grad.ndim < weight.ndim:  # one example without a batch dimension
        return _convolution((True, False), grad[None], shape_only[None], weight, *args)[0][0]
    return _convolution((True, False), grad, shape_only, weight, *args)[0]


def phases_pay(weight: Tensor, stride: Sequence[int]) -> bool:
    """Whether `convolution_input_by_phases` is the faster way: images' few channels, and a kernel little enlarged."""
    kernel = weight.shape[2:]
    enlarged = [-(-k // s) * s / k for k, s in zip(kernel, stride, strict=True)]
    return weight.device.type == "cpu" and weight.shape[1] <= 4 and min(stride) > 1 and prod(enlarged) <= 1.4


def convolution_input_by_phases(
    grad: Tensor, input_shape: Sequence[int], weight: Tensor, stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """The adjoint of a strided convolution's input, as one convolution with stride 1.

    With m + padding = s·q + r, position m of the input receives Σₜ grad[q − t]·weight[s·t + r]: for each phase r a
    convolution of its own. All of them are the channels of one convolution, whose results are then interleaved. A
    transposed convolution that ends in the three channels of an image uses a small part of the processor's lanes only;
    this one ends in 3·s².

    >>> weight, grad = torch.randn(8, 3, 4, 4), torch.randn(1, 8, 3, 3)
    >>> found = convolution_input_by_phases(grad, (1, 3, 12, 12), weight, (4, 4), (0, 0))
    >>> torch.allclose(found, torch.nn.functional.conv_transpose2d(grad, weight, stride=4), atol=1e-5)
    True
    """
    (out, channels, *kernel), (down, across) = weight.shape, stride
    high, wide = -(-kernel[0] // down), -(-kernel[1] // across)  # taps of each phase
    whole = pad(weight, (0, wide * across - kernel[1], 0, high * down - kernel[0]))
    phases = whole.reshape(out, channels, high, down, wide, across).flip(2, 4).permute(1, 3, 5, 0, 2, 4)
    phases = phases.reshape(channels * down * across, out, high, wide).contiguous(memory_format=torch.channels_last)
    found = conv2d(grad, phases, padding=(high - 1, wide - 1))  # (N, C·s², q, q)
    rows, columns = found.shape[2:]
    found = found.reshape(-1, channels, down, across, rows, columns).permute(0, 1, 4, 2, 5, 3)
    found = found.reshape(-1, channels, rows * down, columns * across)  # starts at −padding
    bottom, right = (size + p for size, p in zip(input_shape[2:], padding, strict=True))
    missing = (0, max(0, right - columns * across), 0, max(0, bottom - rows * down))  # what no kernel reached
    return pad(found, missing)[:, :, padding[0] : bottom, padding[1] : right].contiguous()


def convolution_weight(
    grad, input, weight_shape, stride, padding, dilation, groups, transposed=False, output_padding=0
):
    """The adjoint of a convolution's kernel: the correlation of input and adjoint."""
    shape_only = grad.new_empty(tuple(weight_shape))
    args = (shape_only, stride, padding, dilation, groups, transposed, output_padding)
    if grad.ndim < len(weight_shape):
        return _convolution((False, True), grad[None], input[None], *args)[1]
    return _convolution((False, True), grad, input, *args)[1]


def convolution_bias(grad: Tensor, weight_shape: Sequence[int]) -> Tensor:
    """The adjoint of a bias: the sum over examples and positions."""
    channel = grad.ndim - len(weight_shape) + 1
    return grad.sum([axis for axis in range(grad.ndim) if axis != channel])


row(
    "conv1d.default",
    "conv2d.default",
    "conv3d.default",
    input=lambda grad, input_shape, weight, stride, padding, dilation, groups: convolution_input(
        grad, input_shape, weight, stride, padding, dilation, groups
    ),
    weight=lambda grad, input, weight_shape, stride, padding, dilation, groups: convolution_weight(
        grad, input, weight_shape, stride, padding, dilation, groups
    ),
    bias=convolution_bias,
)
row(
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    input=lambda grad, input_shape, weight, stride, padding, dilation, groups, output_padding: convolution_input(
        grad, input_shape, weight, stride, padding, dilation, groups, True, output_padding
    ),
    weight=lambda grad, input, weight_shape, stride, padding, dilation, groups, output_padding: convolution_weight(
        grad, input, weight_shape, stride, padding, dilation, groups, True, output_padding
    ),
    bias=convolution_bias,
)
row("convolution", "_convolution", input=convolution_input, weight=convolution_weight, bias=convolution_bias)


def _numeric(padding: str, grad: Tensor, weight_shape: Sequence[int], dilation: Sequence[int]) -> tuple:
    """Padding in words as numbers, and the adjoint that fits them.

    "same" pads d·(k − 1) in all, the odd one on the right. It is a convolution padded on both sides by the larger half
    whose first row and column were dropped: their adjoint is zero.
    """
    spatial = len(weight_shape) - 2
    if padding == "valid":
        return grad, [0] * spatial
    total = [d * (k - 1) for d, k in zip(listed(dilation, spatial), weight_shape[2:], strict=True)]
    if any(t % 2 for t in total):
        grad = pad(grad, [amount for t in reversed(total) for amount in (t % 2, 0)])
    return grad, [t - t // 2 for t in total]


def padded_input(grad, input_shape, weight, stride, padding, dilation, groups):
    """The adjoint of the input of a convolution whose padding is given in words."""
    grad, padding = _numeric(padding, grad, weight.shape, dilation)
    return convolution_input(grad, input_shape, weight, stride, padding, dilation, groups)


def padded_weight(grad, input, weight_shape, stride, padding, dilation, groups):
    """The adjoint of the kernel of a convolution whose padding is given in words."""
    grad, padding = _numeric(padding, grad, weight_shape, dilation)
    return convolution_weight(grad, input, weight_shape, stride, padding, dilation, groups)


row(
    "conv1d.padding",
    "conv2d.padding",
    "conv3d.padding",
    input=padded_input,
    weight=padded_weight,
    bias=convolution_bias,
)


def double_backward(
    grad, grad_output, input, weight, stride, padding, dilation, transposed, output_padding, groups, needs
):
    """Second derivatives: a convolution's adjoints are bilinear in (δy, w) and (δy, x), and bilinear in them again.

    With u and v the adjoints of δx and Δw: that of δy is conv(u, w) + conv(x, v) (+ that of Δb for every position),
    that of x is the input's adjoint of δy under v, and that of w is the kernel's adjoint of δy under u.
    """
    u, v, b = grad
    args = (stride, padding, dilation)
    d_output = d_input = d_weight = None
    if "grad_output" in needs:
        terms = [] if u is None else [aten.convolution(u, weight, None, *args, transposed, output_padding, groups)]
        terms += [] if v is None else [aten.convolution(input, v, None, *args, transposed, output_padding, groups)]
        terms += [] if b is None else [b.view(1, -1, *[1] * (grad_output.ndim - 2)).expand_as(grad_output)]
        d_output = sum(terms)
    if "input" in needs:
        d_input = (
            torch.zeros_like(input)
            if v is None
            else convolution_input(grad_output, input.shape, v, *args, groups, transposed, output_padding)
        )
    if "weight" in needs:
        d_weight = (
            torch.zeros_like(weight)
            if u is None
            else convolution_weight(grad_output, u, weight.shape, *args, groups, transposed, output_padding)
        )
    return d_output, d_input, d_weight


row("convolution_backward", joint=(("grad_output", "input", "weight"), double_backward))
