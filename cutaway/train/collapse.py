"""Catastrophic overfitting: the end of what one-step adversarial training teaches, seen and answered."""

import warnings
from typing import Any

import torch
from torch import Tensor

from cutaway.errors import ArgumentError
from cutaway.rng import derive
from cutaway.train import processes
from cutaway.train.adversaries import PGD
from cutaway.train.adversary import Adversary, Moment
from cutaway.train.ascent import logits
from cutaway.train.batches import Arrays, in_order
from cutaway.train.measure import placement
from cutaway.train.session import Job
from cutaway.train.state import copied

STEPS = 5  # of PGD, each ε/4 long
EXAMPLES = 256


class CatastrophicOverfittingWarning(UserWarning):
    """The network has learnt to withstand its own training's one-step attack only."""


def check_adversary(adversary: Adversary | None, optimizer: torch.optim.Optimizer, pieces: int) -> None:
    """Refuse what does not go together.

    Raises:
        ArgumentError: an adversary that learns from the training's own gradients, with steps in several parts.
    """
    if adversary is None or not adversary.slope:
        return
    why = {
        "an optimizer that asks for the loss several times": isinstance(optimizer, torch.optim.LBFGS),
        f"accumulate={pieces}": pieces > 1,
        f"{processes.size()} processes": processes.size() > 1,
    }
    for what, holds in why.items():
        if holds:
            raise ArgumentError(
                f"adversary={adversary!r} learns from the same backward pass as the weights, which {what} takes apart; "
                "take adversary='fast', which costs twice as much for each step but needs fewer epochs"
            )


def collapsed(job: Job, row: dict[str, Any]) -> bool:
    """Try a few steps of PGD after an epoch; if they suddenly succeed, go back to the epoch before and stop.

    Args:
        job: the run.
        row: the epoch's line of the history, which gets "pgd5_accuracy".

    Returns:
        Whether the network has collapsed in this epoch.

    Source: Wong, Rice, Kolter, "Fast is better than free: revisiting adversarial training", 2020, section 5.
    """
    adversary, state = job.adversary, job.state
    if adversary is None or adversary.fall is None:
        return False
    now = row["pgd5_accuracy"] = _accuracy(job, adversary)
    before = state.adversary.get("accuracy")
    if before is not None and before - now > adversary.fall:
        _go_back(job, row, before, now)
        return True
    state.adversary |= {"accuracy": now, "weights": copied(state.weights()), "epoch": state.epoch + 1}
    return False


def _accuracy(job: Job, adversary: Adversary) -> float:
    """Accuracy under PGD on the first examples of the validation or of the training data."""
    x, y = _examples(job)
    eps = adversary.eps  # type: ignore[attr-defined]  # whatever looks for collapse has a radius
    found = PGD(eps, STEPS, eps / 4).inputs(Moment(job.model, x, y, derive(job.settings.seed, "collapse")))
    return float((logits(job.model, found).argmax(1) == y).double().mean())


def _examples(job: Job) -> tuple[Tensor, Tensor]:
    if job.validation is not None:
        return next(iter(in_order(job.validation, EXAMPLES, *placement(job.model))))
    if isinstance(job.source, Arrays):
        return job.source.x[:EXAMPLES], job.source.y[:EXAMPLES]
    return next(iter(job.source.epoch(0)))


def _go_back(job: Job, row: dict[str, Any], before: float, now: float) -> None:
    """Put the weights of the epoch before back, and say so."""
    state = job.state
    kept = state.adversary["weights"]
    state.model.load_state_dict(kept)
    if state.ema is not None:
        state.ema = {name: copied(kept[name]) for name in state.ema}
    if state.best is None:
        state.best = {"score": 0.0, "epoch": state.adversary["epoch"], "weights": copied(kept)}
    state.stopped = True
    row["catastrophic_overfitting"] = True
    reason = (
        f"catastrophic overfitting: accuracy under {STEPS} steps of PGD fell from {100 * before:.0f} % to "
        f"{100 * now:.0f} % in epoch {state.epoch + 1}; the weights of epoch {state.adversary['epoch']} are kept. "
        "A smaller step_size, fewer epochs, or adversary='pgd' avoid it"
    )
    state.adversary["reason"] = reason
    warnings.warn(reason, CatastrophicOverfittingWarning, stacklevel=2)
