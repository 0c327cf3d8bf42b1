"""Rows of backward kernels, so that derivatives of derivatives are served by the table too.

A kernel f′(x)·δy is linear in δy, with the kernel itself as its adjoint, and has f″(x)·δy as its slope by x.
"""

import math

import torch
from torch import Tensor

from cutaway.graph.rows import row

aten = torch.ops.aten

# piecewise linear: no second slope
row(
    "threshold_backward",
    grad_output=lambda grad, self, threshold: aten.threshold_backward(grad, self, threshold),
    self=None,
)
row(
    "leaky_relu_backward",
    grad_output=lambda grad, self, negative_slope, self_is_result: aten.leaky_relu_backward(
        grad, self, negative_slope, self_is_result
    ),
    self=None,
)

# smooth
row(
    "sigmoid_backward",
    grad_output=lambda grad, output: aten.sigmoid_backward(grad, output),
    output=lambda grad, grad_output, output: grad * grad_output * (1 - 2 * output),
)
row(
    "tanh_backward",
    grad_output=lambda grad, output: aten.tanh_backward(grad, output),
    output=lambda grad, grad_output, output: grad * grad_output * (-2 * output),
)


def gelu_curvature(x: Tensor, approximate: str) -> Tensor:
    """The second derivative of x·Φ(x): φ(x)·(2 − x²); or of its approximation by tanh."""
    if approximate == "none":
        return torch.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi)) * (2 - x * x)
    a, b = math.sqrt(2 / math.pi), 0.044715
    t = torch.tanh(a * (x + b * x * x * x))
    slope, bend = a * (1 + 3 * b * x * x), a * 6 * b * x
    return (1 - t * t) * (slope + 0.5 * x * (bend - 2 * t * slope * slope))


row(
    "gelu_backward",
    grad_output=lambda grad, self, approximate: aten.gelu_backward(grad, self, approximate=approximate),
    self=lambda grad, grad_output, self, approximate: grad * grad_output * gelu_curvature(self, approximate),
)


def silu_curvature(x: Tensor) -> Tensor:
    """σ·(1 − σ)·(2 + x·(1 − 2σ))."""
    s = torch.sigmoid(x)
    return s * (1 - s) * (2 + x * (1 - 2 * s))


row(
    "silu_backward",
    grad_output=lambda grad, self: aten.silu_backward(grad, self),
    self=lambda grad, grad_output, self: grad * grad_output * silu_curvature(self),
)


def mish_curvature(x: Tensor) -> Tensor:
    """With t = tanh(ln(1 + eˣ)): (1 − t²)·σ·(2 + x·(1 − σ − 2tσ))."""
    s, t = torch.sigmoid(x), torch.tanh(torch.nn.functional.softplus(x))
    return (1 - t * t) * s * (2 + x * (1 - s - 2 * t * s))


row(
    "mish_backward",
    grad_output=lambda grad, self: aten.mish_backward(grad, self),
    self=lambda grad, grad_output, self: grad * grad_output * mish_curvature(self),
)


def softplus_curvature(x: Tensor, beta: float, threshold: float) -> Tensor:
    """β·σ·(1 − σ), and 0 where softplus is the identity."""
    s = torch.sigmoid(beta * x)
    return torch.where(beta * x > threshold, 0, beta * s * (1 - s))


row(
    "softplus_backward",
    grad_output=lambda grad, self, beta, threshold: aten.softplus_backward(grad, self, beta, threshold),
    self=lambda grad, grad_output, self, beta, threshold: (
        grad * grad_output * softplus_curvature(self, beta, threshold)
    ),
)
row(
    "hardswish_backward",
    grad_output=lambda grad, self: aten.hardswish_backward(grad, self),
    self=lambda grad, grad_output, self: grad * grad_output * ((self > -3) & (self < 3)) / 3,
)


def elu_curvature(x: Tensor, alpha: float, scale: float, input_scale: float, is_result: bool) -> Tensor:
    """The exponential's part; x is the argument, or the result."""
    if is_result:
        return torch.where(x <= 0, input_scale, 0.0).to(x.dtype)
    bend = alpha * scale * input_scale * input_scale
    return torch.where(x <= 0, bend * torch.exp(input_scale * x.clamp(max=0)), 0)


row(
    "elu_backward",
    grad_output=lambda grad, alpha, scale, input_scale, is_result, self_or_result: aten.elu_backward(
        grad, alpha, scale, input_scale, is_result, self_or_result
    ),
    self_or_result=lambda grad, grad_output, alpha, scale, input_scale, is_result, self_or_result: (
        grad * grad_output * elu_curvature(self_or_result, alpha, scale, input_scale, is_result)
    ),
)


# δx = y·(δy − Σ δy·y)
def softmax_output(grad: Tensor, grad_output: Tensor, output: Tensor, dim: int) -> Tensor:
    """u·δy − u·Σ(δy·y) − δy·Σ(u·y)."""
    inner = (grad_output * output).sum(dim, keepdim=True)
    return grad * (grad_output - inner) - grad_output * (grad * output).sum(dim, keepdim=True)


row(
    "_softmax_backward_data",
    grad_output=lambda grad, output, dim: aten._softmax_backward_data(grad, output, dim, output.dtype),
    output=softmax_output,
)
# δx = δy − eʸ·Σ δy
row(
    "_log_softmax_backward_data",
    grad_output=lambda grad, output, dim: grad - (grad * output.exp()).sum(dim, keepdim=True),
    output=lambda grad, grad_output, output, dim: -grad * output.exp() * grad_output.sum(dim, keepdim=True),
)

# what put adjoints back in their place
row("select_backward", grad_output=lambda grad, dim, index: grad.select(dim, index))
row("slice_backward", grad_output=lambda grad, dim, start, end, step: aten.slice(grad, dim, start, end, step))
row("diagonal_backward", grad_output=lambda grad, offset, dim1, dim2: grad.diagonal(offset, dim1, dim2))
row("unfold_backward", grad_in=lambda grad, dim, size, step: grad.unfold(dim, size, step))
