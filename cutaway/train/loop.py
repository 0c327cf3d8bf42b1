"""The training loop: `fit`."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cutaway.errors import ArgumentError
from cutaway.progress import bar
from cutaway.rng import derive
from cutaway.train import processes
from cutaway.train.adversaries import make_adversary
from cutaway.train.adversary import Adversary
from cutaway.train.batches import Augment, make_source
from cutaway.train.checkpoint import load_checkpoint
from cutaway.train.epoch import check, end_epoch, named, train_epoch
from cutaway.train.interrupt import interruptible
from cutaway.train.measure import evaluate, placement
from cutaway.train.metrics import metric_functions
from cutaway.train.opening import check_arrays, check_fit, describe, open_job
from cutaway.train.prepare import prepare
from cutaway.train.record import (
    RUN,
    WEIGHTS,
    write_json,
    write_weights,
)
from cutaway.train.results import Run, columns, evaluation_record, load_run
from cutaway.train.session import Callback, Job, keep, spent
from cutaway.train.settings import Settings, make_settings
from cutaway.train.state import random_state, set_random_state
from cutaway.train.threads import using_threads


def fit(
    model: nn.Module,
    train: Any,
    validation: Any = None,
    test: Any = None,
    *,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    callbacks: Iterable[Callback] = (),
    progress: bool = True,
    device: str | torch.device | None = None,
    augment: Augment | None = None,
    adversary: str | Adversary | Callable[..., Any] | None = None,
    rules: Mapping[Any, Any] | None = None,
    checkpoint_every: int | None = None,
    threads: int | None = None,
    shard: bool = False,
    record: Mapping[str, Any] | None = None,
    settings: Settings | None = None,
    **changes: Any,
) -> Run:
    """Train a network.

    The model given is the one that is trained; afterwards it holds the weights that were kept (the best epoch's when
    there is validation data) and is in evaluation mode.

    Args:
        model: from inputs `(N, …)` to outputs, logits `(N, K)` for the default loss.
        train: a Dataset, a pair (x, y) of tensors or arrays, or a DataLoader or other iterable of (x, y) batches.
        validation: data to choose the best epoch by; never the test data.
        test: data measured once, at the end, with the weights kept.
        out: run folder to write; nothing is written without.
        overwrite: replace the run that the folder holds.
        resume: go on with the run that the folder holds, to the same bits as if it had never stopped.
        callbacks: functions of an `Epoch`, called after each; one that returns True ends the training.
        progress: show a bar on the terminal.
        device: where to train; the model's own place by default.
        augment: function `(x, generator) -> x` that changes training batches.
        adversary: what changes training batches, so that the network learns to withstand it: "pgd", "fgsm", "fast",
            "free", "trades" or "noise", one of the classes of `train.adversaries` filled in
            (`train.adversaries.Fast(eps=8/255)`), a function `(model, x, y) -> x`, or an attack
            (`partial(attack.pgd, eps=8/255)`). The history's "accuracy" is then that on the changed inputs.
        rules: a set of backward rules other than backpropagation.
        checkpoint_every: steps between checkpoints; by default so often that they take 2 % of the time.
        threads: threads to compute with on the CPU; by default one for small networks, torch's own number for others.
        shard: let each process keep its part of parameters, gradients and the optimiser's moments (FSDP2), where
            torchrun has started several; the result is the same.
        record: what else to write into `run.json`, such as `{"model": {"name": …}, "data": {…}}`.
        settings: a `Settings`, or None for the defaults.
        changes: any field of `Settings` (`epochs=20, lr=1e-3, optimizer="adamw", patience=5, …`).

    Returns:
        Run with model, history and measurements. Ctrl-C ends the training after the step; the run's status is then
        "interrupted" and resume=True goes on.

    Raises:
        ArgumentError, LookupFailure: a setting is out of range or unknown.
        DataError: the data are empty, not finite or do not fit together.
        RunFolderError: the folder holds a run, cannot be written or the disk is too full.
        NonFiniteError: a loss, gradient or weight is NaN or infinite; the node where it began is named.

    >>> from cutaway.rng import generator
    >>> x = torch.randn(64, 2, generator=generator(0)); y = (x[:, 0] > 0).long()
    >>> run = fit(nn.Linear(2, 2), (x, y), epochs=20, lr=0.5, progress=False)
    >>> run.history["accuracy"][-1] > 0.9
    True
    """
    chosen = make_settings(settings, **changes)
    if chosen.patience is not None and validation is None:
        raise ArgumentError(f"patience={chosen.patience} needs validation data to watch; pass validation=…")
    if shard:
        processes.check_several()
    device = processes.own_device(device)
    if device is not None:
        model.to(device)
    where, dtype = placement(model)
    for data, what in ((train, "training"), (validation, "validation"), (test, "test")):
        check_arrays(data, what)
    source = make_source(train, chosen.batch_size, chosen.seed, where, dtype, chosen.drop_last, chosen.shuffle)
    with isolated(where, chosen.seed):
        for data, what in ((None if augment else train, "training"), (validation, "validation"), (test, "test")):
            check_fit(model, data, what, chosen.loss)
    processes.join(where)
    with isolated(where, chosen.seed), using_threads(threads, model, source):
        job = prepare(model, source, validation, chosen, rules, make_adversary(adversary), shard)
        job.augment = augment
        job.callbacks, job.checkpoint_every = tuple(callbacks), checkpoint_every
        written = describe(model, train, chosen, job, record)
        finished = _open(job, out, overwrite, resume, written)
        if finished is not None:
            return finished
        with _noting_failure(job, written):
            status = _train(job, progress and processes.rank() == 0)
            return _finish(job, status, test, written)


@contextmanager
def isolated(device: torch.device, seed: int) -> Iterator[None]:
    """Give layers that draw from the global generators their own seed for a while.

    >>> before = torch.get_rng_state()
    >>> with isolated(torch.device("cpu"), 0): number = torch.rand(1)
    >>> torch.equal(before, torch.get_rng_state())
    True
    """
    before = random_state(device)
    own = (processes.rank(),) if processes.rank() else ()  # processes drop other units
    torch.manual_seed(derive(seed, "training", *own))
    try:
        yield
    finally:
        set_random_state(before, device)


def _open(
    job: Job, out: str | os.PathLike[str] | None, overwrite: bool, resume: bool, written: dict[str, Any]
) -> Run | None:
    """Open the run folder, which the first process alone writes; the others go on from the same checkpoint."""
    if out is None:
        return None
    finished = open_job(job, out, overwrite, resume, written) if processes.rank() == 0 else None
    if processes.agree(finished is not None):
        return finished if processes.rank() == 0 else load_run(Path(out), model=job.whole or job.model)
    job.gathers = job.whole is not None
    begun = processes.agree(job.state.total)
    if not begun:
        keep(job, now=True)
    elif processes.rank():
        state = load_checkpoint(Path(out))
        if state is not None:
            job.state.load(state)
            torch.manual_seed(derive(job.settings.seed, "training", processes.rank(), begun))
    return None


def _train(job: Job, progress: bool) -> str:
    """Run the epochs; give the status."""
    state, settings = job.state, job.settings
    steps = job.source.steps
    total = None if steps is None else steps * settings.epochs
    with interruptible() as wish, bar("training", total, progress) as tick:
        job.wish, job.tick = wish, tick
        check(job)
        while state.epoch < settings.epochs:
            if state.stopped or (settings.patience is not None and state.stale >= settings.patience):
                return "stopped early"
            if not train_epoch(job):
                return "interrupted"
            end_epoch(job)
    return "completed"


def _finish(job: Job, status: str, test: Any, written: dict[str, Any]) -> Run:
    """Write the last state, restore the best weights, measure, write the result."""
    state, settings = job.state, job.settings
    keep(job, now=True)
    seconds = spent(job)
    _restore(job)
    wanted = named({"loss": job.loss, **metric_functions(settings.metrics)})
    validation = None if job.validation is None else evaluate(job.model, job.validation, wanted)
    tested = None if test is None or status == "interrupted" else evaluate(job.model, test, wanted)
    last = state.adversary["epoch"] if "reason" in state.adversary else state.epoch
    best_epoch = state.best["epoch"] if state.best and settings.restore_best else last or None
    result = {
        "best_epoch": best_epoch,
        "epochs": state.epoch,
        "steps": state.total,
        "validation": evaluation_record(validation),
        "test": evaluation_record(tested),
        "seconds": seconds,
    }
    if "reason" in state.adversary:
        result["reason"] = state.adversary["reason"]
    record = {**written, "status": status, "result": result}
    if job.folder is not None:
        write_weights(job.folder / WEIGHTS, job.model.state_dict())
        write_json(job.folder / RUN, record)
    return Run(
        model=job.model,
        history=columns(state.history),
        settings=record["settings"],
        seed=settings.seed,
        status=status,
        best_epoch=best_epoch,
        validation=validation,
        test=tested,
        seconds=seconds,
        folder=job.folder,
        record=record,
    )


def _restore(job: Job) -> None:
    """Leave the model with the weights that are kept, in evaluation mode, without gradients."""
    state = job.state
    kept = state.best["weights"] if state.best and job.settings.restore_best else state.weights()
    if job.whole is not None:
        state.model = job.whole.to(state.device)
        kept = processes.whole(kept)
    state.model.load_state_dict(kept)
    state.model.eval()
    for weight in job.weights:
        weight.grad = None


@contextmanager
def _noting_failure(job: Job, written: dict[str, Any]) -> Iterator[None]:
    """When training fails, say so in `run.json` and leave the model with the best weights so far."""
    try:
        yield
    except BaseException as reason:
        if job.whole is None:  # other processes may be gone, so that shards cannot be gathered
            _restore(job)
        if job.folder is not None:
            status = "interrupted" if isinstance(reason, KeyboardInterrupt) else "failed"
            told = {"status": status, "reason": f"{type(reason).__name__}: {reason}"}
            write_json(job.folder / RUN, {**written, **told})
        raise
