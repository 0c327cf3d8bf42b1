"""Rows of what moves numbers around: reshaping, permuting, joining, cutting, padding, repeating."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cutaway.graph.rows import row
from cutaway.graph.shapes import axes, filled, inverse, join, some, sum_to

aten = torch.ops.aten

row(
    "reshape",
    "view.default",
    "_unsafe_view",
    "_reshape_alias",
    "reshape_as",
    "view_as",
    "flatten.using_ints",
    "unflatten.int",
    "squeeze",
    "unsqueeze",
    "ravel",
    "atleast_1d",
    "atleast_2d",
    "atleast_3d",
    self=lambda grad, self_shape: grad.reshape(tuple(self_shape)),
    other=None,
)
row("t", "numpy_T", "mT", "matrix_H", "adjoint", self=lambda grad: grad.mT if grad.ndim > 1 else grad)
row("numpy_T", self=lambda grad: grad.permute(*range(grad.ndim - 1, -1, -1)))
row("transpose.int", self=lambda grad, dim0, dim1: grad.transpose(dim0, dim1))
row("swapaxes", self=lambda grad, axis0, axis1: grad.transpose(axis0, axis1))
row("swapdims", self=lambda grad, dim0, dim1: grad.transpose(dim0, dim1))
row("permute", self=lambda grad, dims: grad.permute(inverse(dims)))
row("movedim", "moveaxis", self=lambda grad, source, destination: grad.movedim(destination, source))
row("expand", "broadcast_to", "expand_as", self=lambda grad, self_shape: sum_to(grad, self_shape), other=None)
row("flip", self=lambda grad, dims: grad.flip(dims))
row("fliplr", self=lambda grad: grad.fliplr())
row("flipud", self=lambda grad: grad.flipud())
row("rot90", self=lambda grad, k, dims: grad.rot90(-k, dims))
row(
    "roll",
    self=lambda grad, shifts, dims: grad.roll([-s for s in ([shifts] if isinstance(shifts, int) else shifts)], dims),
)
row("meshgrid.indexing", tensors=lambda grad, tensors_shape, indexing: _ungrid(grad, tensors_shape, indexing))


def _ungrid(grad: tuple, shapes: Sequence[Sequence[int]], indexing: str) -> list[Tensor | None]:
    """Each vector collects its grid's adjoint summed over all other dimensions."""
    order = [1, 0, *range(2, len(shapes))] if indexing == "xy" and len(shapes) > 1 else range(len(shapes))
    like = some(grad)
    found = []
    for part, axis, shape in zip(grad, order, shapes, strict=True):
        others = [d for d in range(len(shapes)) if d != axis]
        part = part if part is None or not others else part.sum(others)
        found.append(filled(part, like, shape).reshape(tuple(shape)))
    return found


# joining
def cat(grad: Tensor, tensors_shape: Sequence[Sequence[int]], dim: int) -> list[Tensor]:
    """Each tensor gets its piece of the adjoint; an empty vector, which fits everywhere, gets nothing."""
    empty = [len(shape) == 1 and shape[0] == 0 and grad.ndim != 1 for shape in tensors_shape]
    pieces = grad.split([0 if none else shape[dim] for shape, none in zip(tensors_shape, empty, strict=True)], dim)
    return [grad.new_zeros(0) if none else piece for piece, none in zip(pieces, empty, strict=True)]


row("cat", "concat", "concatenate", tensors=cat)
row("stack", tensors=lambda grad, dim: list(grad.unbind(dim)))
row("hstack", tensors=lambda grad, tensors_shape: _unstack(grad, tensors_shape, 1))
row("vstack", tensors=lambda grad, tensors_shape: _unstack(grad, tensors_shape, 0))


def _unstack(grad: Tensor, shapes: Sequence[Sequence[int]], axis: int) -> list[Tensor]:
    axis = min(axis, grad.ndim - 1)
    widths = [shape[axis] if len(shape) == grad.ndim else 1 for shape in shapes]
    return [part.reshape(tuple(shape)) for part, shape in zip(grad.split(widths, axis), shapes, strict=True)]


# cutting
def unbind(grad: tuple, self_shape: Sequence[int], dim: int) -> Tensor:
    """The parts' adjoints side by side, zeros for the parts nobody used."""
    shape = [size for axis, size in enumerate(self_shape) if axis != dim % len(self_shape)]
    return torch.stack([filled(part, some(grad), shape) for part in grad], dim)


def split(grad: tuple, self_shape: Sequence[int], split_size: int, dim: int) -> Tensor:
    """Equal parts, the last one what is left."""
    whole = self_shape[dim]
    return join(grad, [min(split_size, whole - i * split_size) for i in range(len(grad))], self_shape, dim)


row("unbind.int", self=unbind)
row("split.Tensor", "unsafe_split.Tensor", self=split)
row(
    "split.sizes",
    "split_with_sizes",
    "unsafe_split_with_sizes",
    self=lambda grad, self_shape, node, dim: join(grad, node.args[1], self_shape, dim),
)
row(
    "chunk",
    "unsafe_chunk",
    self=lambda grad, self_shape, chunks, dim: split(grad, self_shape, -(-self_shape[dim] // chunks), dim),
)


def tensor_split(grad: tuple, self_shape: Sequence[int], sections: int, dim: int) -> Tensor:
    """Parts whose sizes differ by one at most, the larger ones first."""
    small, larger = divmod(self_shape[dim], sections)
    return join(grad, [small + (i < larger) for i in range(sections)], self_shape, dim)


row("tensor_split.sections", self=tensor_split)
row(
    "select.int",
    self=lambda grad, self_shape, dim, index: aten.select_backward(grad, tuple(self_shape), dim, index),
)


def slice_tensor(
    grad: Tensor, self_shape: Sequence[int], dim: int, start: int | None, end: int | None, step: int
) -> Tensor:
    """The adjoint goes back to its place, zeros around it."""
    stop = self_shape[dim] if end is None else end
    return aten.slice_backward(grad, tuple(self_shape), dim, start or 0, stop, step)


row("slice.Tensor", self=slice_tensor)
row(
    "narrow",
    self=lambda grad, self_shape, dim, start, length: aten.slice_backward(
        grad,
        tuple(self_shape),
        dim,
        start % self_shape[dim] if start < 0 else start,
        (start % self_shape[dim] if start < 0 else start) + length,
        1,
    ),
)
row(
    "diagonal",
    self=lambda grad, self_shape, offset, dim1, dim2: aten.diagonal_backward(
        grad, tuple(self_shape), offset, dim1, dim2
    ),
)
row("diag_embed", self=lambda grad, offset, dim1, dim2: grad.diagonal(offset, dim1, dim2))
row("tril", self=lambda grad, diagonal: grad.tril(diagonal))
row("triu", self=lambda grad, diagonal: grad.triu(diagonal))
row(
    "slice_scatter",
    self=lambda grad, src_shape, dim, start, end, step: aten.slice_scatter(
        grad, grad.new_zeros(tuple(src_shape)), dim, start, end, step
    ),
    src=lambda grad, dim, start, end, step: aten.slice(grad, dim, start, end, step),
)
row(
    "select_scatter",
    self=lambda grad, src_shape, dim, index: aten.select_scatter(grad, grad.new_zeros(tuple(src_shape)), dim, index),
    src=lambda grad, dim, index: grad.select(dim, index),
)
row(
    "diagonal_scatter",
    self=lambda grad, src_shape, offset, dim1, dim2: aten.diagonal_scatter(
        grad, grad.new_zeros(tuple(src_shape)), offset, dim1, dim2
    ),
    src=lambda grad, offset, dim1, dim2: grad.diagonal(offset, dim1, dim2),
)


# padding
row("constant_pad_nd", self=lambda grad, pad: aten.constant_pad_nd(grad, [-amount for amount in pad]))


def pad_mode(grad: Tensor, self: Tensor, pad: Sequence[int], mode: str) -> Tensor:
    """Zeros fall off; mirrored, repeated and wrapped borders add to where they came from."""
    if mode == "constant":
        return aten.constant_pad_nd(grad, [-amount for amount in pad])
    return border(grad, self.shape, pad, mode)


def border(grad: Tensor, shape: Sequence[int], pad: Sequence[int], mode: str) -> Tensor:
    """Add the adjoint of a padded border to the entries it was copied from, dimension by dimension."""
    for axis in range(len(pad) // 2):
        dim, (left, right) = grad.ndim - 1 - axis, pad[2 * axis : 2 * axis + 2]
        if left or right:
            size = shape[len(shape) - 1 - axis]
            where = torch.arange(-left, size + right, device=grad.device)
            if mode == "reflect":
                where = (size - 1) - ((where.abs()) - (size - 1)).abs()
            elif mode == "replicate":
                where = where.clamp(0, size - 1)
            else:
                where = where % size
            into = [*grad.shape[:dim], size, *grad.shape[dim + 1 :]]
            grad = grad.new_zeros(into).index_add(dim, where, grad)
    return grad


row("pad", self=pad_mode)
row(
    "reflection_pad1d",
    "reflection_pad2d",
    "reflection_pad3d",
    self=lambda grad, self_shape, padding: border(grad, self_shape, padding, "reflect"),
)
row(
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
    self=lambda grad, self_shape, padding: border(grad, self_shape, padding, "replicate"),
)
row("_pad_circular", self=lambda grad, self_shape, pad: border(grad, self_shape, pad, "circular"))


# repeating
def repeat(grad: Tensor, self_shape: Sequence[int], repeats: Sequence[int]) -> Tensor:
    """Sum over the copies: each dimension is cut into (copies, size)."""
    shape = [1] * (len(repeats) - len(self_shape)) + list(self_shape)
    cut = [size for pair in zip(repeats, shape, strict=True) for size in pair]
    return grad.reshape(cut).sum(list(range(0, len(cut), 2))).reshape(tuple(self_shape)) if cut else grad


row("repeat", self=repeat)
row(
    "tile",
    self=lambda grad, self_shape, dims: repeat(grad, self_shape, [1] * (len(self_shape) - len(dims)) + list(dims)),
)


def repeat_interleave(grad: Tensor, self_shape: Sequence[int], repeats: int, dim: int | None) -> Tensor:
    """Sum over the copies, which stand side by side."""
    shape = list(self_shape)
    axis = 0 if dim is None else axes(dim, len(shape))[0]
    flat = [grad.numel() // repeats] if dim is None else shape
    cut = [*flat[: axis + 1], repeats, *flat[axis + 1 :]]
    return grad.reshape(cut).sum(axis + 1).reshape(shape)


row("repeat_interleave.self_int", self=repeat_interleave)
row("pixel_shuffle", self=lambda grad, upscale_factor: aten.pixel_unshuffle(grad, upscale_factor))
row("pixel_unshuffle", self=lambda grad, downscale_factor: aten.pixel_shuffle(grad, downscale_factor))
row("channel_shuffle", self=lambda grad, groups: aten.channel_shuffle(grad, grad.shape[1] // groups))


def unfold(grad: Tensor, self_shape: Sequence[int], dimension: int, size: int, step: int) -> Tensor:
    """Each entry collects the adjoints of all windows it lies in."""
    return aten.unfold_backward(grad, tuple(self_shape), dimension, size, step)


row("unfold", self=unfold)
row(
    "im2col",
    self=lambda grad, self_shape, kernel_size, dilation, padding, stride: aten.col2im(
        grad, tuple(self_shape[-2:]), kernel_size, dilation, padding, stride
    ),
)
row(
    "col2im",
    self=lambda grad, kernel_size, dilation, padding, stride: aten.im2col(grad, kernel_size, dilation, padding, stride),
)


def as_strided(
    grad: Tensor, self: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None
) -> Tensor:
    """Each place of memory collects the adjoints of all entries that read it (the argument is contiguous)."""
    start = 0 if storage_offset is None else storage_offset
    where = torch.arange(self.numel(), device=grad.device).as_strided(tuple(size), tuple(stride), start)
    return grad.new_zeros(self.numel()).index_add(0, where.reshape(-1), grad.reshape(-1)).reshape(self.shape)


row("as_strided", self=as_strided)
