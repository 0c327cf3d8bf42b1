"""Training many replicates of a network in one vectorised program: `fit_many`."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cutaway.errors import ArgumentError, NonFiniteError, RunFolderError
from cutaway.rng import generator
from cutaway.train.batches import Arrays, Augment, make_source
from cutaway.train.checkpoint import load_checkpoint, save_checkpoint
from cutaway.train.interrupt import interruptible
from cutaway.train.loop import isolated
from cutaway.train.losses import Loss, loss_function
from cutaway.train.measure import Evaluation, evaluating, placement
from cutaway.train.metrics import HIGHER_IS_BETTER, Metric, metric_functions, per_example, wilson_interval
from cutaway.train.opening import check_arrays
from cutaway.train.progress import training_bar
from cutaway.train.record import open_folder
from cutaway.train.replicates import Replicates
from cutaway.train.schedules import schedule_function
from cutaway.train.settings import Settings, make_settings
from cutaway.train.stacked import StackedStep, Weights, stack, stacked_outputs, stacked_step, unstack
from cutaway.train.stacked_update import Update, make_update
from cutaway.train.state import copied, random_state, set_random_state

_BLOCK = 4096  # examples of a replicate that are fetched and augmented at once
_ALONE = {"accumulate": 1, "precision": "float32", "freeze": (), "rates": {}}  # what the stacked program cannot do

MakeModel = Callable[[int], nn.Module]


def fit_many(
    make_model: MakeModel | Sequence[nn.Module],
    train: Any,
    validation: Any = None,
    test: Any = None,
    *,
    seeds: Iterable[int] = range(8),
    lr: float | Sequence[float] | None = None,
    augment: Augment | None = None,
    progress: bool = True,
    compiled: bool = False,
    out: str | os.PathLike[str] | None = None,
    settings: Settings | None = None,
    **changes: Any,
) -> Replicates:
    """Train replicates of a network at once: one program computes the step of all of them.

    Each replicate does what `fit` does with its seed and rate; only what dropout and augmentation draw differs. A
    replicate whose patience is over keeps its best weights while the others go on.

    Args:
        make_model: function of a seed to a network, or the networks themselves, one per seed; all of one shape.
        train: a Dataset or a pair (x, y) of tensors or arrays.
        validation: data to choose each replicate's best epoch by.
        test: data measured once, at the end.
        seeds: one per replicate; they fix initial weights and order.
        lr: learning rate of all, or one per replicate.
        augment: function `(x, generator) -> x`; it is given some thousand examples of a replicate at once.
        progress: show a bar on the terminal.
        compiled: compile the program, which needs a C++ compiler and some ten seconds.
        out: folder for a checkpoint after every epoch; the same call goes on from the one that is there.
        settings: a `Settings`, or None for the defaults.
        changes: any field of `Settings` but those that concern memory or parts of the network
            (accumulate, precision, freeze, rates).

    Returns:
        Replicates with networks, curves and evaluations; `.spread("test_accuracy")` gives mean, standard deviation
        and interval.

    Raises:
        ArgumentError: a setting is out of range, or the network cannot be vectorised.
        NonFiniteError: a replicate's loss became NaN or infinite (nonfinite="continue" goes on).

    >>> from cutaway.rng import generator
    >>> x = torch.randn(64, 2, generator=generator(0)); y = (x[:, 0] > 0).long()
    >>> runs = fit_many(lambda seed: nn.Linear(2, 2), (x, y), seeds=range(3), lr=0.1, epochs=20, progress=False)
    >>> runs.spread("accuracy").mean > 0.9, len(runs)
    (True, 3)
    """
    seeds = tuple(seeds)
    rates = tuple(map(float, lr)) if isinstance(lr, Sequence) else None
    chosen = make_settings(settings, **changes, **({} if lr is None or rates is not None else {"lr": lr}))
    models = _models(make_model, seeds)
    rates = (chosen.rate,) * len(seeds) if rates is None else rates
    _check(chosen, models, seeds, rates, validation)
    for data, what in ((train, "training"), (validation, "validation"), (test, "test")):
        check_arrays(data, what)
    where, dtype = placement(models[0])
    source = make_source(train, chosen.batch_size, seeds[0], where, dtype, chosen.drop_last, chosen.shuffle)
    if not isinstance(source, Arrays):
        raise ArgumentError(f"training data of type {type(train).__name__}: fit_many needs data that lie in memory")
    job = _prepare(models, source, chosen, seeds, rates, augment, compiled)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if where.type == "cpu" else threads)  # many small operations: sharing costs more
        with isolated(where, seeds[0]):
            if out is not None:
                folder = open_folder(out, needed=3 * _bytes(job), resume=True)
                go_on(job, folder)
                job.folder = folder
            status = _train(job, validation, progress)
    finally:
        torch.set_num_threads(threads)
    return _finish(job, models, validation, test, status)


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


def _models(make_model: MakeModel | Sequence[nn.Module], seeds: tuple[int, ...]) -> list[nn.Module]:
    if not seeds:
        raise ArgumentError("seeds is empty: at least one replicate is needed")
    if isinstance(make_model, Sequence):
        if len(make_model) != len(seeds):
            raise ArgumentError(f"{len(make_model)} networks for {len(seeds)} seeds: one each is needed")
        return list(make_model)
    made = []
    for seed in seeds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made.append(make_model(seed))
    return made


def _check(
    chosen: Settings, models: list[nn.Module], seeds: tuple[int, ...], rates: tuple[float, ...], validation: Any
) -> None:
    for name, plain in _ALONE.items():
        if getattr(chosen, name) != plain:
            raise ArgumentError(f"{name}={getattr(chosen, name)!r} is not possible for replicates at once; use fit")
    if chosen.optimizer == "lbfgs" or not (isinstance(chosen.optimizer, str) or callable(chosen.optimizer)):
        raise ArgumentError(f"optimizer={chosen.optimizer!r}: give a name other than lbfgs, or a class; or use fit")
    if len(rates) != len(seeds):
        raise ArgumentError(f"lr holds {len(rates)} rates for {len(seeds)} seeds: one each, or one for all")
    if chosen.patience is not None and validation is None:
        raise ArgumentError(f"patience={chosen.patience} needs validation data to watch; pass validation=…")
    if len({id(model) for model in models}) != len(models):
        raise ArgumentError("make_model gave the same network twice; it must make a new one for every seed")


def _prepare(
    models: list[nn.Module],
    source: Arrays,
    chosen: Settings,
    seeds: tuple[int, ...],
    rates: tuple[float, ...],
    augment: Augment | None,
    compiled: bool,
) -> Many:
    """Put stacked weights, program and update together."""
    trained, kept, constants = stack(models)
    class_weights = None if chosen.class_weights is None else list(chosen.class_weights)
    loss = loss_function(chosen.loss, chosen.label_smoothing, class_weights)
    shared = not chosen.shuffle and augment is None
    return Many(
        model=models[0],
        settings=chosen,
        source=source,
        seeds=seeds,
        rates=rates,
        augment=augment,
        trained=trained,
        kept=kept,
        constants=constants,
        step=stacked_step(models[0], loss, constants, shared, compiled),
        update=make_update(trained, chosen, rates),
        loss=loss,
        metrics=metric_functions(chosen.metrics),
        ema=None if chosen.ema is None else copied(trained),
    )


def _train(job: Many, validation: Any, progress: bool) -> str:
    """Run the epochs; give the status."""
    settings = job.settings
    schedule = schedule_function(settings.schedule, settings.warm_up)
    whole = max(job.source.steps * settings.epochs, 1)
    with interruptible() as wish, training_bar(whole, progress, f"training {len(job.seeds)} replicates") as show:
        began = time.monotonic() - job.seconds
        for epoch in range(len(job.history), settings.epochs):
            if _over(job):
                return "stopped early"
            job.model.train()
            meter = Sums(job.metrics)
            for xs, ys in _blocks(job, epoch):
                for x, y in zip(xs, ys, strict=True):
                    value, outputs, gradients = job.step(job.trained, job.kept, x, y)
                    job.update(gradients, schedule(job.total / whole))
                    if job.ema is not None:
                        _average(job.ema, job.trained, settings.ema or 0.0)
                    meter.add(value, outputs, y)
                    job.total += 1
                meter.flush(len(job.seeds))
                _look(job, meter, epoch)
                show(job.total, note=f"epoch {epoch + 1} · loss {float(meter.means()['loss'].mean()):.4f}")
                if wish.stop:
                    return "interrupted"
            _end_epoch(job, meter, validation, epoch)
            job.seconds = time.monotonic() - began
            if job.folder is not None:
                save_checkpoint(job.folder, tree(job))
    return "stopped early" if _over(job) and len(job.history) < settings.epochs else "completed"


def _over(job: Many) -> bool:
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
    job.update.moments = []
    set_random_state(found["random"], next(iter(job.trained.values())).device)


def _bytes(job: Many) -> int:
    """Size of a checkpoint."""
    return 5 * sum(value.numel() * value.element_size() for value in job.trained.values()) + (1 << 20)


def _blocks(job: Many, epoch: int) -> Iterator[tuple[Sequence[Tensor], Sequence[Tensor]]]:
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


def _average(ema: Weights, weights: Weights, decay: float) -> None:
    for name, weight in weights.items():
        ema[name].lerp_(weight, 1 - decay)


def _look(job: Many, meter: Sums, epoch: int) -> None:
    """Stop where a replicate's loss is not finite."""
    bad = [seed for seed, fine in zip(job.seeds, meter.means()["loss"].isfinite().tolist(), strict=True) if not fine]
    if bad and job.settings.nonfinite == "stop":
        shown = ", ".join(map(str, bad[:8]))
        raise NonFiniteError(
            f"the loss of {len(bad)} of {len(job.seeds)} replicates (seeds {shown}) is not finite "
            f"in epoch {epoch + 1}; lower lr, clip the gradient, or go on with the others by nonfinite='continue'"
        )


def _end_epoch(job: Many, meter: Sums, validation: Any, epoch: int) -> None:
    """Measure on validation data, note the history, keep the best weights of every replicate."""
    row = meter.means()
    row["learning_rate"] = torch.tensor(job.rates, dtype=torch.float64) * job.update.factor
    if validation is not None:
        measured = measure(job, job.weights(), validation)
        row |= {f"validation_{name}": values for name, values in measured.items()}
        _judge(job, row[f"validation_{job.settings.monitor}"], epoch)
    job.history.append(row)


def _judge(job: Many, values: Tensor, epoch: int) -> None:
    """Keep the weights of the replicates for which this epoch is the best so far."""
    score = values if job.settings.monitor in HIGHER_IS_BETTER else -values
    if job.best is None or job.score is None or job.stale is None or job.best_epoch is None:
        job.best, job.score = copied(job.weights()), score
        job.stale, job.best_epoch = torch.zeros_like(score), torch.ones(len(score), dtype=torch.int64)
        return
    patience = job.settings.patience
    going = torch.ones_like(score, dtype=torch.bool) if patience is None else job.stale < patience
    better = (score > job.score) & going
    rows = better.nonzero().squeeze(1)
    for name, value in job.weights().items():
        job.best[name][rows] = value[rows]
    job.score = torch.where(better, score, job.score)
    job.best_epoch = torch.where(better, epoch + 1, job.best_epoch)
    job.stale = torch.where(better, 0.0, job.stale + 1)


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


def _evaluations(job: Many, weights: Weights, data: Any) -> tuple[Evaluation, ...]:
    """One Evaluation per replicate."""
    if data is None:
        return ()
    means = measure(job, weights, data)
    n = len(data.x if hasattr(data, "x") else data[0])
    found = []
    for number in range(len(job.seeds)):
        values = {name: float(column[number]) for name, column in means.items()}
        interval = wilson_interval(round(values["accuracy"] * n, 6), n) if "accuracy" in values else None
        found.append(Evaluation(values, n, interval))
    return tuple(found)


def _finish(job: Many, models: list[nn.Module], validation: Any, test: Any, status: str) -> Replicates:
    """Give the networks the weights that are kept, and measure them."""
    chosen = job.settings
    restored = job.best if job.best is not None and chosen.restore_best else job.weights()
    unstack(models, restored)
    for model in models:
        model.eval()
    if job.best_epoch is not None and chosen.restore_best:
        best: tuple[int | None, ...] = tuple(job.best_epoch.tolist())
    else:
        best = (len(job.history) or None,) * len(models)
    names = list(job.history[0]) if job.history else []
    return Replicates(
        models=tuple(models),
        history={name: torch.stack([row[name] for row in job.history]) for name in names},
        seeds=job.seeds,
        rates=job.rates,
        best_epoch=best,
        validation=_evaluations(job, restored, validation),
        test=_evaluations(job, restored, test) if status != "interrupted" else (),
        settings={**chosen.record(), "lr": chosen.rate},
        status=status,
        steps=job.total,
        seconds=job.seconds,
    )
