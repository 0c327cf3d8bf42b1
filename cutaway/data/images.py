"""Pictures from files and folders."""

import csv
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from cutaway.data.dataset import Dataset, Parts
from cutaway.data.modes import visible
from cutaway.errors import ArgumentError, DataError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
PARTS = {"train": ("train", "training"), "validation": ("validation", "valid", "val"), "test": ("test", "testing")}


def read_image(
    path: str | Path, size: int | tuple[int, int] | None = None, resize: int | None = None, channels: int = 3
) -> Float[Tensor, "c h w"]:
    """Read one picture as `(C, H, W)` floats in [0, 1], upright as its EXIF data says, on white where transparent.

    Args:
        path: of the file, in any format that Pillow reads.
        size: side, or height and width, of the centre crop; None leaves the picture whole.
        resize: length of the short side before cropping; by default the smallest that `size` fits into.
        channels: 3 for RGB, 1 for grey.

    Raises:
        DataError: when the file cannot be read as a picture.
        ArgumentError: for other numbers of channels.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     Image.new("RGB", (40, 20), "white").save(f"{folder}/white.png")
    ...     read_image(f"{folder}/white.png", size=16).shape
    torch.Size([3, 16, 16])
    """
    pixels = ""
    try:
        with Image.open(path) as image:
            pixels = f" ({image.width} × {image.height} pixels)"
            return prepare(image, size, resize, channels)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, ArgumentError):
            raise
        raise DataError(f"{path}{pixels}: cannot be read as a picture: {error}") from error


def decode(data: bytes, where: str) -> Float[Tensor, "3 h w"]:
    """Decode one picture held in memory, see `read_image`."""
    try:
        return prepare(Image.open(BytesIO(data)), None, None, 3)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{where}: cannot be read as a picture: {error}") from error


def prepare(
    image: Image.Image, size: int | tuple[int, int] | None, resize: int | None, channels: int
) -> Float[Tensor, "c h w"]:
    """Turn a picture as asked, see `read_image`, and make it a tensor."""
    if channels not in (1, 3):
        raise ArgumentError(f"channels={channels}: expected 1 (grey) or 3 (RGB)")
    image = visible(image, channels)
    height, width = (size, size) if isinstance(size, int) else size or (image.height, image.width)
    scale = resize / min(image.size) if resize else max(height / image.height, width / image.width)
    if scale != 1:
        least = (width, height) if size is not None else (1, 1)
        scaled = max(least[0], round(image.width * scale)), max(least[1], round(image.height * scale))
        image = image.resize(scaled, Image.Resampling.BILINEAR)
    if size is not None:
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8)).float().div_(255)  # (H, W) or (H, W, C)
    return pixels.unsqueeze(0) if channels == 1 else pixels.permute(2, 0, 1).contiguous()


def read_images(
    paths: Sequence[Path],
    size: int | tuple[int, int] | None = None,
    resize: int | None = None,
    channels: int = 3,
    broken: str = "refuse",
) -> tuple[Float[Tensor, "n c h w"], list[int]]:
    """Read pictures of one shape as a batch.

    Args:
        paths, size, resize, channels: see `read_image`.
        broken: what to do with a file that cannot be read: "refuse" (raise) or "skip" (warn, naming it).

    Returns:
        the batch, and the places of the paths that were read.

    Raises:
        DataError: for a broken file, or a picture whose shape differs from the first one's.
        ArgumentError: when `broken` is neither "refuse" nor "skip".

    >>> read_images([Path("no.png")])
    Traceback (most recent call last):
    cutaway.errors.DataError: no.png: cannot be read as a picture: ...; broken='skip' leaves such files out
    """
    if broken not in ("refuse", "skip"):
        raise ArgumentError(f"broken={broken!r}: expected 'refuse' or 'skip'")
    images: list[Tensor] = []
    kept: list[int] = []
    for place, path in enumerate(paths):
        try:
            image = read_image(path, size, resize, channels)
        except DataError as error:
            if broken == "refuse":
                raise DataError(f"{error}; broken='skip' leaves such files out") from error
            warnings.warn(f"skipped {error}", stacklevel=2)
            continue
        if images and image.shape != images[0].shape:
            shapes = f"{tuple(image.shape)}, but {paths[kept[0]]} {tuple(images[0].shape)}"
            raise DataError(f"{path} has shape {shapes}; size=… resizes and crops all to one")
        images.append(image)
        kept.append(place)
    return (torch.stack(images) if images else torch.empty(0, channels, 1, 1)), kept


def imagefolder(
    path: str,
    size: int | tuple[int, int] | None = None,
    resize: int | None = None,
    channels: int = 3,
    broken: str = "refuse",
) -> Parts:
    """A folder with one sub-folder of pictures per class, or train, validation and test folders of that form.

    Args:
        path: of the folder.
        size, resize, channels: see `read_image`.
        broken: "refuse" or "skip", see `read_images`.

    Raises:
        DataError: when the folder, its classes or pictures are missing, or a picture is broken.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataError(f"{path}: no such folder; expected one sub-folder of pictures per class")
    found = {part: root / name for part, names in PARTS.items() for name in names if (root / name).is_dir()}
    train = found.get("train", root)
    classes = tuple(
        sorted(folder.name for folder in train.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    )
    if not classes:
        raise DataError(f"{train}: has no sub-folders; expected one sub-folder of pictures per class")
    read = {}
    for part, folder in (found if "train" in found else {"train": root}).items():
        files = [(file, label) for label, name in enumerate(classes) for file in _pictures(folder / name)]
        x, kept = read_images([file for file, _ in files], size, resize, channels, broken)
        y = torch.tensor([files[place][1] for place in kept], dtype=torch.long)
        names = tuple(str(files[place][0]) for place in kept)
        read[part] = Dataset(x, y, classes, root.name, str(folder), files=names)
    return Parts(read["train"], read.get("validation"), read.get("test"))


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        file for file in folder.rglob("*") if file.suffix.lower() in ENDINGS and not file.name.startswith(".")
    )


def labelled_images(
    folder: Path, classes: tuple[str, ...], size: int | tuple[int, int], resize: int | None, broken: str = "refuse"
) -> Dataset:
    """The pictures that `labels.csv` (columns file and class_index) of a folder lists.

    Raises:
        DataError: when the list is missing or lacks a column, or a picture is broken.
    """
    table = folder / "labels.csv"
    if not table.is_file():
        raise DataError(f"{table}: no such file; expected columns file and class_index")
    with table.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or not {"file", "class_index"} <= set(rows[0]):
        raise DataError(f"{table}: expected columns file and class_index, found {list(rows[0]) if rows else 'no rows'}")
    x, kept = read_images([folder / row["file"] for row in rows], size, resize, broken=broken)
    y = torch.tensor([int(rows[place]["class_index"]) for place in kept])
    names = tuple(str(folder / rows[place]["file"]) for place in kept)
    return Dataset(x, y, classes, folder.name, str(folder), files=names)
