"""Inside the loop: one step, one epoch, its end, and the look whether everything is finite."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from cutaway.errors import NonFiniteError
from cutaway.rng import derive, generator
from cutaway.train import foreach, processes
from cutaway.train.adversary import Moment
from cutaway.train.collapse import collapsed
from cutaway.train.guard import all_finite, describe_nonfinite
from cutaway.train.measure import evaluate
from cutaway.train.metrics import HIGHER_IS_BETTER, metric_functions
from cutaway.train.record import append_history
from cutaway.train.session import LOOK_EVERY, Epoch, Job, keep, note, progress, spent
from cutaway.train.state import State, copied, update_average

CHECK_EVERY = 64  # steps between looks at whether everything is finite
_FAINTEST = 2.0**-24  # float16's smallest number: a loss scale below it leaves nothing


def train_epoch(job: Job) -> bool:
    """Train from the cursor to the end of the epoch; False when the user wished to stop before it."""
    state = job.state
    job.model.train()
    for x, y in job.source.epoch(state.epoch, state.step):
        take_step(job, x, y)
        if state.total % CHECK_EVERY == 0:
            check(job)
            job.note = note(job, float(state.meter.losses()[-CHECK_EVERY:].mean()))
        if _wished(job):
            return False
        keep(job)
        job.tick(job.note, state.total)
    return True


def _wished(job: Job) -> bool:
    """Whether the user wishes to stop; several processes stop after the same step."""
    if processes.size() == 1:
        return job.wish.stop
    return job.state.total % LOOK_EVERY == 0 and processes.anywhere(job.wish.stop)


def take_step(job: Job, x: Tensor, y: Tensor) -> None:
    """Compute the gradient for one batch and move the weights; with some adversaries several times."""
    state = job.state
    x = augmented(job, x)
    factor = job.schedule(progress(job))
    for group, rate in zip(state.optimizer.param_groups, job.rates, strict=True):
        group["lr"] = rate * factor
    for _ in range(1 if job.adversary is None else job.adversary.replays):
        _update(job, x, y)
    state.step += 1
    state.total += 1


def _update(job: Job, x: Tensor, y: Tensor) -> None:
    """Move the weights once."""
    state, settings = job.state, job.settings
    inputs, moment = attacked(job, x, y)
    if isinstance(state.optimizer, torch.optim.LBFGS):
        value, outputs = _closure_step(job, inputs, y)
    else:
        value, outputs, gradients = job.step(inputs, y)
        if job.adversary is not None and moment is not None and len(gradients) > len(job.weights):
            job.adversary.answer(moment, gradients.pop())
        _move(job, gradients)
        if job.whole is None:
            torch.autograd.graph.increment_version(job.weights)  # fused optimisers do not, and the engine goes by it
    if state.ema is not None:
        update_average(state.ema, zip(job.names, job.weights, strict=True), settings.ema or 0.0)
    state.meter.add(value, outputs, y)


def _move(job: Job, gradients: list[Tensor]) -> None:
    """Move the weights by a batch's gradients."""
    state = job.state
    if job.moves is not None and job.moves.ready():
        job.moves(_treated(job, gradients))
        return
    _assign(job, gradients)
    if state.scaler is None:
        state.optimizer.step()
    else:
        state.scaler.step(state.optimizer)
        state.scaler.update()


def _assign(job: Job, gradients: list[Tensor]) -> None:
    """Give the optimiser its gradients, with the L1 term and clipped."""
    if job.state.scaler is None:
        gradients = _treated(job, gradients)
    for weight, gradient in zip(job.weights, gradients, strict=True):
        weight.grad = as_laid_out(gradient, weight)
    if job.state.scaler is not None:
        job.state.scaler.unscale_(job.state.optimizer)
        _treated(job, [weight.grad for weight in job.weights if weight.grad is not None])


def _treated(job: Job, gradients: list[Tensor]) -> list[Tensor]:
    """The gradients with the L1 term and clipped, in place, in their weights' memory layout."""
    own = processes.local(gradients) if job.whole is not None else gradients
    if job.settings.l1:
        foreach.add_(own, foreach.sign(processes.local(w.detach() for w in job.weights)), alpha=job.settings.l1)
    if job.settings.clip is not None:
        total = torch.linalg.vector_norm(torch.stack(foreach.norm(own)))
        if job.whole is not None:
            total = processes.summed(total.square()).sqrt()
        foreach.mul_(own, (job.settings.clip / total.clamp_min(1e-12)).clamp_max(1.0))
    return [as_laid_out(gradient, weight) for gradient, weight in zip(gradients, job.weights, strict=True)]


def as_laid_out(gradient: Tensor, weight: Tensor) -> Tensor:
    """The gradient in its weight's memory layout, without which fused optimisers mix up the numbers.

    >>> weight, gradient = torch.zeros(2, 3, 2, 2), torch.rand(2, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    >>> as_laid_out(gradient, weight).stride() == weight.stride()
    True
    """
    return gradient if gradient.stride() == weight.stride() else torch.empty_like(weight).copy_(gradient)


def _closure_step(job: Job, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """A step of an optimiser that asks for the loss several times."""
    first: list[Tensor] = []

    def closure() -> float:
        value, outputs, gradients = job.step(x, y)
        _assign(job, gradients)
        if not first:
            first.extend([value, outputs])
        return float(value)

    job.state.optimizer.step(closure)
    return first[0], first[1]


def augmented(job: Job, x: Tensor) -> Tensor:
    """Augment the inputs, fixed by seed and step."""
    if job.augment is None:
        return x
    return job.augment(x, generator(job.settings.seed, "augment", job.state.total, device=x.device))


def attacked(job: Job, x: Tensor, y: Tensor) -> tuple[Tensor, Moment | None]:
    """Let the adversary change the inputs, fixed by seed and step; its time is noted."""
    if job.adversary is None:
        return x, None
    began, memory = time.perf_counter(), job.state.adversary
    seed = derive(job.settings.seed, "adversary", job.state.total)
    moment = Moment(job.model, x, y, seed, progress(job), memory)
    inputs = job.adversary.inputs(moment)
    memory["seconds"] = memory.get("seconds", 0.0) + time.perf_counter() - began
    return inputs, moment


def end_epoch(job: Job) -> None:
    """Measure on validation data, note the history, keep the best weights, call the callbacks."""
    state, settings = job.state, job.settings
    check(job)
    row: dict[str, Any] = {"epoch": state.epoch + 1, **state.meter.means()}
    row["learning_rate"] = state.optimizer.param_groups[0]["lr"]
    if job.adversary is not None:
        row["gradients"] = job.adversary.gradients
        row["adversary_seconds"] = round(state.adversary.pop("seconds", 0.0), 3)
    broken = collapsed(job, row)  # the weights are then those of the epoch before
    if job.validation is not None:
        wanted = {"loss": job.loss, **metric_functions(settings.metrics)}
        with averaged(state):
            measured = evaluate(job.model, job.validation, named(wanted), batch_size=max(settings.batch_size, 256))
        row |= {f"validation_{name}": value for name, value in measured.values.items()}
        if not broken:
            _judge(job, row)
    row["seconds"] = round(spent(job), 3)
    state.history.append(row)
    state.meter.load({"counts": [], "values": {}})
    state.epoch, state.step = state.epoch + 1, 0
    job.note = note(job, row["loss"])
    for callback in job.callbacks:
        if callback(Epoch(state.epoch, dict(row), job.model, job.folder)) is True:
            state.stopped = True
    if settings.nonfinite == "stop":
        remember(job)  # the next steps are another epoch's
    if job.folder is not None:
        append_history(job.folder, row)
    keep(job)


def named(functions: dict[str, Any]) -> list[Any]:
    """Functions under the names they are asked by, as `evaluate` takes them."""

    def rename(name: str, function: Any) -> Any:
        def measure(outputs: Tensor, targets: Tensor) -> Tensor:
            return function(outputs, targets)

        measure.__name__ = name
        return measure

    return [rename(name, function) for name, function in functions.items()]


def _judge(job: Job, row: dict[str, Any]) -> None:
    """Keep the weights if this epoch is the best by the monitored value."""
    state, monitor = job.state, job.settings.monitor
    value = row[f"validation_{monitor}"]
    score = value if monitor in HIGHER_IS_BETTER else -value
    if state.best is None or score > state.best["score"]:
        state.best = {"score": score, "epoch": state.epoch + 1, "weights": copied(state.weights())}
        state.stale = 0
    else:
        state.stale += 1


@contextmanager
def averaged(state: State) -> Iterator[None]:
    """Use the moving average of the weights for a while."""
    if state.ema is None:
        yield
        return
    own = copied(dict(state.model.state_dict()))
    state.model.load_state_dict(state.weights())
    try:
        yield
    finally:
        state.model.load_state_dict(own)


def check(job: Job) -> None:
    """Look whether losses and weights are finite; if not, go back and find out where it began."""
    if job.settings.nonfinite != "stop":
        job.state.meter.flush()
        return
    state = job.state
    state.meter.flush()
    losses = [] if state.scaler is not None else [state.meter.losses()]  # the scaler leaves such steps out
    if all_finite([*losses, *job.weights]) and not faint(state.scaler):
        remember(job)
    else:
        _trace_back(job)


def remember(job: Job) -> None:
    """Keep a copy of the state, to go back to when something is found that is not finite."""
    tree = job.state.tree()
    job.snapshot = {**copied({k: v for k, v in tree.items() if k != "best"}), "best": tree["best"]}


def faint(scaler: torch.amp.GradScaler | None) -> bool:
    """Whether steps in float16 overflow so often that the loss scale has fallen to nothing.

    >>> faint(torch.amp.GradScaler("cpu", init_scale=1.0)), faint(torch.amp.GradScaler("cpu", init_scale=1e-9))
    (False, True)
    """
    return scaler is not None and scaler.get_scale() < _FAINTEST


def _trace_back(job: Job) -> None:
    """Repeat the steps since the last finite state one by one, and stop before the one that breaks."""
    state, wrong_at = job.state, job.state.total
    if job.snapshot is None:
        raise NonFiniteError("the model's weights are not finite before the first step; initialise it again")
    state.load(copied(job.snapshot))
    job.model.train()
    for x, y in job.source.epoch(state.epoch, state.step):
        before = {**copied({k: v for k, v in state.tree().items() if k != "best"}), "best": state.best}
        what = _describe(job, x, y) if state.scaler is None else None  # which leaves out steps that overflow
        state.load(copied(before))
        if what is None:
            take_step(job, x, y)
            if faint(state.scaler):
                what = f"{_describe(job, x, y)}, and steps in float16 have overflowed until the loss scale was nothing"
            elif all_finite(job.weights):
                if state.total >= wrong_at:
                    break
                continue
            else:
                bad = [n for n, w in zip(job.names, job.weights, strict=True) if not all_finite([w])]
                what = f"loss and gradients are finite but the update of {', '.join(bad[:5])} is not"
            state.load(copied(before))
        _stop(job, what)
    _stop(job, "it did not appear again when the steps were repeated, so the data or the model are not deterministic")


def _describe(job: Job, x: Tensor, y: Tensor) -> str | None:
    """Where the first value that is not finite appears in a step."""
    inputs, _ = attacked(job, augmented(job, x), y)
    model, names = job.model, job.names
    if job.whole is not None:
        model = job.whole.to(x.device)
        model.load_state_dict(processes.whole(job.model.state_dict()))
    if job.adversary is not None:
        model = job.adversary.network(model)
        names = [*names, "the inputs"][: len(names) + job.adversary.slope]
    return describe_nonfinite(model, job.loss, job.step, inputs, y, names)


def _stop(job: Job, what: str) -> None:
    keep(job, now=True)
    state = job.state
    kept = f" The state before this step is kept in {job.folder}." if job.folder else ""
    raise NonFiniteError(
        f"epoch {state.epoch + 1}, step {state.step + 1} (learning rate "
        f"{state.optimizer.param_groups[0]['lr']:.3g}): {what}.{kept} Lower lr, set clip=1.0, or look at the data; "
        "nonfinite='continue' trains on regardless"
    )
