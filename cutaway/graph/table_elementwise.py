"""Rows of elementwise arithmetic: sums, products, powers, functions of one number, choices between numbers."""

import math

import torch
from torch import Tensor

from cutaway.graph.rows import row

# sums and products; broadcasting, so that adjoints are summed back to each argument's shape
row(
    "add.Tensor",
    broadcasts=True,
    self=lambda grad: grad,
    other=lambda grad, alpha: grad if alpha == 1 else grad * alpha,
)
row("add.Scalar", "sub.Scalar", self=lambda grad: grad)
row(
    "sub.Tensor",
    broadcasts=True,
    self=lambda grad: grad,
    other=lambda grad, alpha: -grad if alpha == 1 else grad * -alpha,
)
row(
    "rsub.Tensor",
    "rsub.Scalar",
    broadcasts=True,
    self=lambda grad, alpha: -grad if alpha == 1 else grad * -alpha,
    other=lambda grad: grad,
)
row("mul.Tensor", broadcasts=True, self=lambda grad, other: grad * other, other=lambda grad, self: grad * self)
row("mul.Scalar", self=lambda grad, other: grad * other)
row(
    "div.Tensor",
    broadcasts=True,
    self=lambda grad, other: grad / other,
    other=lambda grad, other, result: -grad * result / other,
)
row("div.Scalar", self=lambda grad, other: grad / other)
row(
    "div.Tensor_mode",
    broadcasts=True,
    self=lambda grad, other, rounding_mode: grad / other if rounding_mode is None else torch.zeros_like(grad),
    other=lambda grad, self, other, rounding_mode: (
        -grad * (self / other) / other if rounding_mode is None else torch.zeros_like(grad)
    ),
)
row("div.Scalar_mode", self=lambda grad, other, rounding_mode: grad / other * (rounding_mode is None))
row(
    "remainder.Tensor",
    broadcasts=True,
    self=lambda grad: grad,
    other=lambda grad, self, other: -grad * torch.div(self, other, rounding_mode="floor"),
)
row(
    "fmod.Tensor",
    broadcasts=True,
    self=lambda grad: grad,
    other=lambda grad, self, other: -grad * torch.div(self, other, rounding_mode="trunc"),
)
row("remainder.Scalar", "fmod.Scalar", "frac", self=lambda grad: grad)
row("neg", self=lambda grad: -grad)
row("reciprocal", self=lambda grad, result: -grad * result * result)
row(
    "addcmul",
    broadcasts=True,
    self=lambda grad: grad,
    tensor1=lambda grad, tensor2, value: grad * tensor2 * value,
    tensor2=lambda grad, tensor1, value: grad * tensor1 * value,
)
row(
    "addcdiv",
    broadcasts=True,
    self=lambda grad: grad,
    tensor1=lambda grad, tensor2, value: grad * value / tensor2,
    tensor2=lambda grad, tensor1, tensor2, value: -grad * value * tensor1 / (tensor2 * tensor2),
)
row(
    "lerp.Scalar",
    broadcasts=True,
    self=lambda grad, weight: grad * (1 - weight),
    end=lambda grad, weight: grad * weight,
)
row(
    "lerp.Tensor",
    broadcasts=True,
    self=lambda grad, weight: grad * (1 - weight),
    end=lambda grad, weight: grad * weight,
    weight=lambda grad, self, end: grad * (end - self),
)

# powers, exponentials, logarithms
row("square", self=lambda grad, self: grad * self * 2)
row("sqrt", self=lambda grad, result: grad / (2 * result))
row("rsqrt", self=lambda grad, result: grad * -0.5 * result * result * result)


def pow_scalar(grad: Tensor, self: Tensor, exponent: float) -> Tensor:
    """x^p: p·x^(p−1), and 0 for p = 0."""
    if exponent == 0:
        return torch.zeros_like(grad)
    return grad * (self * 2 if exponent == 2 else self.pow(exponent - 1) * exponent)


def pow_base(grad: Tensor, self: Tensor, exponent: Tensor) -> Tensor:
    """x^p by x: p·x^(p−1), and 0 for p = 0, whatever x is."""
    return torch.where(exponent == 0, 0, grad * (exponent * self.pow(exponent - 1)))


def pow_exponent(grad: Tensor, self: Tensor | float, exponent: Tensor, result: Tensor) -> Tensor:
    """x^p by p: x^p·ln x, and 0 for x = 0 and p ≥ 0."""
    base = torch.as_tensor(self, dtype=result.dtype, device=result.device)
    still = (base == 0) & (exponent >= 0)
    return grad * torch.where(still, 0, result * torch.where(still, 1, base).log())


row("pow.Tensor_Scalar", self=pow_scalar)
row("pow.Tensor_Tensor", broadcasts=True, self=pow_base, exponent=pow_exponent)
row("pow.Scalar", exponent=pow_exponent)
row("exp", self=lambda grad, result: grad * result)
row("exp2", self=lambda grad, result: grad * result * math.log(2))
row("expm1", self=lambda grad, result: grad * (result + 1))
row("log", self=lambda grad, self: grad / self)
row("log2", self=lambda grad, self: grad / (self * math.log(2)))
row("log10", self=lambda grad, self: grad / (self * math.log(10)))
row("log1p", self=lambda grad, self: grad / (self + 1))
row(
    "logaddexp",
    broadcasts=True,
    self=lambda grad, self, result: grad * torch.exp(self - result),
    other=lambda grad, other, result: grad * torch.exp(other - result),
)
row(
    "logaddexp2",
    broadcasts=True,
    self=lambda grad, self, result: grad * torch.exp2(self - result),
    other=lambda grad, other, result: grad * torch.exp2(other - result),
)
row(
    "xlogy.Tensor",
    broadcasts=True,
    self=lambda grad, self, other: grad * torch.where((self == 0) & (other <= 0), 0, other.log()),
    other=lambda grad, self, other: grad * self / other,
)
row("xlogy.Scalar_Other", self=lambda grad, other: grad * math.log(other))
row("xlogy.Scalar_Self", other=lambda grad, self, other: grad * self / other)

# trigonometric and hyperbolic functions, and the error function's relatives
row("sin", self=lambda grad, self: grad * self.cos())
row("cos", self=lambda grad, self: grad * -self.sin())
row("tan", self=lambda grad, result: grad * (1 + result * result))
row("asin", self=lambda grad, self: grad * torch.rsqrt(1 - self * self))
row("acos", self=lambda grad, self: -grad * torch.rsqrt(1 - self * self))
row("atan", self=lambda grad, self: grad / (1 + self * self))
row("sinh", self=lambda grad, self: grad * self.cosh())
row("cosh", self=lambda grad, self: grad * self.sinh())
row("asinh", self=lambda grad, self: grad * torch.rsqrt(self * self + 1))
row("acosh", self=lambda grad, self: grad * torch.rsqrt(self * self - 1))
row("atanh", self=lambda grad, self: grad / (1 - self * self))
row(
    "atan2",
    broadcasts=True,
    self=lambda grad, self, other: grad * other / (self * self + other * other),
    other=lambda grad, self, other: -grad * self / (self * self + other * other),
)
row(
    "hypot",
    broadcasts=True,
    self=lambda grad, self, result: grad * self / result,
    other=lambda grad, other, result: grad * other / result,
)
row("erf", self=lambda grad, self: grad * (2 / math.sqrt(math.pi)) * torch.exp(-self * self))
row("erfc", self=lambda grad, self: grad * (-2 / math.sqrt(math.pi)) * torch.exp(-self * self))
row("erfinv", self=lambda grad, result: grad * (math.sqrt(math.pi) / 2) * torch.exp(result * result))
row("lgamma", self=lambda grad, self: grad * torch.digamma(self))
row("digamma", self=lambda grad, self: grad * torch.polygamma(1, self))
row("polygamma", self=lambda grad, self, n: grad * torch.polygamma(n + 1, self))


def logit(grad: Tensor, self: Tensor, eps: float | None) -> Tensor:
    """1 / (p·(1 − p)); 0 where p was clamped to [ε, 1 − ε]."""
    inside = grad / (self * (1 - self))
    return inside if eps is None else torch.where((self < eps) | (self > 1 - eps), 0, inside)


def sinc(grad: Tensor, self: Tensor) -> Tensor:
    """(πx·cos πx − sin πx) / (πx²), and 0 at x = 0."""
    x = torch.where(self == 0, 1, self)
    turn = math.pi * x
    return grad * torch.where(self == 0, 0, (turn * turn.cos() - turn.sin()) / (turn * x))


row("logit", self=logit)
row("sinc", self=sinc)

# signs, rounding, choices
row("abs", self=lambda grad, self: grad * self.sgn())
row(
    "sign",
    "sgn",
    "floor",
    "ceil",
    "round",
    "trunc",
    "floor_divide",
    "heaviside",
    "round.decimals",
    self=None,
    other=None,
    values=None,
)
row("nan_to_num", self=lambda grad, self: grad * torch.isfinite(self))
row("deg2rad", self=lambda grad: grad * (math.pi / 180))
row("rad2deg", self=lambda grad: grad * (180 / math.pi))
row(
    "where",
    broadcasts=True,
    condition=None,
    self=lambda grad, condition: torch.where(condition, grad, 0),
    other=lambda grad, condition: torch.where(condition, 0, grad),
)
row(
    "masked_fill",
    broadcasts=True,
    self=lambda grad, mask: grad.masked_fill(mask, 0),
    value=lambda grad, mask: grad.masked_fill(~mask, 0),
)


def _half_ties(grad: Tensor, wins: Tensor, ties: Tensor) -> Tensor:
    return grad * (wins.to(grad.dtype) + 0.5 * ties)


row(
    "maximum",
    "max.other",
    broadcasts=True,
    self=lambda grad, self, other: _half_ties(grad, self > other, self == other),
    other=lambda grad, self, other: _half_ties(grad, other > self, self == other),
)
row(
    "minimum",
    "min.other",
    broadcasts=True,
    self=lambda grad, self, other: _half_ties(grad, self < other, self == other),
    other=lambda grad, self, other: _half_ties(grad, other < self, self == other),
)
row(
    "fmax",
    broadcasts=True,
    self=lambda grad, self, other: grad * ((self >= other) | other.isnan()),
    other=lambda grad, self, other: grad * ~((self >= other) | other.isnan()),
)
row(
    "fmin",
    broadcasts=True,
    self=lambda grad, self, other: grad * ((self <= other) | other.isnan()),
    other=lambda grad, self, other: grad * ~((self <= other) | other.isnan()),
)


def clamp(grad: Tensor, self: Tensor, min: float | Tensor | None, max: float | Tensor | None) -> Tensor:
    """1 inside the bounds (both included), 0 outside."""
    inside = torch.ones_like(self, dtype=torch.bool)
    inside = inside if min is None else inside & (self >= min)
    inside = inside if max is None else inside & (self <= max)
    return grad * inside


row("clamp.default", self=clamp)
row(
    "clamp.Tensor",
    broadcasts=True,
    self=clamp,
    min=lambda grad, self, min, max: grad * (self < min if max is None else (self < min) & (min < max)),
    max=lambda grad, self, min, max: grad * (self > max if min is None else (self > max) | (max < min)),
)
row(
    "clamp_min",
    broadcasts=True,
    self=lambda grad, self, min: grad * (self >= min),
    min=lambda grad, self, min: grad * (self < min),
)
row(
    "clamp_max",
    broadcasts=True,
    self=lambda grad, self, max: grad * (self <= max),
    max=lambda grad, self, max: grad * (self > max),
)

# copies and casts; the kind of number of an adjoint is that of its value
row("clone", "contiguous", "alias", "positive", "lift_fresh", "lift_fresh_copy", self=lambda grad: grad)
row(
    "_to_copy",
    "to.dtype",
    "to.device",
    "to.dtype_layout",
    "to.other",
    "type_as",
    broadcasts=True,
    self=lambda grad: grad,
    other=None,
)

row("copy", broadcasts=True, self=None, src=lambda grad: grad)
row("fill", self=None, value=lambda grad: grad.sum())

# values that depend on no number of their argument
row(
    "detach",
    "zeros_like",
    "ones_like",
    "full_like",
    "empty_like",
    "rand_like",
    "randn_like",
    "randint_like",
    "bernoulli",
    "new_zeros",
    "new_ones",
    "new_full",
    "new_empty",
    "new_empty_strided",
    self=None,
    p=None,
)
