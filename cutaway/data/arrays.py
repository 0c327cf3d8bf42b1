"""Arrays from files, read without unpickling, as images and labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cutaway.data.check import check
from cutaway.data.dataset import Dataset, Parts
from cutaway.errors import DataError


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an `.npz` file.

    Raises:
        DataError: when the file is missing, damaged or holds pickled objects.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected an .npz file with arrays x and y")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile, zlib and numpy each raise their own kinds for damaged files
        raise DataError(f"{path}: cannot be read as .npz: {error}") from error


def images_from(array: np.ndarray, where: str) -> Tensor:
    """Turn an array of images into `(N, C, H, W)` floats; 8-bit values are divided by 255, floats are kept.

    Args:
        array: `(N, H, W)`, `(N, H, W, 1 or 3)` or `(N, 1 or 3, H, W)`; `(N, D)` is left as a table.
        where: file and array, for the error.

    Raises:
        DataError: for another shape or a type that is not a number.

    >>> images_from(np.full((2, 8, 8, 3), 255, np.uint8), "memory").shape
    torch.Size([2, 3, 8, 8])
    """
    if array.dtype.kind not in "uifb":
        raise DataError(f"{where}: values of type {array.dtype}; expected numbers")
    if array.ndim not in (2, 3, 4):
        raise DataError(f"{where}: shape {array.shape}; expected (N, H, W), (N, H, W, C), (N, C, H, W) or (N, D)")
    x = torch.from_numpy(np.ascontiguousarray(array))
    if x.dim() == 3:
        x = x.unsqueeze(1)  # (N, 1, H, W)
    elif x.dim() == 4 and x.shape[1] not in (1, 3) and x.shape[-1] in (1, 3):
        x = x.permute(0, 3, 1, 2)  # (N, C, H, W)
    scaled = x.dtype == torch.uint8 and x.dim() == 4
    x = x.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    return x.div_(255) if scaled else x


def labels_from(array: np.ndarray, where: str) -> Tensor:
    """Turn an array of class indices into int64 `(N,)`.

    Raises:
        DataError: when a label is not a whole number.
    """
    flat = array.reshape(-1) if array.ndim == 2 and array.shape[1] == 1 else array
    if flat.dtype.kind not in "uifb" or flat.ndim != 1:
        raise DataError(f"{where}: {array.dtype} of shape {array.shape}; expected class indices of shape (N,)")
    broken = np.flatnonzero(~np.isfinite(flat) | (flat != np.round(flat))) if flat.dtype.kind == "f" else []
    if len(broken):
        raise DataError(f"{where}, index {broken[0]}: label {flat[broken[0]]}; expected a whole number")
    return torch.from_numpy(flat.astype(np.int64))


def npz(path: str) -> Parts:
    """Arrays x, y or x_train, y_train, x_test, y_test (and x_validation, y_validation) of an `.npz` file.

    An array `classes` names the classes; without it they are named by their numbers.
    """
    return npz_parts(Path(path).expanduser(), Path(path).stem)


def npz_parts(path: Path, name: str, classes: tuple[str, ...] = ()) -> Parts:
    """The parts of an `.npz` file with known class names.

    Raises:
        DataError: when arrays are missing, or a shape or type is not that of images, tables or labels.
    """
    arrays = read_npz(path)
    first = "_train" if "x_train" in arrays else ""
    if f"x{first}" not in arrays:
        raise DataError(f"{path}: holds {', '.join(arrays) or 'no arrays'}; expected x and y, or x_train and y_train")
    pairs = {part: _pair(arrays, part, path) for part in (first, "_validation", "_test") if f"x{part}" in arrays}
    classes = tuple(map(str, arrays["classes"].tolist())) if "classes" in arrays else classes
    if not classes:
        y = pairs[first][1]
        classes = tuple(str(label) for label in range(int(y.max()) + 1 if len(y) else 0))
    made = {part: Dataset(x, y, classes, name, f"{path}: x{part}") for part, (x, y) in pairs.items()}
    return Parts(made[first], made.get("_validation"), made.get("_test"))


def _pair(arrays: dict[str, np.ndarray], part: str, path: Path) -> tuple[Tensor, Tensor]:
    if f"y{part}" not in arrays:
        raise DataError(f"{path}: has x{part} but no y{part}")
    x, y = images_from(arrays[f"x{part}"], f"{path}: x{part}"), labels_from(arrays[f"y{part}"], f"{path}: y{part}")
    if len(x) != len(y):
        raise DataError(f"{path}: x{part} has {len(x)} examples but y{part} {len(y)} labels")
    return x, y


def from_arrays(x: Any, y: Any, classes: Sequence[str] = (), name: str = "data") -> Dataset:
    """A data set from NumPy arrays, torch tensors or nested lists, checked.

    Args:
        x: images `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)`, 8-bit or floats in [0, 1], or a table `(N, D)`.
        y: class indices `(N,)`.
        classes: names of the classes; by default their numbers.
        name: what to call the set.

    Raises:
        DataError: when a shape, type, value or label is not what is expected.

    >>> from_arrays(np.zeros((4, 8, 8), np.uint8), [0, 1, 1, 0]).x.shape
    torch.Size([4, 1, 8, 8])
    """
    images, labels = images_from(np.asarray(x), f"{name}: x"), labels_from(np.asarray(y), f"{name}: y")
    known = tuple(classes) or tuple(str(label) for label in range(int(labels.max()) + 1 if len(labels) else 0))
    return check(Dataset(images, labels, known, name))
