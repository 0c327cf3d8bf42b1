"""Data sets of the Hugging Face hub, for those who have the optional packages."""

from typing import Any

import torch

from cutaway.data.dataset import Dataset, Parts
from cutaway.data.images import prepare
from cutaway.errors import DataError

try:  # an optional extra
    import datasets  # pyright: ignore[reportMissingImports]
except ImportError:
    datasets = None

IMAGES = ("image", "img", "pixel_values")
LABELS = ("label", "labels", "fine_label", "class", "target", "y")
PARTS = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}


def hub(name: str, size: int | None = None, resize: int | None = None, channels: int | None = None) -> Parts:
    """A data set of images and labels from the hub.

    Args:
        name: such as "mnist" or "owner/name".
        size, resize, channels: see `read_image`; by default as the first image is.

    Raises:
        DataError: when the package is missing, the set cannot be fetched, or has no columns of images and labels.
    """
    if datasets is None:
        raise DataError(f"hub:{name}: datasets is not installed; pip install 'cutaway[hub]', or use local files")
    try:
        found: Any = datasets.load_dataset(name)
    except Exception as error:  # the hub client raises its own and its transports' errors
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"hub:{name}: cannot be fetched ({said}). Check the name and the connection") from error
    splits = {part: found[key] for part, keys in PARTS.items() for key in keys if key in found}
    if "train" not in splits:
        raise DataError(f"hub:{name}: has the splits {', '.join(found)}; expected train")
    made = {part: _dataset(rows, name, size, resize, channels) for part, rows in splits.items()}
    return Parts(made["train"], made.get("validation"), made.get("test"))


def _dataset(rows: Any, name: str, size: int | None, resize: int | None, channels: int | None) -> Dataset:
    columns = list(rows.features)
    image = next((column for column in IMAGES if column in columns), None)
    label = next((column for column in LABELS if column in columns), None)
    if image is None or label is None:
        raise DataError(f"hub:{name}: has the columns {', '.join(columns)}; expected an image and a label")
    pictures = [row[image] for row in rows]
    wanted = channels or (1 if pictures and pictures[0].mode in ("L", "1", "I;16") else 3)
    made = [prepare(picture, size, resize, wanted) for picture in pictures]
    for place, x in enumerate(made):
        if x.shape != made[0].shape:
            shapes = f"{tuple(x.shape)}, the first image {tuple(made[0].shape)}"
            raise DataError(f"hub:{name}, index {place}: shape {shapes}; size=… resizes and crops all to one")
    y = torch.tensor([int(row[label]) for row in rows])
    names = getattr(rows.features[label], "names", None) or [str(k) for k in range(int(y.max()) + 1)]
    return Dataset(torch.stack(made), y, tuple(names), name, f"hub:{name}")
