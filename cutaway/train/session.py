"""What a training run holds while it runs, and how it is written down."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cutaway.progress import Tick
from cutaway.train import processes
from cutaway.train.adversary import Adversary
from cutaway.train.batches import Augment, Source
from cutaway.train.checkpoint import save_checkpoint
from cutaway.train.gradients import Step
from cutaway.train.interrupt import Wish
from cutaway.train.losses import Loss
from cutaway.train.moves import Moves
from cutaway.train.record import WEIGHTS, write_weights
from cutaway.train.schedules import Schedule
from cutaway.train.settings import Settings
from cutaway.train.state import State

Callback = Callable[["Epoch"], Any]

_COST = 0.02  # share of the time that checkpoints may take
_LONGEST = 300.0  # seconds between two at most: one slow write says little of the next
LOOK_EVERY = 16  # steps after which processes ask each other whether to stop or to write


@dataclass(frozen=True)
class Epoch:
    """What a callback sees after each epoch; returning True stops the training.

    Attributes:
        number: the epoch, counted from 1.
        row: its line of the history.
        model: the network, in training mode; leave it as it is.
        folder: the run folder, None without.
    """

    number: int
    row: dict[str, Any]
    model: nn.Module
    folder: Path | None


@dataclass
class Job:
    """One training run's fixed parts, and its state.

    Attributes:
        moves: the optimiser's step in one call, where its gradients need no more treatment.
        whole: the network given, while the one in training lies in shards.
        gathers: whether all processes gather those shards when a checkpoint is due.
    """

    settings: Settings
    source: Source
    validation: Any
    state: State
    names: list[str]
    step: Step
    loss: Loss
    schedule: Schedule
    rates: list[float]
    weights: list[Tensor]
    folder: Path | None = None
    augment: Augment | None = None
    adversary: Adversary | None = None
    moves: Moves | None = None
    whole: nn.Module | None = None
    gathers: bool = False
    callbacks: tuple[Callback, ...] = ()
    checkpoint_every: int | None = None
    tick: Tick = field(default=lambda note="", done=None: None)
    wish: Wish = field(default_factory=Wish)
    snapshot: dict[str, Any] | None = None
    began: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)
    cost: float = 0.0
    note: str = ""

    @property
    def model(self) -> nn.Module:
        """The network in training."""
        return self.state.model


def progress(job: Job) -> float:
    """Share of the training done, in [0, 1]."""
    steps, state = job.source.steps, job.state
    done = state.epoch if steps is None else state.epoch + state.step / steps
    return min(done / max(job.settings.epochs, 1), 1.0)


def note(job: Job, loss: float) -> str:
    """The words at the end of the progress bar: epoch, loss and what validation last said."""
    last = job.state.history[-1] if job.state.history else {}
    short = {"validation_loss": "validation {:.4f}", "validation_accuracy": "{:.1%}"}
    measured = [form.format(last[name]).replace("%", " %") for name, form in short.items() if name in last]
    return " · ".join([f"epoch {min(job.state.epoch + 1, job.settings.epochs)}", f"loss {loss:.4f}", *measured])


def spent(job: Job) -> float:
    """Seconds of training, those before a resumption included."""
    return job.state.seconds + time.monotonic() - job.began


def pause(cost: float) -> float:
    """Seconds between two checkpoints, of which the last one took `cost` seconds to write.

    >>> [pause(cost) for cost in (0.001, 0.1, 60.0)]
    [1.0, 5.0, 300.0]
    """
    return min(max(1.0, cost / _COST), _LONGEST)


def keep(job: Job, now: bool = False) -> None:
    """Write a checkpoint when one is due: so often that writing takes a small share of the time."""
    if job.folder is None and not job.gathers:
        return
    due = time.monotonic() - job.saved >= pause(job.cost)
    if job.checkpoint_every is not None:
        due = job.state.total % job.checkpoint_every == 0
    elif job.gathers and not now:  # the processes' clocks differ: the first one decides, now and then
        due = job.state.total % LOOK_EVERY == 0 and processes.agree(due)
    if not (due or now):
        return
    began = time.monotonic()
    job.state.seconds, job.began = spent(job), began
    tree, best = job.state.tree(), job.state.best
    weights = job.state.weights() if best is None else best["weights"]
    if job.gathers:
        tree, weights = processes.whole(tree), processes.whole(weights)
    if job.folder is not None:
        save_checkpoint(job.folder, tree)
        write_weights(job.folder / WEIGHTS, weights)
    job.saved = time.monotonic()
    job.cost = job.saved - began
