"""The state of a vectorised run: what the next epoch depends on, how it is kept, and where its batches come from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cutaway.errors import ArgumentError, RunFolderError
from cutaway.nets.modes import evaluating
from cutaway.rng import generator
from cutaway.train.batches import Arrays, Augment, make_source
from cutaway.train.checkpoint import load_checkpoint
from cutaway.train.losses import Loss
from cutaway.train.metrics import Metric, per_example
from cutaway.train.settings import Settings
from cutaway.train.stacked import StackedStep, Weights, stacked_outputs
from cutaway.train.stacked_update import Update
from cutaway.train.state import random_state, set_random_state

_BLOCK = 4096  # examples of a replicate that are fetched and augmented at once


@dataclass
class Many:
    """A vectorised run's parts and state; tensors of the replicates are stacked, `(R, …)`."""

    model: nn.Module
    settings: Settings
    source: Arrays
    seeds: tuple[int, ...]
    rates: tuple[float, ...]
    augment: Augment | None
    trained: Weights
    kept: Weights
    constants: Weights
    step: StackedStep
    update: Update
    loss: Loss
    metrics: dict[str, Metric]
    ema: Weights | None
    history: list[dict[str, Tensor]] = field(default_factory=list)
    best: Weights | None = None
    score: Tensor | None = None
    best_epoch: Tensor | None = None
    stale: Tensor | None = None
    total: int = 0
    seconds: float = 0.0
    folder: Path | None = None

    def weights(self) -> Weights:
        """The weights to measure and keep: the moving average where there is one."""
        return {**self.trained, **self.kept, **(self.ema or {})}


def over(job: Many) -> bool:
    """Whether the patience with every replicate is over."""
    patience = job.settings.patience
    return patience is not None and job.stale is not None and bool((job.stale >= patience).all())


_STATE = ("trained", "kept", "ema", "best", "score", "best_epoch", "stale", "history", "total", "seconds")


def tree(job: Many) -> dict[str, Any]:
    """Everything the next epoch depends on."""
    state = {name: getattr(job, name) for name in _STATE}
    device = next(iter(job.trained.values())).device
    told = {"settings": job.settings.record(), "seeds": list(job.seeds), "rates": list(job.rates)}
    return {**state, "optimizer": job.update.optimizer.state_dict(), "random": random_state(device), "told": told}


def go_on(job: Many, folder: Path) -> None:
    """Go back to the checkpoint of a folder, if there is one.

    Raises:
        RunFolderError: the checkpoint belongs to other settings.
    """
    found = load_checkpoint(folder)
    if found is None:
        return
    if found["told"] != tree(job)["told"]:
        raise RunFolderError(f"{folder} holds replicates of other settings, seeds or rates; give another folder")
    for name in _STATE:
        if name not in ("trained", "kept"):
            setattr(job, name, found[name])
    for own, kept in ((job.trained, found["trained"]), (job.kept, found["kept"])):
        for name, value in own.items():
            value.copy_(kept[name])
    job.update.optimizer.load_state_dict(found["optimizer"])
    set_random_state(found["random"], next(iter(job.trained.values())).device)


def size_of(job: Many) -> int:
    """Size of a checkpoint."""
    return 5 * sum(value.numel() * value.element_size() for value in job.trained.values()) + (1 << 20)


def blocks(job: Many, epoch: int) -> Iterator[tuple[Sequence[Tensor], Sequence[Tensor]]]:
    """Inputs and targets of some steps at once: `(S, R, N, …)`, or `(S, N, …)` where all replicates see the same."""
    source, size = job.source, job.source.batch_size
    if source.shuffle or job.augment is not None:
        orders = [Arrays(source.x, source.y, size, seed, shuffle=source.shuffle).order(epoch) for seed in job.seeds]
        order = torch.stack(orders).to(source.x.device)  # (R, examples)
    else:
        order = source.order(epoch)[None].to(source.x.device)
    shared = len(order) == 1 and job.augment is None and not source.shuffle
    whole = len(source.x) // size
    per_block = max(1, _BLOCK // size)
    bounds = [(start * size, min(start + per_block, whole) * size, size) for start in range(0, whole, per_block)]
    rest = len(source.x) - whole * size
    if rest and (whole == 0 or not source.drop_last):
        bounds.append((whole * size, len(source.x), rest))
    for number, (low, high, n) in enumerate(bounds):
        rows = order[:, low:high].reshape(len(order), -1, n).transpose(0, 1)  # (S, R, N)
        if shared:
            yield source.x[rows[:, 0]].unbind(0), source.y[rows[:, 0]].unbind(0)
            continue
        if job.augment is None:
            x = source.x[rows]
        else:
            drawn = [
                job.augment(source.x[order[r, low:high]], generator(seed, "augment", epoch, number))
                for r, seed in enumerate(job.seeds)
            ]
            x = torch.stack([part.unflatten(0, (-1, n)) for part in drawn], 1)  # (S, R, N, …)
        yield x.contiguous().unbind(0), source.y[rows].unbind(0)


@dataclass
class Sums:
    """Losses and metrics of an epoch, summed for every replicate, measured many steps at once."""

    metrics: dict[str, Metric]
    totals: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0
    pending: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def add(self, value: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Take a step's losses `(R,)`, outputs `(R, N, …)` and targets; nothing is computed until `flush`."""
        self.pending.append((value, outputs, targets))

    def flush(self, replicates: int) -> None:
        """Measure what is pending, steps of one size."""
        losses, outputs, targets = zip(*self.pending, strict=True)
        n = outputs[0].shape[1]
        wanted = torch.stack(targets)  # (S, R, N, …) or (S, N, …)
        if wanted.shape[:3] != (len(losses), replicates, n):
            wanted = wanted.unsqueeze(1).expand(len(losses), replicates, *wanted.shape[1:])
        self._sum("loss", torch.stack(losses).double().sum(0) * n)
        joined, known = torch.stack(outputs).flatten(0, 2), wanted.flatten(0, 2)
        for name, metric in self.metrics.items():
            values = per_example(metric(joined, known), len(joined)).view(len(losses), replicates, n)
            self._sum(name, values.double().sum((0, 2)))
        self.count += len(losses) * n
        self.pending.clear()

    def _sum(self, name: str, values: Tensor) -> None:
        self.totals[name] = self.totals[name] + values if name in self.totals else values

    def means(self) -> dict[str, Tensor]:
        """Means over the examples so far, `(R,)` each."""
        return {name: total.cpu() / self.count for name, total in self.totals.items()}


def measure(job: Many, weights: Weights, data: Any, batch_size: int = 256) -> dict[str, Tensor]:
    """Means of loss and metrics of every replicate over data, `(R,)` each."""
    where, dtype = next(iter(job.trained.values())).device, next(iter(job.trained.values())).dtype
    source = make_source(data, batch_size, 0, where, dtype)
    if not isinstance(source, Arrays):
        raise ArgumentError(f"data of type {type(data).__name__}: fit_many needs data that lie in memory")
    totals: dict[str, Tensor] = {}
    count = len(job.seeds)
    with evaluating(job.model):
        for x, y in zip(source.x.split(batch_size), source.y.split(batch_size), strict=True):
            outputs = stacked_outputs(job.model, weights, job.constants, x)  # (R, N, …)
            targets = y.expand(count, *y.shape).flatten(0, 1)
            for name, metric in {"loss": job.loss, **job.metrics}.items():
                values = per_example(metric(outputs.flatten(0, 1), targets), count * len(x)).view(count, -1)
                totals[name] = totals.get(name, torch.zeros(count)) + values.double().sum(1).cpu()
    return {name: total / len(source.x) for name, total in totals.items()}
