"""Tables from CSV and Parquet files."""

import csv
from pathlib import Path
from typing import Any

import torch

from cutaway.data.dataset import Dataset, Parts
from cutaway.errors import DataError, nearest

try:  # an optional extra
    import datasets  # pyright: ignore[reportMissingImports]
except ImportError:
    datasets = None

TARGETS = ("y", "label", "class", "target")


def table(path: str, target: str | None = None) -> Parts:
    """A CSV file with a header, one row per example; every column but the target must hold numbers.

    Args:
        path: of the file.
        target: name of the column of class names or numbers; by default y, label, class or target, else the last.

    Raises:
        DataError: when the file is missing, has no rows, a row of another length, or a cell that is not a number.
        LookupFailure: when the target is not a column.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"{path}: no such file; expected a CSV table with a header")
    with file.open(newline="", encoding="utf-8-sig") as stream:
        header, *rows = [row for row in csv.reader(stream) if row] or [[]]
    return _parts(file, path, header, rows, target)


def parquet(path: str, target: str | None = None) -> Parts:
    """A Parquet file, one row per example; every column but the target must hold numbers.

    Args:
        path: of the file.
        target: as in `table`.

    Raises:
        DataError: when the package that reads Parquet or the file is missing, or the file is not what is expected.
        LookupFailure: when the target is not a column.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"{path}: no such file; expected a Parquet table")
    if datasets is None:
        raise DataError(f"parquet:{path}: datasets is not installed; pip install 'cutaway[hub]', or use a CSV file")
    try:
        read: Any = datasets.Dataset.from_parquet(str(file), keep_in_memory=True)
    except Exception as error:  # the reader raises its own kinds
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: cannot be read as Parquet: {said}") from error
    columns = {name: ["" if value is None else str(value) for value in read[name]] for name in read.column_names}
    return _parts(file, path, list(columns), [list(row) for row in zip(*columns.values(), strict=True)], target)


def _parts(file: Path, path: str, header: list[str], rows: list[list[str]], target: str | None) -> Parts:
    """The one part a table has."""
    if not rows:
        raise DataError(f"{path}: has no rows below its header; expected at least one example")
    if target is not None and target not in header:
        raise nearest(target, header, f"column of {path}")
    named = next((name for name in header if name.lower() in TARGETS), header[-1])
    column = header.index(target if target is not None else named)
    values = [_numbers(row, header, column, f"{path}, row {number}") for number, row in enumerate(rows, start=1)]
    labels = [row[column].strip() for row in rows]
    classes = tuple(sorted(set(labels), key=_natural))
    y = torch.tensor([classes.index(label) for label in labels])
    return Parts(Dataset(torch.tensor(values), y, classes, file.stem, str(path)))


def _numbers(row: list[str], header: list[str], target: int, where: str) -> list[float]:
    if len(row) != len(header):
        raise DataError(f"{where}: {len(row)} cells; expected {len(header)} ({', '.join(header)})")
    if not row[target].strip():
        raise DataError(f"{where}, column {header[target]!r}: empty; expected a class")
    numbers = []
    for column, cell in enumerate(row):
        if column == target:
            continue
        try:
            numbers.append(float(cell))
        except ValueError:
            raise DataError(f"{where}, column {header[column]!r}: {cell!r} is not a number") from None
    return numbers


def _natural(label: str) -> tuple[int, float, str]:
    """Numbers in numerical order, then words."""
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label
