"""Rows of reductions: sums, means, extrema, products, norms, cumulative sums."""

import torch
from torch import Tensor

from cutaway.graph.rows import row
from cutaway.graph.shapes import Dims, axes, count, spread, sum_to, unreduced

# a sum may compute in another kind of number than its argument's
row("sum.default", self=lambda grad, self_shape, self_dtype: spread(grad.to(self_dtype), self_shape))
row(
    "sum.dim_IntList",
    self=lambda grad, self_shape, self_dtype, dim, keepdim: spread(grad.to(self_dtype), self_shape, dim, keepdim),
)
row(
    "mean.default",
    self=lambda grad, self_shape, self_dtype: spread(grad.to(self_dtype) / count(self_shape), self_shape),
)
row(
    "mean.dim",
    self=lambda grad, self_shape, self_dtype, dim, keepdim: spread(
        grad.to(self_dtype) / count(self_shape, dim), self_shape, dim, keepdim
    ),
)
row("nansum", self=lambda grad, self, dim, keepdim: spread(grad, self.shape, dim, keepdim) * ~self.isnan())


def extremum(grad: Tensor, self: Tensor, result: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The adjoint goes to the entries that attain the extremum, in equal parts."""
    wins = (self == unreduced(result, self.ndim, dim, keepdim)).to(grad.dtype)
    shared = wins / wins.sum(axes(dim, self.ndim), keepdim=True) if self.ndim else wins
    return unreduced(grad, self.ndim, dim, keepdim) * shared


row("amax", "amin", self=extremum)
row("max.default", "min.default", self=lambda grad, self, result: extremum(grad, self, result))


def chosen(grad: tuple, result: tuple, self_shape: tuple[int, ...], dim: int, keepdim: bool = False) -> Tensor:
    """The adjoint goes where the value was taken from."""
    found, where = grad[0], result[1]
    if not keepdim and len(self_shape):
        found, where = found.unsqueeze(dim), where.unsqueeze(dim)
    return torch.zeros(tuple(self_shape), dtype=found.dtype, device=found.device).scatter(dim, where, found)


row("max.dim", "min.dim", "median.dim", "nanmedian.dim", "mode", "kthvalue", self=chosen)
row(
    "sort",
    "sort.stable",
    "topk",
    self=lambda grad, result, self_shape, dim: chosen(grad, result, self_shape, dim, True),
)
row(
    "median",
    "nanmedian",
    self=lambda grad, self, result: extremum(grad, self, result),
)


def variance(grad: Tensor, self: Tensor, dim: Dims = None, correction: float | None = None, keepdim: bool = False):
    """2·(x − mean) / (n − correction)."""
    free = count(self.shape, dim) - (1 if correction is None else correction)
    centred = self - self.mean(axes(dim, self.ndim) or None, keepdim=True)
    return unreduced(grad, self.ndim, dim, keepdim) * centred * (2 / free)


def deviation(grad: Tensor, self: Tensor, result: Tensor, dim: Dims = None, correction=None, keepdim: bool = False):
    """The derivative of the variance over 2σ; 0 where σ is 0."""
    per_variance = (grad / (2 * result)).masked_fill(result == 0, 0)
    return variance(per_variance, self, dim, correction, keepdim)


row("var.correction", self=variance)
row("std.correction", self=deviation)
row("var", self=lambda grad, self, unbiased: variance(grad, self, None, int(unbiased)))
row(
    "var.dim",
    self=lambda grad, self, dim, unbiased, keepdim: variance(grad, self, dim, int(unbiased), keepdim),
)
row("std", self=lambda grad, self, result, unbiased: deviation(grad, self, result, None, int(unbiased)))
row(
    "std.dim",
    self=lambda grad, self, result, dim, unbiased, keepdim: deviation(grad, self, result, dim, int(unbiased), keepdim),
)


def variance_and_mean(grad: tuple, self: Tensor, dim: Dims = None, correction=None, keepdim: bool = False) -> Tensor:
    """The sum of both outputs' contributions."""
    found = torch.zeros_like(self) if grad[0] is None else variance(grad[0], self, dim, correction, keepdim)
    if grad[1] is None:
        return found
    return found + unreduced(grad[1], self.ndim, dim, keepdim) / count(self.shape, dim)


row("var_mean.correction", self=variance_and_mean)
row("var_mean", self=lambda grad, self, unbiased: variance_and_mean(grad, self, None, int(unbiased)))
row(
    "var_mean.dim",
    self=lambda grad, self, dim, unbiased, keepdim: variance_and_mean(grad, self, dim, int(unbiased), keepdim),
)


# norms
def vector_norm(grad: Tensor, self: Tensor, result: Tensor, ord: float, dim: Dims, keepdim: bool) -> Tensor:
    """x·|x|^(p−2) / ‖x‖^(p−1); where the norm is zero, 0."""
    kind, self = self.dtype, self.to(grad.dtype)
    return _norm_slope(grad, self, result, ord, dim, keepdim).to(kind)


def _norm_slope(grad: Tensor, self: Tensor, result: Tensor, ord: float, dim: Dims, keepdim: bool) -> Tensor:
    norm, grad = unreduced(result, self.ndim, dim, keepdim), unreduced(grad, self.ndim, dim, keepdim)
    if ord == 0:
        return torch.zeros_like(self)
    if ord == 1:
        return grad * self.sgn()
    if ord == 2:
        return self * (grad / norm).masked_fill(norm == 0, 0)
    if ord in (float("inf"), float("-inf")):
        wins = (self.abs() == norm).to(grad.dtype)
        return grad * self.sgn() * wins / wins.sum(axes(dim, self.ndim), keepdim=True)
    steep = self.sgn() * self.abs().pow(ord - 1) if ord < 2 else self * self.abs().pow(ord - 2)
    return (steep.masked_fill(self == 0, 0) if ord < 1 else steep) * (grad / norm.pow(ord - 1)).masked_fill(
        norm == 0, 0
    )


row("linalg_vector_norm", self=vector_norm)
row("norm.Scalar", self=lambda grad, self, result, p: vector_norm(grad, self, result, p, None, False))
row(
    "norm.ScalarOpt_dim",
    self=lambda grad, self, result, p, dim, keepdim: vector_norm(
        grad, self, result, 2 if p is None else p, dim, keepdim
    ),
)


def distances(grad: Tensor, x1: Tensor, x2: Tensor, result: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Norms of all differences between two sets of points, (…, P, M) and (…, R, M) to (…, P, R)."""
    difference = x1.unsqueeze(-2) - x2.unsqueeze(-3)  # (…, P, R, M)
    slope = _norm_slope(grad, difference, result, p, -1, False)
    return sum_to(slope.sum(-2), x1.shape), -sum_to(slope.sum(-3), x2.shape)


row("_cdist_forward", joint=(("x1", "x2"), distances))


def log_sum_exp(grad: Tensor, self: Tensor, result: Tensor, dim: Dims, keepdim: bool) -> Tensor:
    """The softmax."""
    return unreduced(grad, self.ndim, dim, keepdim) * (self - unreduced(result, self.ndim, dim, keepdim)).exp()


row("logsumexp", self=log_sum_exp)


# products and running sums
def product(grad: Tensor, self: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """For each entry the product of the others: of those before and those after it, so that zeros need no case."""
    flat = self.reshape(-1) if dim is None else self
    axis = 0 if dim is None else dim
    if self.ndim == 0:
        return grad.reshape(())
    size = flat.shape[axis]
    ones = torch.ones_like(flat.narrow(axis, 0, min(1, size)))
    before = torch.cat([ones, flat.narrow(axis, 0, max(size - 1, 0))], axis).cumprod(axis)
    after = torch.cat([flat.narrow(axis, 1, max(size - 1, 0)), ones], axis).flip(axis).cumprod(axis).flip(axis)
    others = (before * after).reshape(self.shape)
    return (grad if dim is None else unreduced(grad, self.ndim, dim, keepdim)) * others


row("prod.default", self=lambda grad, self: product(grad, self))
row("prod.dim_int", self=product)
row("cumsum", self=lambda grad, self_dtype, dim: _reversed_sum(grad, dim).to(self_dtype))


def _reversed_sum(grad: Tensor, dim: int) -> Tensor:
    return grad.flip(dim).cumsum(dim).flip(dim) if grad.ndim else grad


def cumulative_product(grad: Tensor, self: Tensor, result: Tensor, dim: int) -> Tensor:
    """δx_k = Σ_{i ≥ k} δy_i·y_i / x_k, with the product of the others in its place where an entry is zero."""
    if self.ndim == 0:
        return grad
    x, g = self.movedim(dim, -1), grad.movedim(dim, -1)
    size = x.shape[-1]
    steps = torch.arange(size, device=x.device)
    # entry (k, i): the product of x_0 … x_i without x_k
    others = torch.where(steps == steps.unsqueeze(-1), 1, x.unsqueeze(-2)).cumprod(-1)
    return (g.unsqueeze(-2) * others * (steps >= steps.unsqueeze(-1))).sum(-1).movedim(-1, dim)


row("cumprod", self=cumulative_product)
row("logcumsumexp", self=lambda grad, self, result, dim: _log_cumulative(grad, self, result, dim))


def _log_cumulative(grad: Tensor, self: Tensor, result: Tensor, dim: int) -> Tensor:
    """δx_k = Σ_{i ≥ k} δy_i·exp(x_k − y_i)."""
    if self.ndim == 0:
        return grad
    x, y, g = (tensor.movedim(dim, -1) for tensor in (self, result, grad))
    steps = torch.arange(x.shape[-1], device=x.device)
    later = steps >= steps.unsqueeze(-1)
    weights = torch.where(later, (x.unsqueeze(-1) - y.unsqueeze(-2)), -torch.inf).exp()
    return (weights * g.unsqueeze(-2)).sum(-1).movedim(-1, dim)


def cumulative_extremum(grad: tuple, result: tuple, self_shape: tuple[int, ...], dim: int) -> Tensor:
    """Each entry collects the adjoints of all places where it was the extremum so far."""
    if not len(self_shape):
        return grad[0]
    return grad[0].new_zeros(tuple(self_shape)).scatter_add(dim, result[1], grad[0])


row("cummax", "cummin", self=cumulative_extremum)
