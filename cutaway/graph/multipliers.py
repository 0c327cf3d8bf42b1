"""DeepLIFT's rescale rule as a rule set: the adjoint that flows is a multiplier, Δoutput = Σ multiplier · Δinput.

The batch holds the inputs, then as many baselines: x = torch.cat([inputs, baselines]). A function of one number has
the multiplier Δy/Δx; sums and layers with weights have their usual rule; a product has the mean of the other factor, so
that Δ(ab) = Δa·mean(b) + Δb·mean(a) exactly. What is made of these (softmax, norms, attention) is taken apart.

Values must keep the batch as the outermost part of the dimension it lies in.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cutaway.graph import tables  # noqa: F401 - fills the table
from cutaway.graph.nodes import Node
from cutaway.graph.relevance import moves
from cutaway.graph.rows import TABLE, Row, named, of_operations, requests
from cutaway.graph.shapes import sum_to
from cutaway.graph.table_attention import _repeated, _ungrouped, attention_weights
from cutaway.graph.table_pooling import to_maxima

NEAR = 1e-6  # below this difference, relative to the two values, the derivative stands in for Δy/Δx


def batch_axis(node: Any) -> int:
    """The dimension the batch lies in: the one with a dynamic size, otherwise the first."""
    shape = node.shape if isinstance(node, Node) and node.shape else ()
    return next((axis for axis, size in enumerate(shape) if isinstance(size, str)), 0)


def swapped(value: Tensor, axis: int = 0) -> Tensor:
    """Inputs and baselines in each other's place."""
    first, second = value.chunk(2, axis)
    return torch.cat([second, first], axis)


def mean_of(value: Any, node: Any) -> Any:
    """The mean of what a value is for an input and for its baseline; a parameter is itself."""
    return (value + swapped(value, batch_axis(node))) / 2 if moves(node) else value


def times_slope(grad: Tensor, x: Tensor, y: Tensor, derivative: Tensor, axis: int) -> Tensor:
    """The adjoint times Δy/Δx, or times the derivative where Δx is (nearly) zero.

    Δy/Δx is the same for an input and its baseline, so that it is computed once for both.
    """
    (x, base), (y, low) = x.chunk(2, axis), y.chunk(2, axis)
    dx = x - base
    near = dx.abs() <= NEAR * (x.abs() + base.abs())
    slope = (y - low).div_(dx.masked_fill_(near, 1))
    slope = torch.where(near, sum(derivative.chunk(2, axis)) / 2, slope)  # half the batch
    return (grad.unflatten(axis, (2, -1)) * slope.unsqueeze(axis)).flatten(axis, axis + 1)


def rescaled(operation: str, argument: str = "self") -> Callable:
    """The rescale rule of a function of one number."""
    usual = TABLE[f"aten.{operation}"].function_for(argument)
    assert usual is not None and usual[1] is not None  # noqa: S101 - the table has these rows
    function, asked = usual[1], requests(usual[1])
    names = tuple(dict.fromkeys(("grad", argument, "result", "node", *asked)))

    def serve(*values: Any) -> Tensor:
        given = dict(zip(names, values, strict=True))
        grad, x, y = given["grad"], given[argument], given["result"]
        given["grad"] = torch.ones_like(grad)
        derivative = function(**{name: given[name] for name in asked})
        return times_slope(grad, x, y, derivative, batch_axis(given["node"]))

    return named(names, serve)


def factor(operation: str, argument: str, other: str, place: int) -> Callable:
    """The usual rule of a product with the other factor's mean over input and baseline."""
    usual = TABLE[f"aten.{operation}"].function_for(argument)
    assert usual is not None and usual[1] is not None  # noqa: S101 - the table has these rows
    function, asked = usual[1], requests(usual[1])
    names = tuple(dict.fromkeys(("node", *asked)))

    def serve(*values: Any) -> Tensor:
        given = dict(zip(names, values, strict=True))
        given[other] = mean_of(given[other], given["node"].args[1 - place])
        return function(**{name: given[name] for name in asked})

    return named(names, serve)


def quotient_self(grad: Tensor, other: Tensor, node: Node) -> Tensor:
    """a/b = a·(1/b)."""
    return grad * mean_of(1 / other, node.args[1])


def quotient_other(grad: Tensor, self: Tensor, other: Tensor, node: Node) -> Tensor:
    """Δ(1/b) = −Δb / (b·b′)."""
    both = other * swapped(other, batch_axis(node.args[1])) if moves(node.args[1]) else other * other
    return -grad * mean_of(self, node.args[0]) / both


def max_pool(grad: Tensor, self: Tensor, result: Tensor, indices: Tensor, node: Node, spatial: int = 2) -> Tensor:
    """Δy/Δx, where the input's maximum stands if that is the larger one, otherwise where the baseline's stands."""
    axis = batch_axis(node)
    dy, dx = result - swapped(result, axis), self - swapped(self, axis)
    there = swapped(indices, axis)
    own = to_maxima(grad * dy.clamp(min=0), indices, self.shape, spatial)
    others = to_maxima(grad * dy.clamp(max=0), there, self.shape, spatial)
    total = own + others
    return torch.where(total == 0, 0, total / torch.where(total == 0, 1, dx))


def softmax_multiplier(grad: Tensor, x: Tensor, axis: int, dim: int) -> Tensor:
    """y = e/Σe with e = exp x: a quotient, a sum and a function of one number; e is scaled by a constant for range."""
    finite = x.masked_fill(~torch.isfinite(x), torch.finfo(x.dtype).min)
    top = finite.amax(dim, keepdim=True)
    top = torch.maximum(top, swapped(top, axis))
    e = (finite - top).exp()
    total = e.sum(dim, keepdim=True)
    d_e = grad * (1 / total + 1 / swapped(total, axis)) / 2
    d_total = -(grad * (e + swapped(e, axis)) / 2).sum(dim, keepdim=True) / (total * swapped(total, axis))
    return times_slope(d_e + d_total, finite, e, e, axis)


def softmax(grad: Tensor, self: Tensor, dim: int, node: Node) -> Tensor:
    """Softmax taken apart."""
    return softmax_multiplier(grad, self, batch_axis(node), dim)


def log_softmax(grad: Tensor, self: Tensor, dim: int, node: Node) -> Tensor:
    """y = x − ln Σ eˣ."""
    axis = batch_axis(node)
    top = self.amax(dim, keepdim=True)
    top = torch.maximum(top, swapped(top, axis))
    e = (self - top).exp()
    total = e.sum(dim, keepdim=True)
    d_total = times_slope(-grad.sum(dim, keepdim=True), total, total.log(), 1 / total, axis)
    return grad + times_slope(d_total.expand_as(self), self, e, e, axis)


def normalised(grad: Tensor, x: Tensor, over: list[int], eps: float, axis: int, centred: bool = True) -> Tensor:
    """x̂ = (x − μ)·r with r = (mean (x − μ)² + ε)^−½: a product, a square and a function of one number."""
    c = x - x.mean(over, keepdim=True) if centred else x
    power = c.square().mean(over, keepdim=True) + eps
    r = torch.rsqrt(power)
    mean_c, mean_r = (c + swapped(c, axis)) / 2, (r + swapped(r, axis)) / 2
    d_r = (grad * mean_c).sum(over, keepdim=True)
    d_power = times_slope(d_r, power, r, -0.5 * r / power, axis)
    size = x.numel() // power.numel()
    d_c = grad * mean_r + d_power * 2 * mean_c / size
    return d_c - d_c.mean(over, keepdim=True) if centred else d_c


def layer_norm(grad, input, normalized_shape, weight, eps, node):
    """Layer norm taken apart."""
    over = list(range(-len(normalized_shape), 0))
    return normalised(grad if weight is None else grad * weight, input, over, eps, batch_axis(node))


def rms_norm(grad, input, normalized_shape, weight, eps, node):
    """Root-mean-square norm taken apart."""
    over = list(range(-len(normalized_shape), 0))
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    return normalised(grad if weight is None else grad * weight, input, over, eps, batch_axis(node), False)


def group_norm(grad: Tensor, input: Tensor, num_groups: int, weight: Tensor | None, eps: float) -> Tensor:
    """Group norm taken apart."""
    scaled = grad if weight is None else grad * weight.view(1, -1, *[1] * (input.ndim - 2))
    shape = (input.shape[0], num_groups, -1)
    return normalised(scaled.reshape(shape), input.reshape(shape), [-1], eps, 0).reshape(input.shape)


def attention(grad, query, key, value, attn_mask, is_causal, scale, enable_gqa, node):
    """Two products with a softmax between them."""
    axis = batch_axis(node)
    keys, values = _repeated(key, query, enable_gqa), _repeated(value, query, enable_gqa)
    weights, scale = attention_weights(query, keys, attn_mask, is_causal, scale)
    mean_w, mean_v = (weights + swapped(weights, axis)) / 2, (values + swapped(values, axis)) / 2
    mean_q, mean_k = (query + swapped(query, axis)) / 2, (keys + swapped(keys, axis)) / 2
    scores = (query @ keys.mT) * scale
    if attn_mask is not None and attn_mask.dtype != torch.bool:
        scores = scores + attn_mask
    d_scores = softmax_multiplier(grad @ mean_v.mT, scores.masked_fill(weights == 0, -torch.inf), axis, -1) * scale
    return (
        sum_to(d_scores @ mean_k, query.shape),
        _ungrouped(d_scores.mT @ mean_q, key.shape),
        _ungrouped(mean_w.mT @ grad, value.shape),
        None,
    )


UNARY = (
    "relu", "relu6", "leaky_relu", "prelu", "elu", "celu", "selu", "gelu", "silu", "mish", "sigmoid", "tanh",
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
        **{name: rescaled(name) for name in UNARY},
        **{
            name: {first: factor(name, first, second, 0), second: factor(name, second, first, 1)}
            for name, (first, second) in FACTORS.items()
        },
        "div.Tensor": {"self": quotient_self, "other": quotient_other},
        "max_pool2d": lambda grad, self, result, indices, node: max_pool(grad, self, result, indices, node),
        "max_pool1d": lambda grad, self, result, indices, node: max_pool(grad, self, result, indices, node, 1),
        "max_pool3d": lambda grad, self, result, indices, node: max_pool(grad, self, result, indices, node, 3),
        "softmax": softmax,
        "log_softmax": log_softmax,
        "layer_norm": {"input": layer_norm},
        "rms_norm": {"input": rms_norm},
        "group_norm": {"input": group_norm},
        "scaled_dot_product_attention": Row({("query", "key", "value", "attn_mask"): attention}),
    }
)
"""DeepLIFT's rescale rule. Stack inputs and baselines along the batch; attribution = multiplier × (input − baseline),
and sum to the difference of the outputs.

Source: Shrikumar, Greenside, Kundaje, Learning Important Features Through Propagating Activation Differences, 2017,
section 3.5.1; the product rule: section 3.5.2's Shapley values for two factors."""
