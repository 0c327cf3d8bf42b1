"""The data sets by name. Every source returns the parts it has; `load` makes the missing ones."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from cutaway.data.arrays import images_from, labels_from, npz_parts, read_npz
from cutaway.data.dataset import Dataset, Parts
from cutaway.data.files import find
from cutaway.data.images import decode, labelled_images
from cutaway.errors import DataError

TEN = tuple(str(digit) for digit in range(10))
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def digits() -> Parts:
    """1,797 scanned digits of 8×8 pixels, embedded in scikit-learn."""
    raw: Any = load_digits()
    x = torch.from_numpy(raw.images).float().div_(16).unsqueeze(1)  # (1797, 1, 8, 8)
    return Parts(Dataset(x, torch.from_numpy(raw.target).long(), TEN, "digits", "scikit-learn digits"))


def mnist() -> Parts:
    """70,000 digits of 28×28 pixels, from `mnist.npz`."""
    how = "It has the arrays x_train (60000, 28, 28), y_train, x_test, y_test, as the mnist.npz that Keras distributes."
    return npz_parts(find("mnist.npz", how), "mnist", TEN)


def fashion_mnist() -> Parts:
    """70,000 pieces of clothing of 28×28 pixels, from `fashion_mnist.npz`."""
    how = (
        "It has the arrays x_train (60000, 28, 28), y_train, x_test, y_test; github.com/zalandoresearch/fashion-mnist."
    )
    names = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
    return npz_parts(find("fashion_mnist.npz", how), "fashion_mnist", names)


def cifar100() -> Parts:
    """60,000 colour photographs of 32×32 pixels in a hundred classes, from `cifar100.npz`."""
    how = "It has x_train (50000, 32, 32, 3), y_train, x_test, y_test and classes; cs.toronto.edu/~kriz/cifar.html."
    return npz_parts(find("cifar100.npz", how), "cifar100")


def usps() -> Parts:
    """9,298 zip-code digits of 16×16 pixels, from `usps.npz`, background 0 and ink 1."""
    how = "It has x_train (7291, 16, 16) and x_test (2007, 16, 16), int16 from -1000 to 1000 (ink), y_train and y_test."
    path = find("usps.npz", how)
    arrays = read_npz(path)
    parts = {}
    for part in ("train", "test"):
        x = (
            torch.from_numpy(arrays[f"x_{part}"].astype(np.float32)).div_(2000).add_(0.5).unsqueeze(1)
        )  # [-1000, 1000] -> [0, 1]
        parts[part] = Dataset(
            x.clamp_(0, 1), labels_from(arrays[f"y_{part}"], f"{path}: y_{part}"), TEN, "usps", str(path)
        )
    return Parts(parts["train"], test=parts["test"])


def cifar10(train: bool = True) -> Parts:
    """50,000 colour photographs of 32×32 pixels in ten classes; the test part is the 500 images kept without loss.

    Args:
        train: False reads the test part alone, in a fraction of the time; train and validation are empty.
    """
    return _cifar10_parts(_cifar10_lossless(), train)


def cifar10_jpeg(train: bool = True) -> Parts:
    """CIFAR-10 with 8,500 JPEG-compressed test images: a test of robustness, harder than the clean test set.

    Args:
        train: False reads the test part alone; train and validation are empty.
    """
    folder = _cifar10_folder()
    path = folder / "test_jpeg.npz"
    arrays = read_npz(path)
    offsets, stream = arrays["offsets"], arrays["jpeg"].tobytes()
    x = torch.empty(len(arrays["y"]), 3, 32, 32)
    for i in range(len(x)):
        x[i] = decode(stream[offsets[i] : offsets[i + 1]], f"{path}: jpeg, index {i}")
    test = Dataset(x, labels_from(arrays["y"], f"{path}: y"), CIFAR10, "cifar10_jpeg", str(path))
    return _cifar10_parts(test, train)


def _cifar10_parts(test: Dataset, train: bool) -> Parts:
    return Parts(cifar10_train(), test=test) if train else Parts(test[:0], test[:0], test)


def cifar10_train() -> Dataset:
    """The official training part, in the official order, 45,000 + 5,000 after `load` keeps validation back."""
    folder = _cifar10_folder()
    y = labels_from(read_npz(folder / "train_labels.npz")["y_train"], f"{folder}/train_labels.npz: y_train")
    x = torch.empty(len(y), 3, 32, 32)
    start = 0
    for path in sorted(folder.glob("train_*.webp")):
        sheet = unpack_sheet(path)
        x[start : start + len(sheet)] = sheet
        start += len(sheet)
    if start != len(y):
        raise DataError(f"{folder}: {start} images in train_*.webp but {len(y)} labels in train_labels.npz")
    return Dataset(x, y, CIFAR10, "cifar10", str(folder))


def unpack_sheet(path: Path) -> Tensor:
    """The images `(N, 3, 32, 32)` of one sheet of rows of 32×32 tiles."""
    try:
        pixels = np.asarray(Image.open(path).convert("RGB"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read as an image: {error}") from error
    rows, columns = pixels.shape[0] // 32, pixels.shape[1] // 32
    tiles = pixels.reshape(rows, 32, columns, 32, 3).transpose(0, 2, 4, 1, 3)  # (rows, columns, 3, 32, 32)
    return images_from(tiles.reshape(-1, 3, 32, 32), str(path))


def _cifar10_folder() -> Path:
    return find("cifar10", "The folder holds train_00.webp … train_19.webp, train_labels.npz and test_lossless.npz.")


def _cifar10_lossless() -> Dataset:
    path = _cifar10_folder() / "test_lossless.npz"
    arrays = read_npz(path)
    return Dataset(
        images_from(arrays["x"], f"{path}: x"), labels_from(arrays["y"], f"{path}: y"), CIFAR10, "cifar10", str(path)
    )


def imagenet_samples(size: int | tuple[int, int] = 224, resize: int = 256) -> Parts:
    """120 ImageNet photographs, one a class, as the test part; train and validation are empty.

    Args:
        size: side of the centre crop.
        resize: length of the short side before cropping.
    """
    how = "It holds pictures and labels.csv with columns file and class_index."
    folder = find("imagenet_samples", how)
    test = labelled_images(folder, imagenet_classes(), size, resize)
    return Parts(test[:0], test[:0], test)


def imagenet_classes() -> tuple[str, ...]:
    """The names of the 1,000 ImageNet classes, in the order that networks have their outputs in.

    >>> imagenet_classes()[1]
    'goldfish'
    """
    path = Path(__file__).with_name("imagenet_classes.csv")
    with path.open(newline="", encoding="utf-8") as stream:
        names = {int(row["class_index"]): row["class_name"] for row in csv.DictReader(stream)}
    return tuple(names[index] for index in sorted(names))
