"""What must be true of data before training starts."""

import math

import torch
from torch import Tensor

from cutaway.data.dataset import Dataset
from cutaway.errors import DataError


def check(data: Dataset, shape: tuple[int, ...] | None = None, unit_range: bool = True) -> Dataset:
    """Raise on broken data, naming file or array, index and value; return the data set when it is sound.

    Args:
        data: the set to check.
        shape: the shape that one example must have, such as `(1, 32, 32)`; None accepts any.
        unit_range: whether images `(N, C, H, W)` must lie in [0, 1].

    Raises:
        DataError: for an empty set, an example or label of the wrong shape or type, NaN or infinity, an image
            outside [0, 1], a label outside the classes.

    >>> data = Dataset(torch.zeros(2, 1, 8, 8), torch.tensor([0, 5]), classes=("a", "b"), source="set.npz")
    >>> check(data)
    Traceback (most recent call last):
    cutaway.errors.DataError: data: set.npz, index 1: label 5 is outside the 2 classes 0 … 1
    """
    _check_form(data, shape)
    images = unit_range and data.x.dim() == 4
    low, high = (bound.item() for bound in data.x.detach().aminmax())  # one pass; NaN comes through
    if not (math.isfinite(low) and math.isfinite(high)):
        _refuse(data, ~torch.isfinite(data.x), "expected a finite number")
    if images and (low < 0 or high > 1):
        _refuse(data, (data.x < 0) | (data.x > 1), "images are floats in [0, 1] (divide 8-bit values by 255)")
    outside = torch.nonzero((data.y < 0) | (data.y >= len(data.classes))).flatten()
    if len(outside):
        i = int(outside[0])
        expected = f"outside the {len(data.classes)} classes 0 … {len(data.classes) - 1}"
        raise DataError(f"{data.name}: {data.place(i)}: label {int(data.y[i])} is {expected}{_more(len(outside))}")
    return data


def _check_form(data: Dataset, shape: tuple[int, ...] | None) -> None:
    if len(data.x) != len(data.y):
        raise DataError(f"{data.name}: {data.source}: {len(data.x)} examples but {len(data.y)} labels")
    if len(data) == 0:
        raise DataError(f"{data.name}: {data.source}: this split is empty; expected at least one example")
    if not data.x.is_floating_point():
        raise DataError(f"{data.name}: {data.source}: x is {data.x.dtype}; expected floats")
    if data.y.dtype != torch.int64 or data.y.dim() != 1:
        found = f"{data.y.dtype} of shape {tuple(data.y.shape)}"
        raise DataError(f"{data.name}: {data.source}: y is {found}; expected int64 of shape (N,)")
    if data.x.dim() not in (2, 3, 4) or 0 in data.x.shape:
        found = tuple(data.x.shape)
        raise DataError(f"{data.name}: {data.source}: x has shape {found}; expected (N, C, H, W), or (N, D) for tables")
    if shape is not None and data.shape != tuple(shape):
        raise DataError(f"{data.name}: {data.place(0)}: shape {data.shape}; expected {tuple(shape)}")


def _refuse(data: Dataset, bad: Tensor, expected: str) -> None:
    rows = torch.nonzero(bad.flatten(1).any(1)).flatten()
    i = int(rows[0])
    at = tuple(torch.nonzero(bad[i])[0].tolist())
    value = data.x[i][at].item()
    raise DataError(f"{data.name}: {data.place(i)}: value {value} at {list(at)}; {expected}{_more(len(rows))}")


def _more(number: int) -> str:
    return f" ({number} examples in all)" if number > 1 else ""
