"""Training many replicates of a network in one vectorised program: `fit_many`."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cutaway.errors import ArgumentError, NonFiniteError
from cutaway.intervals import wilson_interval
from cutaway.progress import bar
from cutaway.rng import seeded
from cutaway.train.batches import Arrays, Augment, make_source
from cutaway.train.checkpoint import save_checkpoint
from cutaway.train.interrupt import interruptible
from cutaway.train.loop import isolated
from cutaway.train.losses import loss_function
from cutaway.train.many_state import Many, Sums, blocks, go_on, measure, over, size_of, tree
from cutaway.train.measure import Evaluation, placement
from cutaway.train.metrics import HIGHER_IS_BETTER, metric_functions
from cutaway.train.opening import check_arrays
from cutaway.train.record import open_folder
from cutaway.train.replicates import Replicates
from cutaway.train.schedules import schedule_function
from cutaway.train.settings import Settings, make_settings
from cutaway.train.stacked import Weights, stack, stacked_step, unstack
from cutaway.train.stacked_update import make_update
from cutaway.train.state import copied
from cutaway.train.traced import PAYS

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
    compiled: bool | None = None,
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
        compiled: write the program in C where there is a compiler and the network's operations are known, which
            takes about two seconds; None does for runs of many steps on the CPU.
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
    worth = source.steps * chosen.epochs >= PAYS if compiled is None else compiled
    job = _prepare(models, source, chosen, seeds, rates, augment, worth)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if where.type == "cpu" else threads)  # many small operations: sharing costs more
        with isolated(where, seeds[0]):
            if out is not None:
                folder = open_folder(out, needed=3 * size_of(job), resume=True)
                go_on(job, folder)
                job.folder = folder
            status = _train(job, validation, progress)
    finally:
        torch.set_num_threads(threads)
    return _finish(job, models, validation, test, status)


def _models(make_model: MakeModel | Sequence[nn.Module], seeds: tuple[int, ...]) -> list[nn.Module]:
    if not seeds:
        raise ArgumentError("seeds is empty: at least one replicate is needed")
    if isinstance(make_model, Sequence):
        if len(make_model) != len(seeds):
            raise ArgumentError(f"{len(make_model)} networks for {len(seeds)} seeds: one each is needed")
        return list(make_model)
    made = []
    for seed in seeds:
        with seeded(seed):
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
    with interruptible() as wish, bar(f"training {len(job.seeds)} replicates", whole, progress) as tick:
        began = time.monotonic() - job.seconds
        for epoch in range(len(job.history), settings.epochs):
            if over(job):
                return "stopped early"
            job.model.train()
            meter = Sums(job.metrics)
            for xs, ys in blocks(job, epoch):
                for x, y in zip(xs, ys, strict=True):
                    value, outputs, gradients = job.step(job.trained, job.kept, x, y)
                    job.update(gradients, schedule(job.total / whole))
                    if job.ema is not None:
                        _average(job.ema, job.trained, settings.ema or 0.0)
                    meter.add(value, outputs, y)
                    job.total += 1
                meter.flush(len(job.seeds))
                _look(job, meter, epoch)
                tick(f"epoch {epoch + 1} · loss {float(meter.means()['loss'].mean()):.4f}", job.total)
                if wish.stop:
                    return "interrupted"
            _end_epoch(job, meter, validation, epoch)
            job.seconds = time.monotonic() - began
            if job.folder is not None:
                save_checkpoint(job.folder, tree(job))
    return "stopped early" if over(job) and len(job.history) < settings.epochs else "completed"


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
