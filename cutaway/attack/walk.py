"""The walk up the loss inside a ball that BIM, PGD and momentum share."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cutaway.attack.losses import LOSSES, Loss
from cutaway.attack.problem import Problem
from cutaway.attack.result import Attack, settle
from cutaway.attack.search import Keeper
from cutaway.errors import ArgumentError, nearest
from cutaway.progress import Tick, bar


def named_loss(loss: str) -> Loss:
    """The row of the table of losses."""
    if loss not in LOSSES:
        raise nearest(loss, LOSSES, "loss")
    return LOSSES[loss]


def at_least(least: float, **values: float) -> None:
    """Refuse settings below their least sensible value."""
    for name, value in values.items():
        if not value >= least:
            raise ArgumentError(f"{name}={value!r}: expected at least {least}")


@dataclass(frozen=True)
class Walk:
    """Settings of a walk up the loss inside the ball.

    Attributes:
        steps, step_size: how many steps, and how long each is in the norm.
        restarts: walks per example; later ones are for the examples still unsolved.
        random_start: begin at a random point of the ball, not at the clean image.
        decay: weight of the earlier gradients in the direction (0: none).
        early_stop: examples leave the batch when they succeed.
    """

    loss: Loss
    steps: int
    step_size: float
    restarts: int = 1
    random_start: bool = False
    decay: float = 0.0
    early_stop: bool = True


def walk(problem: Problem, how: Walk, tick: Tick) -> Keeper:
    """Walk up the loss, keeping the best point of each example."""
    keeper = Keeper(problem)
    for restart in range(how.restarts):
        rows = keeper.open() if how.early_stop else keeper.everyone()
        part = problem.keep(rows)
        inside = problem.geometry.inside
        point = inside(part.x, part.radii, part.draws, "start", restart) if how.random_start else part.x
        direction = torch.zeros_like(point)
        for _ in range(how.steps):
            if not len(rows):
                break
            answer = problem.oracle.ascent(point, how.loss, part.goal)
            reached = part.goal.reached(answer.logits)
            keeper.offer(rows, point, reached, answer.value)
            keeper.note(rows, answer.value)
            tick(keeper.words())
            gradient = answer.gradient
            if how.early_stop and reached.any():
                stay = (~reached).nonzero()[:, 0]
                rows, part = rows[stay], part.keep(stay)
                point, direction, gradient = point[stay], direction[stay], gradient[stay]
                if not len(rows):
                    break
            direction = _accumulate(direction, gradient, how.decay)
            size = torch.full_like(part.radii, how.step_size)
            point = problem.geometry.step(point, direction, size)
            point = part.project(point)
        if len(rows):  # the last step's result has not been looked at
            logits = problem.oracle.look(point)
            keeper.offer(rows, point, part.goal.reached(logits), how.loss(logits, part.goal)[0])
    return keeper


def _accumulate(direction: Tensor, gradient: Tensor, decay: float) -> Tensor:
    if decay == 0:
        return gradient
    mean = gradient.abs().flatten(1).mean(1).clamp(min=1e-30)  # each gradient counts by its direction only
    return decay * direction + gradient / mean.view(-1, 1, 1, 1)


def run(problem: Problem, name: str, how: Walk, control: bool, seed: int, eps: float, shown: bool) -> Attack:
    """Check the settings, walk with a progress bar, and settle the result."""
    at_least(1, restarts=how.restarts)
    at_least(0, step_size=how.step_size, decay=how.decay)
    settings = vars(how) | {"loss": how.loss.__name__, "samples": problem.oracle.samples}
    with bar(name, how.restarts * how.steps, shown) as tick:
        keeper = walk(problem, how, tick)
    return settle(problem, name, keeper.x, keeper.lines(), settings, control, seed, eps)
