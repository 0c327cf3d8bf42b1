"""What an experiment gives: its rows beside the published numbers, a figure and a reading."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from cutaway.errors import ArgumentError
from cutaway.train import Evaluation, Replicates, Run, Spread
from cutaway.train.record import environment, write_atomically


@dataclass(frozen=True)
class Result:
    """An experiment's result.

    Attributes:
        name: of the experiment.
        rows: one mapping per line of its table; numbers stay numbers.
        reading: one paragraph that says what the rows mean.
        settings: what it was run with.
        draw: function of the result to a matplotlib Figure.
        curves: numbers that only the figure shows.
    """

    name: str
    rows: tuple[Mapping[str, Any], ...]
    reading: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    draw: Callable[["Result"], Any] | None = field(default=None, repr=False)
    curves: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def plot(self) -> Any:
        """Draw the experiment's figure.

        Returns:
            A matplotlib Figure.
        """
        if self.draw is None:
            raise ArgumentError(f"the experiment {self.name!r} has no figure; its rows say everything")
        return self.draw(self)

    def column(self, name: str) -> list[Any]:
        """One column of the table, None where a row lacks it.

        >>> Result("r", ({"a": 1}, {"a": 2, "b": 3}), "").column("b")
        [None, 3]
        """
        return [row.get(name) for row in self.rows]

    def save(self, path: str | Path) -> Path:
        """Write `rows.csv`, `result.json`, `reading.md` and `figure.png` into a folder."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        record = {"name": self.name, "settings": dict(self.settings), "environment": environment()}
        record |= {"rows": [dict(row) for row in self.rows], "reading": self.reading}
        write_atomically(folder / "result.json", (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())
        write_atomically(folder / "rows.csv", as_csv(self.rows).encode())
        write_atomically(folder / "reading.md", f"# {self.name}\n\n{self.reading}\n".encode())
        if self.draw is not None:
            self.plot().savefig(folder / "figure.png", dpi=150)
        return folder


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, with every column that any of them has.

    >>> as_csv([{"a": 1}, {"a": 2, "b": 0.5}]).splitlines()
    ['a,b', '1,', '2,0.5']
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows([dict(row) for row in rows])
    return text.getvalue()


def measured(column: str, found: Spread) -> dict[str, float]:
    """The columns of a number measured on several replicates: mean, deviation, 95 % interval of the mean, number.

    >>> measured("error %", Spread(2.0, 0.5, 3, 0.8, 3.2))
    {'error %': 2.0, 'sd': 0.5, 'low': 0.8, 'high': 3.2, 'n': 3}
    """
    return {column: found.mean, "sd": found.sd, "low": found.low, "high": found.high, "n": found.n}


def finished(runs: Replicates) -> Replicates:
    """Replicates that were trained to their end.

    Raises:
        KeyboardInterrupt: training was interrupted, and the experiment with it.
    """
    if runs.status == "interrupted":
        raise KeyboardInterrupt
    return runs


def tested(run: Run) -> Evaluation:
    """What a run measured on its test data.

    Raises:
        KeyboardInterrupt: training was interrupted, and the experiment with it.
    """
    if run.test is None:
        raise KeyboardInterrupt
    return run.test


def best_rate(losses: Float[Tensor, " r"], seeds: int) -> int:
    """Where the replicates of the best rate begin: that with the least mean loss, NaN counting as infinite.

    Args:
        losses: of all replicates `(R,)`, rate after rate, `seeds` of each.
        seeds: replicates of each rate.

    >>> import torch
    >>> best_rate(torch.tensor([3.0, 3.0, 1.0, 2.0, 0.0, float("nan")]), seeds=2)
    2
    """
    return int(losses.nan_to_num(float("inf")).view(-1, seeds).mean(1).argmin()) * seeds


def axes_of(width: float = 5.0, height: float = 3.4, columns: int = 1) -> tuple[Any, Any]:
    """A figure with axes side by side, without frames above and to the right; one axis is given alone.

    >>> len(axes_of(columns=2)[1])
    2
    """
    from matplotlib.figure import Figure  # matplotlib only where something is drawn

    figure = Figure(figsize=(width * columns, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes[0] if columns == 1 else axes
