"""What rows do with shapes: sum an adjoint back to a smaller shape, repeat it to a larger one, name dimensions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Dims = int | Sequence[int] | None


def sum_to(grad: Tensor, shape: Sequence[int]) -> Tensor:
    """Sum an adjoint over the dimensions its argument was broadcast along."""
    return grad if grad.shape == tuple(shape) else grad.sum_to_size(tuple(shape))


def axes(dim: Dims, ndim: int) -> list[int]:
    """Dimensions counted from the front; none given means all.

    >>> axes(-1, 3), axes(None, 2), axes([0, -1], 3)
    ([2], [0, 1], [0, 2])
    """
    if dim is None or (not isinstance(dim, int) and len(dim) == 0):
        return list(range(ndim))
    if ndim == 0:
        return []
    return [d % ndim for d in ([dim] if isinstance(dim, int) else dim)]


def spread(grad: Tensor, shape: Sequence[int], dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Repeat a reduced adjoint along the dimensions that were reduced."""
    return unreduced(grad, len(shape), dim, keepdim).expand(tuple(shape))


def unreduced(value: Tensor, ndim: int, dim: Dims, keepdim: bool) -> Tensor:
    """Give a reduced value its reduced dimensions back, with size one."""
    if keepdim and value.ndim == ndim:
        return value
    for axis in sorted(axes(dim, ndim)):
        value = value.unsqueeze(axis)
    return value


def count(shape: Sequence[int], dim: Dims = None) -> int:
    """How many entries are reduced into one."""
    product = 1
    for axis in axes(dim, len(shape)):
        product = product * shape[axis]
    return product


def inverse(dims: Sequence[int]) -> list[int]:
    """The permutation that undoes another.

    >>> inverse([2, 0, -2])
    [1, 2, 0]
    """
    order = [0] * len(dims)
    for position, dim in enumerate(dims):
        order[dim % len(dims)] = position
    return order


def listed(value: Any, length: int) -> list[int]:
    """One number for each spatial dimension, from a number, a list of one or a full list."""
    if not isinstance(value, list | tuple):
        return [value] * length
    return list(value) * (length if len(value) == 1 else 1)


def some(parts: Sequence[Tensor | None]) -> Tensor:
    """One of several adjoints that is there."""
    return next(part for part in parts if part is not None)


def filled(part: Tensor | None, like: Tensor, shape: Sequence[int]) -> Tensor:
    """An adjoint, or zeros where nothing came back."""
    return like.new_zeros(tuple(shape)) if part is None else part


def join(grad: Sequence[Tensor | None], sizes: Sequence[int], shape: Sequence[int], dim: int) -> Tensor:
    """The adjoints of a tensor's parts joined again, zeros for the parts nobody used."""
    dim, like = dim % len(shape), some(grad)
    parts = [
        filled(part, like, [*shape[:dim], size, *shape[dim + 1 :]]) for part, size in zip(grad, sizes, strict=True)
    ]
    return torch.cat(parts, dim)
