"""Rows of normalisations: batch, layer, group and root-mean-square, with their first and second derivatives.

All are y = x̂·w + b with x̂ = (x − μ)·r, r = 1/√(σ² + ε), over different sets S of entries. With the projection
P(v) = v − mean(v) − x̂·mean(v·x̂) over S the adjoint is δx = r·P(w·δy).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cutaway.graph.rows import row
from cutaway.graph.shapes import sum_to

aten = torch.ops.aten
AFFINE = ("input", "weight", "bias")


def _along_channels(vector: Tensor, ndim: int) -> Tensor:
    return vector.view(1, -1, *[1] * (ndim - 2))


# batch norm with fixed statistics is affine: y = (x − μ)·w/√(σ² + ε) + b
def batch_norm_input(grad, weight, running_var, eps):
    """δx = δy·w/√(σ² + ε)."""
    scale = torch.rsqrt(running_var + eps)
    return grad * _along_channels(scale if weight is None else scale * weight, grad.ndim)


def batch_norm_weight(grad, input, running_mean, running_var, eps):
    """δw = Σ δy·(x − μ)/√(σ² + ε)."""
    rstd = _along_channels(torch.rsqrt(running_var + eps), grad.ndim)
    normal = (input - _along_channels(running_mean, grad.ndim)) * rstd
    return (grad * normal).sum((0, *range(2, grad.ndim)))


row(
    "batch_norm",
    input=batch_norm_input,
    weight=batch_norm_weight,
    bias=lambda grad: grad.sum((0, *range(2, grad.ndim))),
)


def batch_norm_training(grad, result, input, weight, eps, needs, running_mean=None, running_var=None, training=True):
    """Batch statistics depend on the input: δx = w/σ·(δy − mean δy − x̂·mean(δy·x̂))."""
    mean, rstd = result[1], result[2]
    mask = [name in needs for name in AFFINE]
    return aten.native_batch_norm_backward(
        grad[0], input, weight, running_mean, running_var, mean, rstd, training, eps, mask
    )


row(
    "_native_batch_norm_legit_functional",
    "_native_batch_norm_legit",
    "native_batch_norm",
    running_mean=None,
    running_var=None,
    joint=(
        AFFINE,
        lambda grad, result, input, weight, eps, needs, running_mean, running_var, training: batch_norm_training(
            grad, result, input, weight, eps, needs, running_mean, running_var, training
        ),
    ),
)
row(
    "_native_batch_norm_legit.no_stats",
    joint=(
        AFFINE,
        lambda grad, result, input, weight, eps, needs, training: batch_norm_training(
            grad, result, input, weight, eps, needs, training=training
        ),
    ),
)


# layer norm
def layer_norm_forward(input, normalized_shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True):
    """Layer norm that also returns mean and 1/σ."""
    return aten.native_layer_norm(input, normalized_shape, weight, bias, eps)


def layer_norm(grad, input, normalized_shape, mean, rstd, weight, bias, needs):
    """δx = 1/σ·(wδy − mean(wδy) − x̂·mean(wδy·x̂)), δw = Σ δy·x̂, δb = Σ δy."""
    mask = [name in needs for name in AFFINE]
    return aten.native_layer_norm_backward(grad, input, normalized_shape, mean, rstd, weight, bias, mask)


row("layer_norm", forward=layer_norm_forward, residuals=("mean", "rstd"), joint=(AFFINE, layer_norm))
row(
    "native_layer_norm",
    joint=(
        AFFINE,
        lambda grad, result, input, normalized_shape, weight, bias, needs: layer_norm(
            grad[0], input, normalized_shape, result[1], result[2], weight, bias, needs
        ),
    ),
)


# group norm
def _sizes(shape: Sequence[int]) -> tuple[int, int, int]:
    """Batch, channels, positions."""
    return shape[0], shape[1], torch.Size(shape[2:]).numel()


def group_norm_forward(input, num_groups, weight=None, bias=None, eps=1e-5, cudnn_enabled=True):
    """Group norm that also returns mean and 1/σ."""
    return aten.native_group_norm(input.contiguous(), weight, bias, *_sizes(input.shape), num_groups, eps)


def group_norm(grad, input, mean, rstd, weight, num_groups, needs):
    """As layer norm, over the channels and positions of each group."""
    mask = [name in needs for name in AFFINE]
    return aten.native_group_norm_backward(
        grad.contiguous(), input.contiguous(), mean, rstd, weight, *_sizes(input.shape), num_groups, mask
    )


row("group_norm", forward=group_norm_forward, residuals=("mean", "rstd"), joint=(AFFINE, group_norm))
row(
    "native_group_norm",
    joint=(
        AFFINE,
        lambda grad, result, input, weight, group, needs: group_norm(
            grad[0], input, result[1], result[2], weight, group, needs
        ),
    ),
)


# root-mean-square norm: no mean is subtracted
def rms_norm(grad, input, normalized_shape, weight, eps, needs):
    """δx = r·(wδy − x̂·mean(wδy·x̂)), δw = Σ δy·x̂."""
    dims = list(range(-len(normalized_shape), 0))
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    rstd = torch.rsqrt(input.square().mean(dims, keepdim=True) + eps)
    normal = input * rstd
    scaled = grad if weight is None else grad * weight
    return (
        rstd * (scaled - normal * (scaled * normal).mean(dims, keepdim=True)) if "input" in needs else None,
        sum_to(grad * normal, normalized_shape) if "weight" in needs else None,
    )


row("rms_norm", joint=(("input", "weight"), rms_norm))
row(
    "_fused_rms_norm",
    joint=(
        ("input", "weight"),
        lambda grad, input, normalized_shape, weight, eps, needs: rms_norm(
            grad[0], input, normalized_shape, weight, eps, needs
        ),
    ),
)


# weights given by direction and length: w = v·g/‖v‖, one length for each index of one dimension
def weight_norm(grad: tuple, v: Tensor, g: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """δv = g/‖v‖·(δw − v·Σδw·v/‖v‖²), δg = Σδw·v/‖v‖."""
    over = [axis for axis in range(v.ndim) if axis != dim % v.ndim]
    square = v.square().sum(over, keepdim=True)
    along, norm = (grad[0] * v).sum(over, keepdim=True), square.sqrt()
    return g / norm * (grad[0] - v * along / square), along / norm


row("_weight_norm_interface", joint=(("v", "g"), weight_norm))


# second derivatives
def twice(u, uw, ub, g, x, mean, rstd, weight, over, needs):
    """Adjoints of δy, x and w from those of δx, Δw and Δb.

    With a = w·g, m = mean(a·x̂) and c = uw·g − r·(u·m + a·mean(u·x̂)):
    δy ← w·r·P(u) + x̂·uw + ub,   x ← r·P(c) − r²·x̂·mean(u·P(a)),   w ← Σ g·r·P(u).

    Args:
        u, uw, ub: what came back to δx, Δw and Δb (None where nothing did), as wide as x.
        g, x: δy and the input.
        mean, rstd, weight: the statistics and w, as wide as x or broadcast to it.
        over: the dimensions the statistics are taken over.
        needs: which of "grad_out", "input", "weight" are wanted; w's adjoint is still to be summed to its shape.
    """
    normal = (x - mean) * rstd

    def averaged(v: Tensor) -> Tensor:
        return v.mean(over, keepdim=True)

    def project(v: Tensor) -> Tensor:
        return v - averaged(v) - normal * averaged(v * normal)

    a = g * weight
    outer = torch.zeros_like(x) if ub is None else ub
    c = torch.zeros_like(x)
    d_weight = torch.zeros_like(x)
    rest: Tensor | float = 0.0
    if uw is not None:
        outer, c = outer + normal * uw, c + uw * g
    if u is not None:
        outer = outer + weight * rstd * project(u)
        c = c - rstd * (u * averaged(a * normal) + a * averaged(u * normal))
        rest = rstd * rstd * normal * averaged(u * project(a))
        d_weight = g * rstd * project(u)
    return outer, rstd * project(c) - rest if "input" in needs else None, d_weight


def layer_norm_twice(grad, grad_out, input, normalized_shape, mean, rstd, weight, needs):
    """Second derivative of layer norm."""
    over = list(range(-len(normalized_shape), 0))
    wide = torch.ones_like(input[..., :1]) if weight is None else weight
    u, uw, ub = grad
    outer, d_input, d_weight = twice(u, uw, ub, grad_out, input, mean, rstd, wide, over, needs)
    return outer, d_input, sum_to(d_weight, normalized_shape) if "weight" in needs else None


row(
    "native_layer_norm_backward",
    mean=None,
    rstd=None,
    bias=None,
    joint=(("grad_out", "input", "weight"), layer_norm_twice),
)


def group_norm_twice(grad, grad_out, input, mean, rstd, weight, N, C, HxW, group, needs):
    """Second derivative of group norm: channels in groups, statistics over the rest of each group."""
    shape = (N, group, C // group, HxW)  # every tensor below has this shape or broadcasts to it
    channels = (1, group, C // group, 1)
    wide = grad_out.new_ones(channels) if weight is None else weight.reshape(channels)
    u = None if grad[0] is None else grad[0].reshape(shape)
    uw, ub = (None if part is None else part.reshape(channels).expand(shape) for part in grad[1:])
    outer, d_input, d_weight = twice(
        u,
        uw,
        ub,
        grad_out.reshape(shape),
        input.reshape(shape),
        mean.reshape(N, group, 1, 1),
        rstd.reshape(N, group, 1, 1),
        wide,
        [2, 3],
        needs,
    )
    return (
        outer.reshape(grad_out.shape),
        d_input.reshape(input.shape) if d_input is not None else None,
        d_weight.sum((0, 3)).reshape(C) if "weight" in needs else None,
    )


row("native_group_norm_backward", mean=None, rstd=None, joint=(("grad_out", "input", "weight"), group_norm_twice))


def batch_norm_twice(
    grad, grad_out, input, weight, running_mean, running_var, save_mean, save_invstd, train, eps, needs
):
    """Second derivative of batch norm; with fixed statistics P is the identity and x̂ is affine in x."""
    ndim, over = input.ndim, [0, *range(2, input.ndim)]
    mean = save_mean if train else running_mean
    rstd = save_invstd if train else torch.rsqrt(running_var + eps)
    mean, rstd = _along_channels(mean, ndim), _along_channels(rstd, ndim)
    wide = torch.ones_like(mean) if weight is None else _along_channels(weight, ndim)
    uw, ub = (None if part is None else _along_channels(part, ndim).expand_as(input) for part in grad[1:])
    if train:
        outer, d_input, d_weight = twice(grad[0], uw, ub, grad_out, input, mean, rstd, wide, over, needs)
    else:
        zero = torch.zeros_like(input)
        u = zero if grad[0] is None else grad[0]
        outer = wide * rstd * u + (zero if uw is None else (input - mean) * rstd * uw) + (zero if ub is None else ub)
        d_input, d_weight = (zero if uw is None else uw * grad_out * rstd), grad_out * rstd * u
    return outer, d_input, d_weight.sum(over) if "weight" in needs else None


row(
    "native_batch_norm_backward",
    running_mean=None,
    running_var=None,
    save_mean=None,
    save_invstd=None,
    joint=(("grad_out", "input", "weight"), batch_norm_twice),
)
