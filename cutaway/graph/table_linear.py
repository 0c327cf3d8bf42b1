"""Rows of linear operations: matrix products, convolutions, reductions, and what moves numbers around."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cutaway.graph.rows import row

aten = torch.ops.aten


def _flat(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


# y = x·Wᵀ + b: δx = δy·W, ΔW = δyᵀ·x summed over all leading dimensions
row(
    "linear",
    input=lambda grad, weight: grad @ weight,
    weight=lambda grad, input: _flat(grad).T @ _flat(input) if grad.ndim > 1 else torch.outer(grad, input),
    bias=lambda grad: _flat(grad).sum(0) if grad.ndim > 1 else grad,
)
row("mm", self=lambda grad, mat2: grad @ mat2.T, mat2=lambda grad, self: self.T @ grad)
row("mv", self=lambda grad, vec: torch.outer(grad, vec), vec=lambda grad, self: self.T @ grad)
row("dot", self=lambda grad, tensor: grad * tensor, tensor=lambda grad, self: grad * self)
row("bmm", self=lambda grad, mat2: grad @ mat2.mT, mat2=lambda grad, self: self.mT @ grad)
row(
    "addmm",
    self=lambda grad, beta, self_shape: sum_to(grad * beta, self_shape),
    mat1=lambda grad, mat2, alpha: (grad @ mat2.T) * alpha,
    mat2=lambda grad, mat1, alpha: (mat1.T @ grad) * alpha,
)


def sum_to(grad: Tensor, shape: Sequence[int]) -> Tensor:
    """Sum an adjoint over the dimensions its argument was broadcast along."""
    return grad if grad.shape == tuple(shape) else grad.sum_to_size(tuple(shape))


def matmul_self(grad: Tensor, self_shape: Sequence[int], other: Tensor) -> Tensor:
    """δA = δC·Bᵀ for every case of `torch.matmul`: vectors are one-row or one-column matrices."""
    if other.ndim == 1:
        return sum_to(grad.unsqueeze(-1) * other, self_shape)
    grad = grad.unsqueeze(-2) if len(self_shape) == 1 else grad
    found = grad @ other.mT
    return sum_to(found.squeeze(-2) if len(self_shape) == 1 else found, self_shape)


def matmul_other(grad: Tensor, self: Tensor, other_shape: Sequence[int]) -> Tensor:
    """δB = Aᵀ·δC for every case of `torch.matmul`."""
    if self.ndim == 1:
        grad = grad.unsqueeze(-1) if len(other_shape) == 1 else grad
        return (
            sum_to(self * grad.squeeze(-1), other_shape) if len(other_shape) == 1 else _outer(self, grad, other_shape)
        )
    if len(other_shape) == 1:
        return sum_to((self * grad.unsqueeze(-1)).reshape(-1, self.shape[-1]).sum(0), other_shape)
    return sum_to(self.mT @ grad, other_shape)


def _outer(self: Tensor, grad: Tensor, shape: Sequence[int]) -> Tensor:
    return sum_to(self.unsqueeze(-1) * grad.unsqueeze(-2), shape)


row("matmul", self=matmul_self, other=matmul_other)


def _pair(value: int | Sequence[int], length: int) -> list[int]:
    return [value] * length if isinstance(value, int) else list(value) * (length if len(value) == 1 else 1)


def _convolution(
    mask: tuple[bool, bool], grad, input, weight, stride, padding, dilation, groups, transposed, output_padding
):
    spatial = grad.ndim - 2
    return aten.convolution_backward(
        grad, input, weight, None,
        _pair(stride, spatial), _pair(padding, spatial), _pair(dilation, spatial),
        transposed, _pair(output_padding, spatial), groups, [*mask, False],
    )  # fmt: skip


def convolution_input(grad, input_shape, weight, stride, padding, dilation, groups, transposed=False, output_padding=0):
    """The adjoint of a convolution's input: a transposed convolution of the adjoint with the same kernel."""
    shape_only = grad.new_empty(tuple(input_shape))  # never read: only its shape counts
    args = (grad, shape_only, weight, stride, padding, dilation, groups, transposed, output_padding)
    return _convolution((True, False), *args)[0]


def convolution_weight(
    grad, input, weight_shape, stride, padding, dilation, groups, transposed=False, output_padding=0
):
    """The adjoint of a convolution's kernel: the correlation of input and adjoint."""
    shape_only = grad.new_empty(tuple(weight_shape))
    args = (grad, input, shape_only, stride, padding, dilation, groups, transposed, output_padding)
    return _convolution((False, True), *args)[1]


def _same(
    input_shape: Sequence[int], weight_shape: Sequence[int], dilation: Sequence[int]
) -> tuple[list[int], list[int]]:
    """ "same" padding: the total d·(k − 1) of each dimension as (left, right), the odd one on the right."""
    total = [d * (k - 1) for d, k in zip(dilation, weight_shape[2:], strict=False)]
    return [t // 2 for t in total], [t - t // 2 for t in total]


row(
    "conv1d.default", "conv2d.default", "conv3d.default",
    input=lambda grad, input_shape, weight, stride, padding, dilation, groups: convolution_input(
        grad, input_shape, weight, stride, padding, dilation, groups
    ),
    weight=lambda grad, input, weight_shape, stride, padding, dilation, groups: convolution_weight(
        grad, input, weight_shape, stride, padding, dilation, groups
    ),
    bias=lambda grad: grad.sum((0, *range(2, grad.ndim))),
)  # fmt: skip
row(
    "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    input=lambda grad, input_shape, weight, stride, padding, dilation, groups, output_padding: convolution_input(
        grad, input_shape, weight, stride, padding, dilation, groups, True, output_padding
    ),
    weight=lambda grad, input, weight_shape, stride, padding, dilation, groups, output_padding: convolution_weight(
        grad, input, weight_shape, stride, padding, dilation, groups, True, output_padding
    ),
    bias=lambda grad: grad.sum((0, *range(2, grad.ndim))),
)  # fmt: skip


# reductions
def _spread(grad: Tensor, shape: Sequence[int], dim: int | Sequence[int] | None, keepdim: bool) -> Tensor:
    """Repeat a reduced adjoint along the dimensions that were reduced."""
    if not shape:
        return grad.reshape(())
    if dim is None or (not isinstance(dim, int) and len(dim) == 0):
        return grad.expand(tuple(shape)) if grad.ndim == 0 else grad.reshape([1] * len(shape)).expand(tuple(shape))
    if not keepdim:
        for axis in sorted(d % len(shape) for d in ([dim] if isinstance(dim, int) else dim)):
            grad = grad.unsqueeze(axis)
    return grad.expand(tuple(shape))


def _count(shape: Sequence[int], dim: int | Sequence[int] | None) -> int:
    if dim is None or (not isinstance(dim, int) and len(dim) == 0):
        dims: Sequence[int] = range(len(shape))
    else:
        dims = [dim] if isinstance(dim, int) else dim
    count = 1
    for axis in dims:
        count = count * (shape[axis] if shape else 1)
    return count


row("sum.default", self=lambda grad, self_shape: _spread(grad, self_shape, None, False))
row("sum.dim_IntList", self=lambda grad, self_shape, dim, keepdim: _spread(grad, self_shape, dim, keepdim))
row("mean.default", self=lambda grad, self_shape: _spread(grad / _count(self_shape, None), self_shape, None, False))
row(
    "mean.dim",
    self=lambda grad, self_shape, dim, keepdim: _spread(grad / _count(self_shape, dim), self_shape, dim, keepdim),
)


def amax(grad: Tensor, self: Tensor, result: Tensor, dim: Sequence[int], keepdim: bool) -> Tensor:
    """The adjoint goes to the entries that attain the extremum, in equal parts."""
    wins = (self == _spread(result, self.shape, dim, keepdim)).to(grad.dtype)
    return _spread(grad, self.shape, dim, keepdim) * wins / wins.sum(tuple(dim) or None, keepdim=True)


row("amax", "amin", self=amax)


def chosen(grad: tuple, result: tuple, self_shape: Sequence[int], dim: int, keepdim: bool) -> Tensor:
    """The adjoint goes where the value was taken from."""
    found, where = grad[0], result[1]
    if not keepdim and len(self_shape):
        found, where = found.unsqueeze(dim), where.unsqueeze(dim)
    return torch.zeros(tuple(self_shape), dtype=found.dtype, device=found.device).scatter(dim, where, found)


row("max.dim", "min.dim", self=chosen)

# what moves numbers around
row("reshape", "view", "_unsafe_view", "flatten.using_ints", "squeeze.default", "squeeze.dim", "squeeze.dims", "unsqueeze",
    self=lambda grad, self_shape: grad.reshape(tuple(self_shape)))  # fmt: skip
row("t", self=lambda grad: grad.t())
row("transpose.int", self=lambda grad, dim0, dim1: grad.transpose(dim0, dim1))
row("permute", self=lambda grad, dims: grad.permute(_inverse(dims)))
row("expand", self=lambda grad, self_shape: sum_to(grad, self_shape))
row("broadcast_to", self=lambda grad, self_shape: sum_to(grad, self_shape))


def _inverse(dims: Sequence[int]) -> list[int]:
    inverse = [0] * len(dims)
    for position, dim in enumerate(dims):
        inverse[dim % len(dims)] = position
    return inverse


def _slices(grad: Tensor, shapes: Sequence[Sequence[int]], dim: int) -> list[Tensor]:
    return list(grad.split([shape[dim] if len(shape) else 0 for shape in shapes], dim))


row("cat", tensors=lambda grad, tensors_shape, dim: _slices(grad, tensors_shape, dim))
row("stack", tensors=lambda grad, dim: list(grad.unbind(dim)))
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
row("constant_pad_nd", self=lambda grad, pad: torch.nn.functional.pad(grad, [-amount for amount in pad]))
row("embedding", weight=lambda grad, weight_shape, indices, padding_idx: embedding(grad, weight_shape, indices, padding_idx),
    indices=None)  # fmt: skip


def embedding(grad: Tensor, weight_shape: Sequence[int], indices: Tensor, padding_idx: int) -> Tensor:
    """Each row of the table collects the adjoints of the places where it was read; the padding row collects none."""
    flat, where = grad.reshape(-1, grad.shape[-1]), indices.reshape(-1)
    if padding_idx >= 0:
        flat = flat * (where != padding_idx).unsqueeze(-1)
    return grad.new_zeros(tuple(weight_shape)).index_add(0, where, flat)


def gather(grad: Tensor, self_shape: Sequence[int], dim: int, index: Tensor) -> Tensor:
    """Each place collects the adjoints of the entries read from it."""
    return grad.new_zeros(tuple(self_shape)).scatter_add(dim, index, grad)


row("gather", self=gather, index=None)


def unbind_like(grad: tuple, self_shape: Sequence[int], dim: int) -> Tensor:
    """The parts' adjoints side by side, zeros for the parts nobody used."""
    shape = [size for axis, size in enumerate(self_shape) if axis != dim % len(self_shape)]
    some = next(part for part in grad if part is not None)
    return torch.stack([some.new_zeros(shape) if part is None else part for part in grad], dim)


row("unbind.int", self=unbind_like)


def split_like(grad: tuple, node: object, self_shape: Sequence[int], dim: int) -> Tensor:
    """The parts' adjoints joined, zeros for the parts nobody used."""
    some = next(part for part in grad if part is not None)
    parts = []
    for part, (shape, _) in zip(grad, node.parts, strict=True):  # type: ignore[attr-defined]
        if part is None:
            sizes = list(self_shape)
            sizes[dim] = shape[dim]
            part = some.new_zeros(sizes)
        parts.append(part)
    return torch.cat(parts, dim)


row("split.Tensor", "split.sizes", "split_with_sizes", "chunk", self=split_like)
