"""What a report is about: a run folder, read back into models, data and numbers."""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cutaway import data as sources
from cutaway import graph as G
from cutaway.data import Dataset
from cutaway.errors import RunFolderError
from cutaway.graph.cost import Cost
from cutaway.nets import Normalized
from cutaway.train import load_initial, load_run

TRAINING = 512  # training examples kept for looking at gradients
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


@dataclass(frozen=True)
class Subject:
    """A finished run.

    Attributes:
        folder: the run folder.
        name, data: names of the network and the data set.
        record: what run.json holds.
        history: columns of the history by name, one value per epoch.
        model, initial: the network with its kept weights, and as it was before training (None if not known).
        test_x, test_y: test inputs (N, …) and class indices (N,).
        train_x, train_y: some training examples, for gradients.
        classes: their names; empty when the network does not classify.
        sizes: number of examples by split.
        best_epoch: the epoch (from 1) whose weights were kept.
        harder: what made training harder than validation ("augmentation"), empty for nothing.
        replicates: one row per seed, as `cutaway.train.run` records them.
    """

    folder: Path
    name: str
    data: str
    record: Mapping[str, Any]
    history: Mapping[str, Sequence[float]]
    model: nn.Module
    initial: nn.Module | None
    test_x: Float[Tensor, "n ..."]
    test_y: Int[Tensor, " n"]
    train_x: Float[Tensor, "m ..."]
    train_y: Int[Tensor, " m"]
    classes: Sequence[str] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    best_epoch: int = 1
    loss_name: str = "cross-entropy"
    harder: str = ""
    seconds: float = 0.0
    status: str = "completed"
    replicates: Sequence[Mapping[str, Any]] = ()

    @property
    def images(self) -> bool:
        """Whether the inputs are images (N, C, H, W)."""
        return self.test_x.dim() == 4

    @cached_property
    def test_outputs(self) -> Float[Tensor, "n k"]:
        """The network's outputs on the whole test set, in evaluation mode."""
        with torch.no_grad():
            return torch.cat([self.model(part) for part in self.test_x.split(256)])

    @cached_property
    def graph(self) -> G.Graph:
        """The network as a computation graph."""
        return G.capture(self.model, self.test_x[:2])

    @cached_property
    def cost(self) -> Cost:
        """What one example costs, by node and module."""
        return self.graph.cost()

    def plain(self, text: str) -> str:
        """Leave out the name that the wrapper with the preprocessing puts before every layer's."""
        return re.sub(r"\bmodel\.(?=\w)", "", text) if isinstance(self.model, Normalized) else text

    def chosen(self, count: int) -> list[int]:
        """Pick test examples that take turns through the classes, the first of each class first."""
        by_class = [(self.test_y == k).nonzero()[:, 0].tolist() for k in range(int(self.test_y.max()) + 1)]
        turns = [examples[turn] for turn in range(count) for examples in by_class if turn < len(examples)]
        return turns[:count]


def read_subject(folder: Path, data: Any = None, model: nn.Module | None = None) -> Subject:
    """Read a run folder.

    Args:
        folder: the run folder.
        data: its (train, validation, test) data sets; loaded by their recorded name when not given.
        model: a network of its architecture, needed only if it is none of `cutaway.nets`.

    Raises:
        RunFolderError: the folder holds no run, or its data cannot be loaded by name.
    """
    run = load_run(folder, None if model is None else deepcopy(model))
    train, validation, test = load_data(folder, run.record) if data is None else data
    named = run.record.get("model") or {}
    classifies = run.settings.get("loss") in ("cross_entropy", "nll", "hinge") or "accuracy" in run.history
    return Subject(
        folder=folder,
        name=named.get("name") or type(run.model.model if isinstance(run.model, Normalized) else run.model).__name__,
        data=data_name(run.record),
        record=run.record,
        history=run.history,
        model=run.model,
        initial=_initial(folder, model),
        test_x=test.x,
        test_y=test.y,
        train_x=train.x[:TRAINING],
        train_y=train.y[:TRAINING],
        classes=test.classes if classifies else (),
        sizes={"training": len(train), "validation": len(validation or ()), "test": len(test)},
        best_epoch=run.best_epoch or max(len(run.history.get("epoch", ())), 1),
        loss_name=str(run.settings.get("loss", "loss")).replace("_", " ").replace("cross entropy", "cross-entropy"),
        harder=_harder(run.record, run.model),
        seconds=run.seconds,
        status=run.status,
        replicates=run.replicates,
    )


def data_name(record: Mapping[str, Any]) -> str:
    """The name of a run's data set."""
    return str((record.get("data") or {}).get("name") or "its data").removesuffix(" train")


def load_data(folder: Path, record: Mapping[str, Any]) -> tuple[Dataset, Dataset, Dataset]:
    """Load a run's data again, by the name and settings it recorded.

    Raises:
        RunFolderError: they were not loaded by name, or are not the same size now.
    """
    known = record.get("data") or {}
    name = data_name(record)
    prefix = name.partition(":")[0]
    if prefix not in sources.NAMES and prefix not in sources.PREFIXES:
        raise RunFolderError(
            f"{folder}: its data ({name}) were not loaded by name, so they cannot be loaded again; "
            "pass them: cutaway.report.write(folder, data=(train, validation, test))"
        )
    parts = sources.load(name, **known.get("settings", {}))
    then, now = known.get("train", known.get("examples")), len(parts[0])
    if then is not None and then != now:
        raise RunFolderError(
            f"{folder}: {name} has {now} training examples now, but had {then} when the run was made; "
            "pass the run's data: cutaway.report.write(folder, data=(train, validation, test))"
        )
    return parts


def _initial(folder: Path, model: nn.Module | None) -> nn.Module | None:
    try:
        return load_initial(folder, None if model is None else deepcopy(model))
    except RunFolderError:
        return None


def _harder(record: Mapping[str, Any], model: nn.Module) -> str:
    found = ["augmentation"] if record.get("augment") else []
    found += ["dropout"] if any(isinstance(part, DROPOUTS) and part.p > 0 for part in model.modules()) else []
    return " and ".join(found)
