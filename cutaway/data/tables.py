"""Tables from CSV files."""

import csv
from pathlib import Path

import torch

from cutaway.data.dataset import Dataset, Parts
from cutaway.errors import DataError, nearest

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
