"""Rows of lookup: embeddings, gathering and scattering, indexing with tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cutaway.graph.rows import row
from cutaway.graph.shapes import sum_to

aten = torch.ops.aten


def embedding(grad: Tensor, weight_shape: Sequence[int], indices: Tensor, padding_idx: int) -> Tensor:
    """Each row of the table collects the adjoints of the places where it was read; the padding row collects none."""
    flat, where = grad.reshape(-1, grad.shape[-1]), indices.reshape(-1)
    if padding_idx >= 0:
        flat = flat * (where != padding_idx).unsqueeze(-1)
    return grad.new_zeros(tuple(weight_shape)).index_add(0, where, flat)


row("embedding", weight=embedding, indices=None)


def gather(grad: Tensor, self_shape: Sequence[int], dim: int, index: Tensor) -> Tensor:
    """Each place collects the adjoints of the entries read from it."""
    return grad.new_zeros(tuple(self_shape)).scatter_add(dim, index, grad)


row("gather", self=gather, index=None)
row("take_along_dim", self=lambda grad, self_shape, dim, indices: _taken(grad, self_shape, dim, indices), indices=None)


def _taken(grad: Tensor, self_shape: Sequence[int], dim: int | None, indices: Tensor) -> Tensor:
    """`take_along_dim` broadcasts argument and indices along the other dimensions."""
    if dim is None:
        size = int(torch.Size(self_shape).numel())
        return gather(grad.reshape(-1), [size], 0, indices.reshape(-1)).reshape(tuple(self_shape))
    wide = list(grad.shape)
    wide[dim] = self_shape[dim]
    index = indices.expand([-1 if axis == dim % grad.ndim else size for axis, size in enumerate(grad.shape)])
    return sum_to(gather(grad, wide, dim, index), self_shape)


row(
    "index_select",
    self=lambda grad, self_shape, dim, index: grad.new_zeros(tuple(self_shape)).index_add(dim, index.reshape(-1), grad),
    index=None,
)
row(
    "scatter.src",
    self=lambda grad, dim, index: grad.scatter(dim, index, 0),
    index=None,
    src=lambda grad, dim, index, src_shape: _corner(grad.gather(dim, index), src_shape),
)
row("scatter.value", self=lambda grad, dim, index: grad.scatter(dim, index, 0), index=None)
row(
    "scatter_add",
    self=lambda grad: grad,
    index=None,
    src=lambda grad, dim, index, src_shape: _corner(grad.gather(dim, index), src_shape),
)


def _corner(part: Tensor, shape: Sequence[int]) -> Tensor:
    """Only the corner of the source that the indices cover is read."""
    missing = [
        amount
        for have, want in zip(reversed(part.shape), reversed(list(shape)), strict=True)
        for amount in (0, want - have)
    ]
    return aten.constant_pad_nd(part, missing) if any(missing) else part


row(
    "index_add",
    self=lambda grad: grad,
    index=None,
    source=lambda grad, dim, index, alpha: grad.index_select(dim, index) * alpha,
)
row(
    "index_copy",
    self=lambda grad, dim, index: grad.index_fill(dim, index, 0),
    index=None,
    source=lambda grad, dim, index: grad.index_select(dim, index),
)
row("index_fill.int_Scalar", self=lambda grad, dim, index: grad.index_fill(dim, index, 0), index=None)


def index(grad: Tensor, self_shape: Sequence[int], indices: Sequence[Tensor | None]) -> Tensor:
    """Each place collects the adjoints of the entries read from it."""
    return aten.index_put(grad.new_zeros(tuple(self_shape)), list(indices), grad, True)


row("index.Tensor", "_unsafe_index.Tensor", self=index, indices=None)


def index_put_self(grad: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool) -> Tensor:
    """What was overwritten has no influence any more; what was added to keeps it."""
    if accumulate:
        return grad
    return aten.index_put(grad, list(indices), grad.new_zeros(()).to(values.dtype), False)


row(
    "index_put",
    self=index_put_self,
    indices=None,
    values=lambda grad, indices, values_shape: sum_to(aten.index(grad, list(indices)), values_shape),
)


def masked_scatter_source(grad: Tensor, mask: Tensor, source_shape: Sequence[int]) -> Tensor:
    """The masked entries in their order are the first entries of the source."""
    taken = grad.masked_select(mask)
    return torch.cat([taken, taken.new_zeros(torch.Size(source_shape).numel() - taken.numel())]).reshape(source_shape)


row(
    "masked_select",
    mask=None,
    self=lambda grad, self_shape, mask: sum_to(
        torch.zeros(
            torch.broadcast_shapes(tuple(self_shape), mask.shape), dtype=grad.dtype, device=grad.device
        ).masked_scatter(mask, grad),
        self_shape,
    ),
)
row("masked_scatter", mask=None, self=lambda grad, mask: grad.masked_fill(mask, 0), source=masked_scatter_source)
row(
    "take",
    index=None,
    self=lambda grad, self_shape, index: gather(
        grad.reshape(-1), [torch.Size(self_shape).numel()], 0, index.reshape(-1)
    ).reshape(tuple(self_shape)),
)
