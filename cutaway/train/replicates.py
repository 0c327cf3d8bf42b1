"""What training many replicates at once gives: their networks and curves, with mean, spread and interval."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.errors import ArgumentError, nearest
from cutaway.train.measure import Evaluation
from cutaway.train.results import Run
from cutaway.train.spread import Spread, spread


@dataclass(frozen=True)
class Replicates:
    """Networks trained at once.

    Attributes:
        models: the networks with the weights kept, in evaluation mode.
        history: columns by name ("loss", "accuracy", "validation_loss", …), each `(E, R)`: epochs by replicates.
        seeds: of the replicates.
        rates: learning rate of each.
        best_epoch: the epoch whose weights each kept, counted from 1.
        validation, test: the kept weights measured, one Evaluation per replicate; empty without data.
        settings: every setting, as JSON holds it.
        status: "completed", "stopped early" or "interrupted".
        steps: gradient steps of each replicate.
        seconds: time spent training.
    """

    models: tuple[nn.Module, ...]
    history: dict[str, Float[Tensor, "e r"]]
    seeds: tuple[int, ...]
    rates: tuple[float, ...]
    best_epoch: tuple[int | None, ...]
    validation: tuple[Evaluation, ...]
    test: tuple[Evaluation, ...]
    settings: dict[str, Any] = field(repr=False)
    status: str = "completed"
    steps: int = 0
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.models)

    def __iter__(self) -> Iterator[Run]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Run:
        """One replicate as a run of its own."""
        epochs = len(next(iter(self.history.values()), ()))
        history = {name: column[:, number].tolist() for name, column in self.history.items()}
        settings = {**self.settings, "seed": self.seeds[number], "lr": self.rates[number]}
        return Run(
            model=self.models[number],
            history={"epoch": list(range(1, epochs + 1)), **history},
            settings=settings,
            seed=self.seeds[number],
            status=self.status,
            best_epoch=self.best_epoch[number],
            validation=self.validation[number] if self.validation else None,
            test=self.test[number] if self.test else None,
            seconds=self.seconds,
            record={"status": self.status, "settings": settings, "model": {"name": None}, "result": {}},
        )

    def values(self, name: str) -> list[float]:
        """One number per replicate: "test_…" or "validation_…" of the kept weights, or the last of a history column.

        Raises:
            LookupFailure: nothing of that name was measured.
        """
        for prefix, found in (("test_", self.test), ("validation_", self.validation)):
            metric = name.removeprefix(prefix)
            if name.startswith(prefix) and found and metric in found[0].values:
                return [each[metric] for each in found]
        if name in self.history:
            return self.history[name][-1].tolist()
        known = [*self.history, *(f"test_{metric}" for each in self.test[:1] for metric in each.values)]
        raise nearest(name, known, "column")

    def spread(self, name: str) -> Spread:
        """Mean, standard deviation and 95 % interval of a number over the replicates, see `values`."""
        return spread(self.values(name))

    def plot(self, columns: Sequence[str] = ()) -> Any:
        """Draw the curves of all replicates thin and their mean thick.

        Args:
            columns: which; the loss and the metrics by default, with validation where it was measured.

        Returns:
            A matplotlib Figure.
        """
        from matplotlib.figure import Figure  # matplotlib only where something is drawn

        if not self.history:
            raise ArgumentError("no epoch was trained, so there is no curve to draw")
        shown = list(columns) or [name for name in self.history if not name.startswith(("validation_", "learning"))]
        figure = Figure(figsize=(4.2 * len(shown), 3.2), layout="constrained")
        axes = figure.subplots(1, len(shown), squeeze=False)[0]
        for axis, name in zip(axes, shown, strict=True):
            for column, color in ((name, "C0"), (f"validation_{name}", "C1")):
                if column in self.history:
                    _curves(axis, self.history[column], color, column.replace("_", " "))
            axis.set(xlabel="epoch", ylabel=name.replace("_", " "))
            axis.spines[["top", "right"]].set_visible(False)
            axis.legend(frameon=False)
        return figure

    def save(self, path: str | Path) -> Path:
        """Write every replicate into a folder `seed-…` of its own.

        Raises:
            RunFolderError: a folder holds a run already or cannot be written.
        """
        for run in self:
            run.save(Path(path) / f"seed-{run.seed}")
        return Path(path)


def _curves(axis: Any, values: Tensor, color: str, label: str) -> None:
    """Every replicate's curve and their mean, on one axis."""
    epochs = torch.arange(1, len(values) + 1)
    axis.plot(epochs, values, color=color, linewidth=0.6, alpha=0.35)
    axis.plot(epochs, values.mean(1), color=color, linewidth=1.8, label=f"{label}, mean of {values.shape[1]}")
