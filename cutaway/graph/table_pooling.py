"""Rows of pooling, of resampling, and of their backward kernels, which are linear."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cutaway.graph.rows import named, row
from cutaway.graph.shapes import count, listed, spread

aten = torch.ops.aten


# maximum pooling: the adjoint goes to where each maximum stands, a position counted within the image
def max_pool2d_forward(self, kernel_size, stride=(), padding=0, dilation=1, ceil_mode=False):
    """Max pooling that also tells where each maximum stands."""
    return aten.max_pool2d_with_indices(self, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool2d(grad, self, kernel_size, stride, padding, dilation, ceil_mode, indices):
    """The adjoint goes to the maximum of each window; windows overlap, so it is summed."""
    return aten.max_pool2d_with_indices_backward(
        grad,
        self,
        listed(kernel_size, 2),
        listed(stride or kernel_size, 2),
        listed(padding, 2),
        listed(dilation, 2),
        ceil_mode,
        indices,
    )


def to_maxima(grad: Tensor, indices: Tensor, self_shape: Sequence[int], spatial: int) -> Tensor:
    """The same for any number of dimensions: add each adjoint to the place its index names."""
    lead = list(self_shape[: len(self_shape) - spatial])
    image = torch.Size(self_shape[len(self_shape) - spatial :]).numel()
    flat = grad.new_zeros([*lead, image])
    return flat.scatter_add(-1, indices.flatten(-spatial), grad.flatten(-spatial)).reshape(tuple(self_shape))


row("max_pool2d", forward=max_pool2d_forward, residuals=("indices",), self=max_pool2d)
row(
    "max_pool2d_with_indices",
    self=lambda grad, result, self, kernel_size, stride, padding, dilation, ceil_mode: max_pool2d(
        grad[0], self, kernel_size, stride, padding, dilation, ceil_mode, result[1]
    ),
)
row(
    "max_pool2d_with_indices_backward",
    grad_output=lambda grad, grad_output_shape, indices: (
        grad.flatten(-2).gather(-1, indices.flatten(-2)).reshape(tuple(grad_output_shape))
    ),
    self=None,
)
row(
    "max_pool1d",
    forward=lambda *args: aten.max_pool1d_with_indices(*args),
    residuals=("indices",),
    self=lambda grad, indices, self_shape: to_maxima(grad, indices, self_shape, 1),
)
row(
    "max_pool3d",
    forward=lambda *args: aten.max_pool3d_with_indices(*args),
    residuals=("indices",),
    self=lambda grad, indices, self_shape: to_maxima(grad, indices, self_shape, 3),
)


def _max_pool_with_indices(spatial: int) -> Callable:
    return lambda grad, result, self_shape: to_maxima(grad[0], result[1], self_shape, spatial)


row("max_pool1d_with_indices", "adaptive_max_pool1d", self=_max_pool_with_indices(1))
row("adaptive_max_pool2d", "fractional_max_pool2d", self=_max_pool_with_indices(2))
row("max_pool3d_with_indices", "adaptive_max_pool3d", "fractional_max_pool3d", self=_max_pool_with_indices(3))


row("max_unpool2d", self=lambda grad, indices: grad.flatten(-2).gather(-1, indices.flatten(-2)).reshape(indices.shape))
row("max_unpool3d", self=lambda grad, indices: grad.flatten(-3).gather(-1, indices.flatten(-3)).reshape(indices.shape))


# average pooling
def average(grad, self, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override=None, spatial=2):
    """Each window's adjoint is spread evenly over the window."""
    kernel = aten.avg_pool2d_backward if spatial == 2 else aten.avg_pool3d_backward
    return kernel(
        grad,
        self,
        listed(kernel_size, spatial),
        listed(stride or kernel_size, spatial),
        listed(padding, spatial),
        ceil_mode,
        count_include_pad,
        divisor_override,
    )


def avg_pool1d(grad, self, kernel_size, stride, padding, ceil_mode, count_include_pad):
    """A line is an image of height one."""
    kernel, step, edge = listed(kernel_size, 1)[0], listed(stride or kernel_size, 1)[0], listed(padding, 1)[0]
    image = average(
        grad.unsqueeze(-2), self.unsqueeze(-2), [1, kernel], [1, step], [0, edge], ceil_mode, count_include_pad
    )
    return image.squeeze(-2)


def avg_pool3d(grad, self, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override):
    """As in two dimensions."""
    return average(grad, self, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, 3)


row("avg_pool1d", self=avg_pool1d)
row(
    "avg_pool2d",
    self=lambda grad, self, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override: average(
        grad, self, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    ),
)
row("avg_pool3d", self=avg_pool3d)


def pool_again(pool: Callable) -> Callable:
    """The backward kernel of an average is linear; its adjoint is the pooling itself."""
    return lambda grad, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override: pool(
        grad, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


row("avg_pool2d_backward", grad_output=pool_again(aten.avg_pool2d), self=None)
row("avg_pool3d_backward", grad_output=pool_again(aten.avg_pool3d), self=None)


def adaptive_average(grad: Tensor, self: Tensor, spatial: int) -> Tensor:
    """Spread each output's adjoint over its window; a single window is the whole image."""
    if all(size == 1 for size in grad.shape[-spatial:]):
        return spread(grad / count(self.shape[-spatial:]), self.shape, None, True)
    if spatial == 1:
        return aten._adaptive_avg_pool2d_backward(grad.unsqueeze(-2), self.unsqueeze(-2)).squeeze(-2)
    kernel = aten._adaptive_avg_pool2d_backward if spatial == 2 else aten._adaptive_avg_pool3d_backward
    return kernel(grad, self)


row("adaptive_avg_pool1d", self=lambda grad, self: adaptive_average(grad, self, 1))
row("adaptive_avg_pool2d", "_adaptive_avg_pool2d", self=lambda grad, self: adaptive_average(grad, self, 2))
row("adaptive_avg_pool3d", "_adaptive_avg_pool3d", self=lambda grad, self: adaptive_average(grad, self, 3))
row(
    "_adaptive_avg_pool2d_backward",
    self=None,
    grad_output=lambda grad, grad_output_shape: aten._adaptive_avg_pool2d(grad, grad_output_shape[-2:]),
)
row(
    "_adaptive_avg_pool3d_backward",
    self=None,
    grad_output=lambda grad, grad_output_shape: aten._adaptive_avg_pool3d(grad, grad_output_shape[-3:]),
)


# resampling: linear in the image, so the adjoint is the backward kernel, and the adjoint's adjoint the resampling
def resampling(name: str, spatial: int, corners: bool) -> None:
    """Write the rows of one way of resampling.

    Args:
        name: of the operation ("upsample_bilinear2d").
        spatial: how many dimensions are resampled.
        corners: whether it has the argument align_corners.
    """
    forward, backward = getattr(aten, name).default, getattr(aten, f"{name}_backward").default
    extra = ("align_corners",) if corners else ()
    scales = ("scales",) if spatial == 1 else ("scales_d", "scales_h", "scales_w")[3 - spatial :]

    def pull(grad: Tensor, shape: Sequence[int], *rest: Any) -> Tensor:
        return backward(grad, tuple(grad.shape[-spatial:]), tuple(shape), *rest)

    def pull_factors(grad: Tensor, shape: Sequence[int], factors: Sequence[float] | None, *rest: Any) -> Tensor:
        return pull(grad, shape, *rest, *([None] * spatial if factors is None else factors))

    row(f"{name}.vec", input=named(("grad", "input_shape", "scale_factors", *extra), pull_factors))
    row(f"{name}.default", self=named(("grad", "self_shape", *extra, *scales), pull))
    row(f"{name}_backward", grad_output=named(("grad", "output_size", *extra, *scales), forward))


for nearest in ("upsample_nearest", "_upsample_nearest_exact"):
    for spatial in (1, 2, 3):
        resampling(f"{nearest}{spatial}d", spatial, False)
resampling("upsample_linear1d", 1, True)
for smooth in ("upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"):
    resampling(smooth, 2, True)
resampling("upsample_trilinear3d", 3, True)


def grid_sample(grad, input, grid, interpolation_mode, padding_mode, align_corners, needs):
    """Bilinear interpolation at given places: each adjoint goes to the corners around it, and to the place."""
    kernel = aten.grid_sampler_2d_backward if input.ndim == 4 else aten.grid_sampler_3d_backward
    mask = ["input" in needs, "grid" in needs]
    return kernel(grad, input, grid, interpolation_mode, padding_mode, align_corners, mask)


row("grid_sampler", "grid_sampler_2d", "grid_sampler_3d", joint=(("input", "grid"), grid_sample))
