"""Rows of network operations: pooling, normalisation, softmax, losses, attention."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cutaway.graph.rows import row

aten = torch.ops.aten


def max_pool2d_forward(self, kernel_size, stride=(), padding=0, dilation=1, ceil_mode=False):
    """Max pooling that also tells where each maximum stands."""
    return aten.max_pool2d_with_indices(self, kernel_size, stride, padding, dilation, ceil_mode)


def _two(value: int | Sequence[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value) * (2 if len(value) == 1 else 1)


row(
    "max_pool2d",
    forward=max_pool2d_forward,
    residuals=("indices",),
    self=lambda grad, self, kernel_size, stride, padding, dilation, ceil_mode, indices: (
        aten.max_pool2d_with_indices_backward(
            grad,
            self,
            _two(kernel_size),
            _two(stride or kernel_size),
            _two(padding),
            _two(dilation),
            ceil_mode,
            indices,
        )
    ),
)
row(
    "avg_pool2d",
    self=lambda grad, self, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override: (
        aten.avg_pool2d_backward(
            grad, self, _two(kernel_size), _two(stride or kernel_size), _two(padding),
            ceil_mode, count_include_pad, divisor_override,
        )
    ),
)  # fmt: skip
row(
    "adaptive_avg_pool2d",
    "_adaptive_avg_pool2d",
    self=lambda grad, self: aten._adaptive_avg_pool2d_backward(grad, self),
)


# batch norm with fixed statistics is affine: y = (x − μ)·w/√(σ² + ε) + b
def _along_channels(vector: Tensor, ndim: int) -> Tensor:
    return vector.view(1, -1, *[1] * (ndim - 2))


def batch_norm_input(grad, weight, running_var, eps):
    """δx = δy·w/√(σ² + ε)."""
    scale = torch.rsqrt(running_var + eps)
    return grad * _along_channels(scale if weight is None else scale * weight, grad.ndim)


def batch_norm_weight(grad, input, running_mean, running_var, eps):
    """δw = Σ δy·(x − μ)/√(σ² + ε)."""
    normal = (input - _along_channels(running_mean, grad.ndim)) * _along_channels(
        torch.rsqrt(running_var + eps), grad.ndim
    )
    return (grad * normal).sum((0, *range(2, grad.ndim)))


row(
    "batch_norm",
    input=batch_norm_input,
    weight=batch_norm_weight,
    bias=lambda grad: grad.sum((0, *range(2, grad.ndim))),
)


def batch_norm_training(grad, result, input, weight, running_mean, running_var, training, eps, needs):
    """Batch statistics depend on the input: δx = w/σ·(δy − mean δy − x̂·mean(δy·x̂))."""
    mean, rstd = result[1], result[2]
    mask = [name in needs for name in ("input", "weight", "bias")]
    return aten.native_batch_norm_backward(
        grad[0], input, weight, running_mean, running_var, mean, rstd, training, eps, mask
    )


row("_native_batch_norm_legit_functional", running_mean=None, running_var=None,
    joint=(("input", "weight", "bias"), batch_norm_training))  # fmt: skip


def layer_norm_forward(input, normalized_shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True):
    """Layer norm that also returns mean and 1/σ."""
    return aten.native_layer_norm(input, normalized_shape, weight, bias, eps)


def layer_norm(grad, input, normalized_shape, mean, rstd, weight, bias, needs):
    """δx = 1/σ·(wδy − mean(wδy) − x̂·mean(wδy·x̂)), δw = Σ δy·x̂, δb = Σ δy."""
    mask = [name in needs for name in ("input", "weight", "bias")]
    return aten.native_layer_norm_backward(grad, input, normalized_shape, mean, rstd, weight, bias, mask)


row(
    "layer_norm",
    forward=layer_norm_forward,
    residuals=("mean", "rstd"),
    joint=(("input", "weight", "bias"), layer_norm),
)

# y = softmax(x): δx = y·(δy − Σ δy·y)
row(
    "softmax.int",
    "_softmax",
    self=lambda grad, result, dim: aten._softmax_backward_data(grad, result, dim, result.dtype),
)
row("log_softmax.int", "_log_softmax",
    self=lambda grad, result, dim: aten._log_softmax_backward_data(grad, result, dim, result.dtype))  # fmt: skip


def attention_weights(query, key, attn_mask, is_causal, scale):
    """softmax(q·kᵀ·s + mask), recomputed from what attention was given."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query @ key.mT) * scale
    if is_causal:
        keep = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~keep, -torch.inf)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return torch.softmax(scores, -1), scale


def attention(grad, query, key, value, attn_mask, is_causal, scale, needs):
    """Attention written out: with A = softmax(s·q·kᵀ), δv = Aᵀ·δy, δA = δy·vᵀ, and the softmax rule gives δq and δk."""
    weights, scale = attention_weights(query, key, attn_mask, is_causal, scale)
    d_weights = grad @ value.mT
    d_scores = weights * (d_weights - (d_weights * weights).sum(-1, keepdim=True))
    return (
        (d_scores @ key) * scale if "query" in needs else None,
        (d_scores.mT @ query) * scale if "key" in needs else None,
        weights.mT @ grad if "value" in needs else None,
    )


row("scaled_dot_product_attention", joint=(("query", "key", "value"), attention))
