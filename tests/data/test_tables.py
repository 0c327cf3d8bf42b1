"""Tables: CSV and Parquet give the same examples, and broken ones say where."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cutaway.data import load, tables
from cutaway.errors import DataError, LookupFailure

ROWS: dict[str, list[Any]] = {
    "width": [1.5, 2.0, 0.25] * 8,
    "count": [3, 1, 2] * 8,
    "species": ["setosa", "virginica", "setosa"] * 8,
}


class Stored:
    """What `datasets` gives for a file, with the values each test puts there."""

    held = ROWS

    def __init__(self) -> None:
        self.column_names = list(self.held)

    def __getitem__(self, name: str) -> list[Any]:
        return self.held[name]

    @classmethod
    def from_parquet(cls, path: str, keep_in_memory: bool) -> "Stored":
        if Path(path).read_bytes() != b"PAR1":
            raise ValueError("Parquet magic bytes not found in footer.")
        return cls()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tables, "datasets", SimpleNamespace(Dataset=Stored))
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    return tmp_path / "table.parquet"


def test_parquet_holds_what_the_same_csv_holds(file: Path) -> None:
    lines = [",".join(ROWS), *(",".join(map(str, row)) for row in zip(*ROWS.values(), strict=True))]
    (file.parent / "table.csv").write_text("\n".join(lines))
    for one, other in zip(
        load(f"parquet:{file}", target="species"),
        load(f"csv:{file.parent / 'table.csv'}", target="species"),
        strict=True,
    ):
        assert torch.equal(one.x, other.x) and torch.equal(one.y, other.y) and one.classes == ("setosa", "virginica")


def test_broken_parquet_says_where(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LookupFailure, match="'species'"):
        load(f"parquet:{file}", target="specie")
    monkeypatch.setattr(Stored, "held", {**ROWS, "width": [1.5, None, 0.25] * 8})
    with pytest.raises(DataError, match=r"row 2, column 'width'"):
        load(f"parquet:{file}", target="species")
    file.write_bytes(b"other")
    with pytest.raises(DataError, match="magic bytes"):
        load(f"parquet:{file}")
    with pytest.raises(DataError, match="no such file"):
        load("parquet:nowhere.parquet")
    monkeypatch.setattr(tables, "datasets", None)
    with pytest.raises(DataError, match="not installed"):
        load(f"parquet:{file}")
