"""Rows of attention, written out as matrix products and a softmax."""

import torch
from torch import Tensor

from cutaway.graph.rows import row
from cutaway.graph.shapes import sum_to

aten = torch.ops.aten


def attention_weights(query, key, attn_mask, is_causal, scale):
    """softmax(q·kᵀ·s + mask), recomputed from what attention was given; also returns s."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query @ key.mT) * scale  # (…, L, S)
    if is_causal:
        keep = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~keep, -torch.inf)
    if attn_mask is None:
        return torch.softmax(scores, -1), scale
    masked = attn_mask.dtype == torch.bool
    scores = scores.masked_fill(~attn_mask, -torch.inf) if masked else scores + attn_mask
    return aten._safe_softmax(scores, -1), scale  # a query that may look nowhere gets zeros


def attention_forward(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None, enable_gqa=False
):
    """Attention with which weights dropout kept (None without dropout) and the fused kernel's row sums (or None)."""
    if dropout_p == 0 and attn_mask is None and not enable_gqa and _fused(query, key, value, is_causal, scale):
        out, sums = aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, is_causal, scale=scale)
        return out, None, sums
    if dropout_p == 0:
        out = aten.scaled_dot_product_attention(
            query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
        )
        return out, None, None
    key, value = _repeated(key, query, enable_gqa), _repeated(value, query, enable_gqa)
    weights, _ = attention_weights(query, key, attn_mask, is_causal, scale)
    kept, mask = aten.native_dropout(weights, dropout_p, True)
    return kept @ value, mask, None


FLASH = 1  # what `_fused_sdp_choice` calls the kernel that never writes the weights to memory


def _fused(query: Tensor, key: Tensor, value: Tensor, is_causal: bool, scale: float | None) -> bool:
    """Whether attention runs in one kernel here, forward and backward.

    Its backward pass has no derivative of its own and no batched form, so it serves plain numbers only: not a program
    that is itself differentiated, traced or vectorised.
    """
    plain = all(type(each) is Tensor and each.device.type == "cpu" and each.ndim == 4 for each in (query, key, value))
    if not plain or torch.is_grad_enabled() or torch.compiler.is_compiling() or _wrapped(query, key, value):
        return False
    return aten._fused_sdp_choice(query, key, value, None, 0.0, is_causal, scale=scale) == FLASH


def _wrapped(*tensors: Tensor) -> bool:
    return any(map(torch._C._functorch.is_functorch_wrapped_tensor, tensors))  # pyright: ignore[reportAttributeAccessIssue]


def _repeated(heads: Tensor, query: Tensor, enable_gqa: bool) -> Tensor:
    """Grouped queries: each head of keys and values serves several heads of queries."""
    return heads.repeat_interleave(query.shape[-3] // heads.shape[-3], -3) if enable_gqa else heads


def _ungrouped(adjoint: Tensor, shape: torch.Size) -> Tensor:
    """Sum over the copies of each head, then over broadcast dimensions."""
    if adjoint.ndim >= 3 and adjoint.shape[-3] != shape[-3] and shape[-3] != 1:
        adjoint = adjoint.unflatten(-3, (shape[-3], -1)).sum(-3)
    return sum_to(adjoint, shape)


def attention(
    grad, query, key, value, attn_mask, is_causal, scale, needs, dropped=None, dropout_p=0.0, enable_gqa=False,
    result=None, sums=None,
):  # fmt: skip
    """With A = softmax(s·q·kᵀ + mask), δv = Aᵀ·δy, δA = δy·vᵀ, and the softmax rule gives δq, δk and the mask's."""
    if sums is not None and not _wrapped(grad):
        return *aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, query, key, value, result, sums, 0.0, is_causal, scale=scale
        ), None  # fmt: skip
    keys, values = _repeated(key, query, enable_gqa), _repeated(value, query, enable_gqa)
    weights, scale = attention_weights(query, keys, attn_mask, is_causal, scale)
    d_weights = grad @ values.mT
    used = weights
    if dropped is not None:
        keep = dropped * (1 / (1 - dropout_p))
        used, d_weights = weights * keep, d_weights * keep
    d_scores = weights * (d_weights - (d_weights * weights).sum(-1, keepdim=True))
    return (
        sum_to((d_scores @ keys) * scale, query.shape) if "query" in needs else None,
        _ungrouped((d_scores.mT @ query) * scale, key.shape) if "key" in needs else None,
        _ungrouped(used.mT @ grad, value.shape) if "value" in needs else None,
        sum_to(d_scores, attn_mask.shape) if "attn_mask" in needs else None,
    )


ARGUMENTS = ("query", "key", "value", "attn_mask")
row(
    "scaled_dot_product_attention",
    forward=attention_forward,
    residuals=("dropped", "sums"),
    joint=(ARGUMENTS, attention),
)
row(
    "_scaled_dot_product_flash_attention_for_cpu",
    joint=(
        ARGUMENTS,
        lambda grad, query, key, value, attn_mask, is_causal, scale, needs: attention(
            grad[0], query, key, value, attn_mask, is_causal, scale, needs
        ),
    ),
)
