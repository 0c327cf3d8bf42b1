"""Rows of elementwise operations."""

import math

import torch
from torch import Tensor

from cutaway.graph.rows import row

aten = torch.ops.aten


# arithmetic: broadcasting, so adjoints are summed back to each argument's shape
row(
    "add.Tensor",
    broadcasts=True,
    self=lambda grad: grad,
    other=lambda grad, alpha: grad if alpha == 1 else grad * alpha,
)
row("add.Scalar", broadcasts=True, self=lambda grad: grad)
row(
    "sub.Tensor",
    broadcasts=True,
    self=lambda grad: grad,
    other=lambda grad, alpha: -grad if alpha == 1 else grad * -alpha,
)
row("sub.Scalar", broadcasts=True, self=lambda grad: grad)
row("rsub.Scalar", "rsub.Tensor", broadcasts=True, self=lambda grad, alpha: grad * -alpha, other=lambda grad: grad)
row("mul.Tensor", broadcasts=True, self=lambda grad, other: grad * other, other=lambda grad, self: grad * self)
row("mul.Scalar", self=lambda grad, other: grad * other)
row(
    "div.Tensor",
    broadcasts=True,
    self=lambda grad, other: grad / other,
    other=lambda grad, other, result: -grad * result / other,
)
row("div.Scalar", self=lambda grad, other: grad / other)
row("neg", self=lambda grad: -grad)
row("reciprocal", self=lambda grad, result: -grad * result * result)
row("square", self=lambda grad, self: grad * self * 2)
row("sqrt", self=lambda grad, result: grad / (2 * result))
row("rsqrt", self=lambda grad, result: grad * -0.5 * result * result * result)
row("abs", self=lambda grad, self: grad * self.sgn())
row("exp", self=lambda grad, result: grad * result)
row("expm1", self=lambda grad, result: grad * (result + 1))
row("log", self=lambda grad, self: grad / self)
row("log2", self=lambda grad, self: grad / (self * math.log(2)))
row("log10", self=lambda grad, self: grad / (self * math.log(10)))
row("log1p", self=lambda grad, self: grad / (self + 1))
row("sin", self=lambda grad, self: grad * self.cos())
row("cos", self=lambda grad, self: grad * -self.sin())
row("erf", self=lambda grad, self: grad * (2 / math.sqrt(math.pi)) * torch.exp(-self * self))


def pow_scalar(grad: Tensor, self: Tensor, exponent: float) -> Tensor:
    """x^p: p·x^(p−1), and 0 for p = 0."""
    if exponent == 0:
        return torch.zeros_like(grad)
    return grad * (self * 2 if exponent == 2 else self.pow(exponent - 1) * exponent)


row("pow.Tensor_Scalar", self=pow_scalar)
row(
    "where.self",
    broadcasts=True,
    condition=None,
    self=lambda grad, condition: torch.where(condition, grad, 0),
    other=lambda grad, condition: torch.where(condition, 0, grad),
)
row("masked_fill.Scalar", self=lambda grad, mask: grad.masked_fill(mask, 0))


def _half_ties(grad: Tensor, wins: Tensor, ties: Tensor) -> Tensor:
    return grad * (wins.to(grad.dtype) + 0.5 * ties)


row(
    "maximum",
    broadcasts=True,
    self=lambda grad, self, other: _half_ties(grad, self > other, self == other),
    other=lambda grad, self, other: _half_ties(grad, other > self, self == other),
)
row(
    "minimum",
    broadcasts=True,
    self=lambda grad, self, other: _half_ties(grad, self < other, self == other),
    other=lambda grad, self, other: _half_ties(grad, other < self, self == other),
)


def clamp(grad: Tensor, self: Tensor, min: float | None, max: float | None) -> Tensor:  # noqa: A002 - the schema's names
    """1 inside the bounds (both included), 0 outside."""
    inside = torch.ones_like(self, dtype=torch.bool)
    inside = inside if min is None else inside & (self >= min)
    inside = inside if max is None else inside & (self <= max)
    return grad * inside


row("clamp", self=clamp)
row("clamp_min", self=lambda grad, self, min: grad * (self >= min))
row("clamp_max", self=lambda grad, self, max: grad * (self <= max))

# activations
row("relu", self=lambda grad, result: aten.threshold_backward(grad, result, 0))
row("threshold", self=lambda grad, self, threshold: aten.threshold_backward(grad, self, threshold))
row("sigmoid", self=lambda grad, result: aten.sigmoid_backward(grad, result))
row("tanh", self=lambda grad, result: aten.tanh_backward(grad, result))
row(
    "leaky_relu",
    self=lambda grad, self, negative_slope: aten.leaky_relu_backward(grad, self, negative_slope, False),
)
row(
    "elu",
    self=lambda grad, self, alpha, scale, input_scale: aten.elu_backward(grad, alpha, scale, input_scale, False, self),
)
row("gelu", self=lambda grad, self, approximate: aten.gelu_backward(grad, self, approximate=approximate))
row("silu", self=lambda grad, self: aten.silu_backward(grad, self))
row("softplus", self=lambda grad, self, beta, threshold: aten.softplus_backward(grad, self, beta, threshold))
row("hardtanh", self=lambda grad, self, min_val, max_val: grad * ((self > min_val) & (self < max_val)))
row("relu6", self=lambda grad, self: grad * ((self > 0) & (self < 6)))
row("hardswish", self=lambda grad, self: aten.hardswish_backward(grad, self))
row("hardsigmoid", self=lambda grad, self: grad * ((self > -3) & (self < 3)) / 6)

# copies and casts
row("clone", "contiguous", "alias", "positive", self=lambda grad: grad)
row("_to_copy", "to.dtype", self=lambda grad, self_dtype: grad.to(self_dtype))
row("detach", "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", self=None)
row("sign", "sgn", "floor", "ceil", "round", "trunc", self=lambda grad: torch.zeros_like(grad))
row("native_dropout", "dropout", input=lambda grad, result, p: _dropout(grad, result, p))


def _dropout(grad: tuple, result: tuple, p: float) -> Tensor:
    """The kept entries pass, scaled by 1 / (1 − p)."""
    return grad[0] * result[1] * (0.0 if p == 1 else 1 / (1 - p))
