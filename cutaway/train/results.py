"""What a training run leaves: the trained model, its history, and where it lies."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from cutaway import nets
from cutaway.errors import RunFolderError
from cutaway.train.measure import Evaluation
from cutaway.train.record import (
    INITIAL,
    RUN,
    WEIGHTS,
    open_folder,
    read_history,
    read_json,
    read_weights,
    write_history,
    write_json,
    write_weights,
)


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
        model: the network with its final weights (the best ones where validation chose), in evaluation mode.
        history: columns by name ("epoch", "loss", "accuracy", "validation_loss", …), one entry per epoch.
        settings: every setting, as JSON holds it.
        seed: the run's seed.
        status: "completed", "stopped early", "interrupted" or "failed".
        best_epoch: the epoch whose weights were kept, counted from 1; None before the first.
        validation: the kept weights measured on the validation data.
        test: the kept weights measured on the test data, once, at the end.
        seconds: time spent training.
        folder: the run folder, None when nothing was written.
        replicates: one row per seed when several were trained, else empty.
        record: everything in `run.json`.
    """

    model: nn.Module
    history: dict[str, list[Any]]
    settings: dict[str, Any]
    seed: int = 0
    status: str = "completed"
    best_epoch: int | None = None
    validation: Evaluation | None = None
    test: Evaluation | None = None
    seconds: float = 0.0
    folder: Path | None = None
    replicates: tuple[dict[str, Any], ...] = ()
    record: dict[str, Any] = field(default_factory=dict, repr=False)

    def plot(self) -> Any:
        """Draw the learning curves: the loss and every metric, training and validation.

        Returns:
            A matplotlib Figure.
        """
        from matplotlib.figure import Figure  # matplotlib only where something is drawn

        columns = [name for name in self.history if f"validation_{name}" in self.history or name == "loss"]
        figure = Figure(figsize=(4.2 * max(len(columns), 1), 3.2), layout="constrained")
        axes = figure.subplots(1, max(len(columns), 1), squeeze=False)[0]
        for axis, name in zip(axes, columns, strict=False):
            axis.plot(self.history["epoch"], self.history[name], label="training")
            if f"validation_{name}" in self.history:
                axis.plot(self.history["epoch"], self.history[f"validation_{name}"], label="validation")
            if self.best_epoch is not None:
                axis.axvline(self.best_epoch, color="0.6", linewidth=1, linestyle=":", label="weights kept")
            axis.set(xlabel="epoch", ylabel=name.replace("_", " "))
            axis.spines[["top", "right"]].set_visible(False)
        if columns:
            axes[-1].legend(frameon=False)
        return figure

    def save(self, path: str | Path) -> Path:
        """Write the run into a new folder, readable by `load_run`.

        Raises:
            RunFolderError: the folder holds a run already or cannot be written.
        """
        folder = open_folder(path, needed=1 << 20)
        write_weights(folder / WEIGHTS, self.model.state_dict())
        write_history(folder, rows(self.history))
        write_json(folder / RUN, self.record)
        return folder


def columns(history: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Turn one row per epoch into columns by name.

    >>> columns([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}])
    {'epoch': [1, 2], 'loss': [0.5, 0.25]}
    """
    names = list(dict.fromkeys(name for row in history for name in row))
    return {name: [row.get(name) for row in history] for name in names}


def rows(history: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Turn columns by name into one row per epoch.

    >>> rows({"epoch": [1, 2], "loss": [0.5, 0.25]})
    [{'epoch': 1, 'loss': 0.5}, {'epoch': 2, 'loss': 0.25}]
    """
    return [dict(zip(history, values, strict=True)) for values in zip(*history.values(), strict=True)]


def load_run(folder: str | Path, model: nn.Module | None = None) -> Run:
    """Read a run folder back, without its data and without unpickling anything.

    Args:
        folder: the run folder.
        model: a network of the right shape; needed only if the run's network is none of `cutaway.nets`.

    Returns:
        Run with the kept weights, in evaluation mode.

    Raises:
        RunFolderError: the folder holds no run, or the network cannot be built from its record.
    """
    place = Path(folder)
    record = read_json(place / RUN)
    network = build_model(record, place) if model is None else model
    _load(network, place / WEIGHTS)
    result = record.get("result") or {}
    return Run(
        model=network.eval(),
        history=columns(read_history(place)),
        settings=record["settings"],
        seed=record["settings"]["seed"],
        status=record["status"],
        best_epoch=result.get("best_epoch"),
        validation=_evaluation(result.get("validation")),
        test=_evaluation(result.get("test")),
        seconds=result.get("seconds", 0.0),
        folder=place,
        replicates=tuple(record.get("replicates", ())),
        record=record,
    )


def load_initial(folder: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The run's network with the weights it started from, for comparing start and end.

    Raises:
        RunFolderError: the folder holds no initial weights.
    """
    place = Path(folder)
    network = build_model(read_json(place / RUN), place) if model is None else model
    _load(network, place / INITIAL)
    return network.eval()


def build_model(record: Mapping[str, Any], place: Path) -> nn.Module:
    """Build a run's network from its record; the weights are still random.

    Raises:
        RunFolderError: the network is none of `cutaway.nets`.
    """
    wanted = record.get("model") or {}
    if wanted.get("name") is None:
        raise RunFolderError(
            f"{place}: the network {wanted.get('class', '')} was not made by cutaway.nets, so it cannot be built from "
            "run.json; make it and pass it: load_run(folder, model=…)"
        )
    network = nets.make(wanted["name"], *wanted.get("sizes", ()), **wanted.get("settings", {}))
    shown = wanted.get("normalized")
    return network if shown is None else nets.normalized(network, shown["mean"], shown["std"], size=shown["size"])


def _load(network: nn.Module, path: Path) -> None:
    weights = read_weights(path)
    try:
        network.load_state_dict(weights)
    except RuntimeError as reason:
        raise RunFolderError(f"{path} does not fit the network: {reason}") from reason


def _evaluation(found: Mapping[str, Any] | None) -> Evaluation | None:
    if found is None:
        return None
    values = {name: value for name, value in found.items() if name not in ("n", "interval")}
    return Evaluation(values, found["n"], None if found["interval"] is None else tuple(found["interval"]))


def evaluation_record(evaluation: Evaluation | None) -> dict[str, Any] | None:
    """An evaluation as JSON holds it."""
    return None if evaluation is None else evaluation.record()


def with_replicates(run: Run, table: list[dict[str, Any]]) -> Run:
    """Add the table of replicates to a run and its record."""
    record = {**run.record, "replicates": table}
    if run.folder is not None:
        write_json(run.folder / RUN, record)
    return dataclasses.replace(run, replicates=tuple(table), record=record)
