"""Data by name, always as train, validation and test."""

import inspect
from collections.abc import Callable
from typing import Any

from cutaway.data.arrays import npz
from cutaway.data.check import check
from cutaway.data.dataset import Dataset, Parts, stratified
from cutaway.data.hub import hub
from cutaway.data.images import imagefolder
from cutaway.data.plane import checkerboard, circles, moons, spirals, xor
from cutaway.data.sources import cifar10, cifar10_jpeg, cifar100, digits, fashion_mnist, imagenet_samples, mnist, usps
from cutaway.data.tables import parquet, table
from cutaway.errors import ArgumentError, DataError, nearest

NAMES: dict[str, Callable[..., Parts]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "usps": usps,
    "cifar10": cifar10,
    "cifar10_jpeg": cifar10_jpeg,
    "cifar100": cifar100,
    "imagenet_samples": imagenet_samples,
    "moons": moons,
    "circles": circles,
    "spirals": spirals,
    "xor": xor,
    "checkerboard": checkerboard,
}

PREFIXES: dict[str, Callable[..., Parts]] = {  # "npz:PATH" calls npz(PATH)
    "npz": npz,
    "imagefolder": imagefolder,
    "csv": table,
    "parquet": parquet,
    "hub": hub,
}


def load(
    name: str, seed: int = 0, validation: float | int = 0.1, test: float | int = 0.2, **settings: Any
) -> tuple[Dataset, Dataset, Dataset]:
    """Load a data set by name, split into train, validation and test.

    Official parts stay as they are; missing ones are drawn from the training part, stratified and fixed by the seed.

    Args:
        name: one of `NAMES`, or "npz:PATH", "imagefolder:PATH", "csv:PATH", "parquet:PATH", "hub:NAME".
        seed: of the split.
        validation: share of the source's training part kept back where it has no validation part, in (0, 1), or a
            number of examples.
        test: share of the whole kept back as test part where the source has none, or a number of examples.
        settings: of the source, such as `size=64, broken="skip"` for image folders or `target="species"` for tables.

    Returns:
        train, validation and test, checked (see `check`).

    Raises:
        LookupFailure: for an unknown name; the nearest ones are listed.
        DataError: when files are missing or broken; file, index and value are named.
        ArgumentError: for settings that the source does not take or a split that leaves a part empty.

    >>> train, validation, test = load("digits", seed=0)
    >>> train.shape, len(train), len(validation), len(test)
    ((1, 8, 8), 1258, 180, 359)
    """
    return split(_read(name, seed, settings), seed, validation, test)


def split(
    parts: Parts | Dataset, seed: int = 0, validation: float | int = 0.1, test: float | int = 0.2
) -> tuple[Dataset, Dataset, Dataset]:
    """Check data and split what has no official parts into train, validation and test, see `load`.

    Args:
        parts: a whole data set, or the parts that a source has.
        seed, validation, test: see `load`.

    Raises:
        DataError: when data are broken or a part would be empty.

    >>> import torch
    >>> data = Dataset(torch.zeros(20, 2), torch.arange(20) % 2, ("a", "b"))
    >>> [len(part) for part in split(data)]
    [14, 2, 4]
    """
    parts = Parts(parts) if isinstance(parts, Dataset) else parts
    for part, data in (("train", parts.train), ("validation", parts.validation), ("test", parts.test)):
        if data is not None and (part == "test" or not parts.only_test):
            check(data.named(f"{data.name} {part}"))
    train, held, tested = parts.train, parts.validation, parts.test
    if isinstance(validation, float) and held is None:  # of the training part before a test part is drawn from it
        validation = round(validation * len(train))
    if tested is None:
        train, tested = _divide(train, test, seed, "test")
    if held is None:
        train, held = _divide(train, validation, seed, "validation")
    made = train, held, tested
    return tuple(
        data.named(f"{data.name} {part}") for data, part in zip(made, ("train", "validation", "test"), strict=True)
    )  # type: ignore[return-value]


def _read(name: str, seed: int, settings: dict[str, Any]) -> Parts:
    prefix, colon, rest = name.partition(":")
    table = PREFIXES if colon else NAMES
    if prefix not in table:
        raise nearest(name, [*NAMES, *(f"{known}:PATH" for known in PREFIXES)], "data set")
    source = table[prefix]
    given = (rest,) if colon else ()
    if "seed" in inspect.signature(source).parameters:  # generated sets
        settings = {"seed": seed, **settings}
    try:
        inspect.signature(source).bind(*given, **settings)
    except TypeError as error:
        raise ArgumentError(f"{name}: {error}; this source takes {inspect.signature(source)}") from None
    return source(*given, **settings)


def _divide(data: Dataset, fraction: float | int, seed: int, part: str) -> tuple[Dataset, Dataset]:
    try:
        first, second = stratified(data.y, fraction, seed)
    except ArgumentError as error:
        raise DataError(f"{data.name}: {data.source}: the {part} split would be empty: {error}") from None
    return data[first], data[second]
