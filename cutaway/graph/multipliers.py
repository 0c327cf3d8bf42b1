"""DeepLIFT's rescale rule as a rule set: the adjoint that flows is a multiplier, Δoutput = Σ multiplier · Δinput.

Programs with these rules compare the input with a reference: `program(x, reference=baseline)`. A function of one number
has the multiplier Δy/Δx; sums and layers with weights have their usual rule; a product has the mean of the other
factor, so that Δ(ab) = Δa·mean(b) + Δb·mean(a) exactly. What is made of these (softmax, norms, attention) is taken
apart. Values at the reference end in 0 here.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cutaway.graph import tables  # noqa: F401 - fills the table
from cutaway.graph.rows import OVERWRITING, REFERENCE, TABLE, Row, named, of_operations, requests
from cutaway.graph.shapes import sum_to
from cutaway.graph.table_attention import _repeated, _ungrouped, attention_weights
from cutaway.graph.table_pooling import max_pool2d, to_maxima

NEAR = 1e-6  # below this difference, relative to the two values, the derivative stands in for Δy/Δx


def mean_of(a: Tensor, a0: Tensor) -> Tensor:
    """The mean of what a value is for an input and for its reference; a parameter is itself."""
    return a if a is a0 else (a + a0) / 2


def times_slope(grad: Tensor, x: Tensor, y: Tensor, x0: Tensor, y0: Tensor, derivative: Tensor) -> Tensor:
    """The adjoint times Δy/Δx, or times the derivative where Δx is (nearly) zero."""
    dx = x - x0
    near = dx.abs() <= NEAR * (x.abs() + x0.abs())
    slope = (y - y0).div_(dx.masked_fill_(near, 1))
    return grad * torch.where(near, derivative, slope)


def relu(grad: Tensor, self: Tensor, self_reference: Tensor) -> Tensor:
    """Δy/Δx is max(x, x₀)/|x − x₀|, cut to [0, 1]; where both are the same, 1 if they are positive."""
    return relu_(grad.clone(), self, self_reference)


def relu_(grad: Tensor, self: Tensor, self_reference: Tensor) -> Tensor:
    """The same, written into the adjoint."""
    slope = torch.maximum(self, self_reference)
    slope.div_((self - self_reference).abs_().clamp_(min=torch.finfo(self.dtype).tiny))
    return grad.mul_(slope.clamp_(0, 1))


OVERWRITING[relu] = relu_


def rescaled(operation: str, argument: str = "self") -> Callable:
    """The rescale rule of a function of one number."""
    usual = TABLE[f"aten.{operation}"].function_for(argument)
    assert usual is not None and usual[1] is not None  # noqa: S101 - the table has these rows
    function, asked = usual[1], requests(usual[1])
    both = (argument, "result")
    names = tuple(dict.fromkeys(("grad", *both, *(name + REFERENCE for name in both), *asked)))

    def serve(*values: Any) -> Tensor:
        given = dict(zip(names, values, strict=True))
        ends = [(given[argument], given["result"]), (given[argument + REFERENCE], given["result" + REFERENCE])]
        slopes = []
        for x, y in ends:
            at = {**given, argument: x, "result": y, "grad": torch.ones_like(y)}
            slopes.append(function(**{name: at[name] for name in asked}))
        return times_slope(given["grad"], *ends[0], *ends[1], mean_of(*slopes))

    return named(names, serve)


def factor(operation: str, argument: str, other: str) -> Callable:
    """The usual rule of a product with the other factor's mean over input and reference."""
    usual = TABLE[f"aten.{operation}"].function_for(argument)
    assert usual is not None and usual[1] is not None  # noqa: S101 - the table has these rows
    function, asked = usual[1], requests(usual[1])
    names = tuple(dict.fromkeys((*asked, other, other + REFERENCE)))

    def serve(*values: Any) -> Tensor:
        given = dict(zip(names, values, strict=True))
        given[other] = mean_of(given[other], given[other + REFERENCE])
        return function(**{name: given[name] for name in asked})

    return named(names, serve)


def quotient_self(grad: Tensor, other: Tensor, other_reference: Tensor) -> Tensor:
    """a/b = a·(1/b)."""
    return grad * mean_of(1 / other, 1 / other_reference)


def quotient_other(
    grad: Tensor, self: Tensor, other: Tensor, self_reference: Tensor, other_reference: Tensor
) -> Tensor:
    """Δ(1/b) = −Δb / (b·b₀)."""
    return -grad * mean_of(self, self_reference) / (other * other_reference)


def pooled(spatial: int) -> Callable:
    """The rule of max pooling: Δy/Δx, where the input's maximum stands if that is the larger one, otherwise where the
    reference's stands."""

    def max_pool(
        grad: Tensor, self: Tensor, result: Tensor, indices: Tensor, self_reference: Tensor, result_reference: Tensor,
        indices_reference: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool,
    ) -> Tensor:  # fmt: skip
        def place(part: Tensor, where: Tensor) -> Tensor:
            if spatial == 2:
                return max_pool2d(part, self, kernel_size, stride, padding, dilation, ceil_mode, where)
            return to_maxima(part, where, self.shape, spatial)

        moved, smaller = (result - result_reference).mul_(grad), result <= result_reference
        total = place(moved.masked_fill(smaller, 0), indices)
        total += place(moved.masked_fill_(~smaller, 0), indices_reference.expand_as(indices))
        dx = self - self_reference
        return total.div_(dx.masked_fill_(dx == 0, 1))

    return max_pool


def softmax_multiplier(grad: Tensor, x: Tensor, x0: Tensor, dim: int) -> Tensor:
    """y = e/Σe with e = exp x: a quotient, a sum and a function of one number; e is scaled by a constant for range."""
    x, x0 = (each.masked_fill(~torch.isfinite(each), torch.finfo(each.dtype).min) for each in (x, x0))
    top = torch.maximum(x.amax(dim, keepdim=True), x0.amax(dim, keepdim=True))
    e, e0 = (x - top).exp(), (x0 - top).exp()
    total, total0 = e.sum(dim, keepdim=True), e0.sum(dim, keepdim=True)
    d_e = grad * mean_of(1 / total, 1 / total0)
    d_total = -(grad * mean_of(e, e0)).sum(dim, keepdim=True) / (total * total0)
    return times_slope(d_e + d_total, x, e, x0, e0, mean_of(e, e0))


def softmax(grad: Tensor, self: Tensor, self_reference: Tensor, dim: int) -> Tensor:
    """Softmax taken apart."""
    return softmax_multiplier(grad, self, self_reference, dim)


def log_softmax(grad: Tensor, self: Tensor, self_reference: Tensor, dim: int) -> Tensor:
    """y = x − ln Σ eˣ."""
    top = torch.maximum(self.amax(dim, keepdim=True), self_reference.amax(dim, keepdim=True))
    e, e0 = (self - top).exp(), (self_reference - top).exp()
    total, total0 = e.sum(dim, keepdim=True), e0.sum(dim, keepdim=True)
    sums, slope = -grad.sum(dim, keepdim=True), mean_of(1 / total, 1 / total0)
    d_total = times_slope(sums, total, total.log(), total0, total0.log(), slope)
    return grad + times_slope(d_total.expand_as(self), self, e, self_reference, e0, mean_of(e, e0))


def normalised(grad: Tensor, x: Tensor, x0: Tensor, over: list[int], eps: float, centred: bool = True) -> Tensor:
    """x̂ = (x − μ)·r with r = (mean (x − μ)² + ε)^−½: a product, a square and a function of one number."""
    c, c0 = ((each - each.mean(over, keepdim=True) if centred else each) for each in (x, x0))
    power, power0 = (each.square().mean(over, keepdim=True) + eps for each in (c, c0))
    r, r0 = torch.rsqrt(power), torch.rsqrt(power0)
    mean_c = mean_of(c, c0)
    d_r = (grad * mean_c).sum(over, keepdim=True)
    d_power = times_slope(d_r, power, r, power0, r0, -0.5 * mean_of(r / power, r0 / power0))
    d_c = grad * mean_of(r, r0) + d_power * 2 * mean_c / (x.numel() // power.numel())
    return d_c - d_c.mean(over, keepdim=True) if centred else d_c


def layer_norm(grad, input, input_reference, normalized_shape, weight, eps):
    """Layer norm taken apart."""
    over = list(range(-len(normalized_shape), 0))
    return normalised(grad if weight is None else grad * weight, input, input_reference, over, eps)


def rms_norm(grad, input, input_reference, normalized_shape, weight, eps):
    """Root-mean-square norm taken apart."""
    over = list(range(-len(normalized_shape), 0))
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    return normalised(grad if weight is None else grad * weight, input, input_reference, over, eps, centred=False)


def group_norm(grad, input, input_reference, num_groups, weight, eps):
    """Group norm taken apart."""
    scaled = grad if weight is None else grad * weight.view(1, -1, *[1] * (input.ndim - 2))
    grad, x, x0 = (each.reshape(len(each), num_groups, -1) for each in (scaled, input, input_reference))
    return normalised(grad, x, x0, [-1], eps).reshape(input.shape)


def attention(
    grad, query, key, value, query_reference, key_reference, value_reference, attn_mask, is_causal, scale, enable_gqa
):
    """Two products with a softmax between them."""
    ends = []
    for q, k, v in ((query, key, value), (query_reference, key_reference, value_reference)):
        keys, values = _repeated(k, q, enable_gqa), _repeated(v, q, enable_gqa)
        weights, factor = attention_weights(q, keys, attn_mask, is_causal, scale)
        scores = (q @ keys.mT) * factor
        if attn_mask is not None and attn_mask.dtype != torch.bool:
            scores = scores + attn_mask
        ends.append((q, keys, values, weights, scores.masked_fill(weights == 0, -torch.inf), factor))
    mean_q, mean_k, mean_v, mean_w = (mean_of(ends[0][part], ends[1][part]) for part in range(4))
    d_scores = softmax_multiplier(grad @ mean_v.mT, ends[0][4], ends[1][4], -1) * ends[0][5]
    return (
        sum_to(d_scores @ mean_k, query.shape),
        _ungrouped(d_scores.mT @ mean_q, key.shape),
        _ungrouped(mean_w.mT @ grad, value.shape),
        None,
    )


UNARY = (
    "relu6", "leaky_relu", "prelu", "elu", "celu", "selu", "gelu", "silu", "mish", "sigmoid", "tanh",
    "softplus", "hardtanh", "hardswish", "hardsigmoid", "threshold", "clamp.default", "log_sigmoid", "abs", "exp",
    "expm1", "log", "log1p", "sqrt", "rsqrt", "square", "pow.Tensor_Scalar", "reciprocal", "sin", "cos", "erf",
)  # fmt: skip
FACTORS = {
    "mul.Tensor": ("self", "other"),
    "mm": ("self", "mat2"),
    "bmm": ("self", "mat2"),
    "matmul": ("self", "other"),
}

deep_lift_rescale = of_operations(
    {
        "relu": relu,
        **{name: rescaled(name) for name in UNARY},
        **{
            name: {first: factor(name, first, second), second: factor(name, second, first)}
            for name, (first, second) in FACTORS.items()
        },
        "div.Tensor": {"self": quotient_self, "other": quotient_other},
        **{f"max_pool{spatial}d": pooled(spatial) for spatial in (1, 2, 3)},
        "softmax": softmax,
        "log_softmax": log_softmax,
        "layer_norm": {"input": layer_norm},
        "rms_norm": {"input": rms_norm},
        "group_norm": {"input": group_norm},
        "scaled_dot_product_attention": Row({("query", "key", "value", "attn_mask"): attention}),
    }
)
"""DeepLIFT's rescale rule. Attribution = multiplier × (input − reference), and these sum to the difference of the
outputs; the reference may be one example for a whole batch where `program.built.one_serves_all`.

Source: Shrikumar, Greenside, Kundaje, Learning Important Features Through Propagating Activation Differences, 2017,
section 3.5.1; the product rule: section 3.5.2's Shapley values for two factors."""
