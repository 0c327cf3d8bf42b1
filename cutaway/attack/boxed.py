"""Minimise many functions at once inside the box [0, 1], by L-BFGS on the variables that are free to move."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Ask = Callable[[Float[Tensor, "n d"], Int[Tensor, "n"]], tuple[Float[Tensor, "n"], Float[Tensor, "n d"]]]
ENOUGH = 1e-4  # share of the decrease the gradient promises that a step has to bring
HALVINGS = 20  # of a step, after which an example leaves


@dataclass
class _State:
    """Each example's point and what is known there; all tensors have a row for each example still searched for."""

    rows: Tensor
    x: Tensor
    value: Tensor
    gradient: Tensor
    direction: Tensor
    size: Tensor
    halved: Tensor  # how often the step has been halved since the last success

    def keep(self, stay: Tensor) -> None:
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name)[stay])


def minimize(ask: Ask, x: Float[Tensor, "n d"], evaluations: int, memory: int = 5) -> Float[Tensor, "n d"]:
    """Find a local minimum in the box for each row by itself, all rows in the same calls.

    The direction is L-BFGS's on the variables that are not held at an end of the box by their gradient (two-metric
    projection); a step is bent back into the box and halved until the value falls enough. Rows leave when their value
    no longer falls by more than rounding.

    Args:
        ask: (points (m, D), their rows (m,)) → values (m,) and gradients (m, D).
        x: starts (N, D) in [0, 1].
        evaluations: calls of `ask` at most.
        memory: pairs of steps and gradient changes kept.

    Source: Bertsekas, "Projected Newton methods for optimization problems with simple constraints", 1982; Nocedal,
    "Updating quasi-Newton matrices with limited storage", 1980.

    >>> goal = torch.tensor([[0.3, 2.0]])  # the second coordinate ends at the box
    >>> minimize(lambda p, rows: ((p - goal).square().sum(1), 2 * (p - goal)), torch.zeros(1, 2), 9)
    tensor([[0.3000, 1.0000]])
    """
    rows, found = torch.arange(len(x), device=x.device), x.clone()
    value, gradient = ask(x, rows)
    state = _State(rows, x, value, gradient, x, x[:, 0], torch.zeros_like(rows))
    steps, changes = (x.new_zeros(memory, *x.shape) for _ in range(2))  # (M, N, D), the latest last
    _aim(state, steps, changes, torch.ones_like(rows, dtype=torch.bool))
    slack = max(2.2e-9, 10 * torch.finfo(x.dtype).eps)
    for _ in range(evaluations - 1):
        if not len(state.rows):
            break
        trial = (state.x + state.size[:, None] * state.direction).clamp(0, 1)
        value, gradient = ask(trial, state.rows)
        moved = trial - state.x
        fell = value <= state.value + ENOUGH * (state.gradient * moved).sum(1)
        gain = (state.value - value) / torch.stack([state.value.abs(), value.abs(), torch.ones_like(value)]).amax(0)
        steps, changes = _remember(steps, changes, moved, gradient - state.gradient, fell)
        done = fell & (gain <= slack)
        accepted = fell[:, None]
        state.x, state.gradient = torch.where(accepted, trial, state.x), torch.where(accepted, gradient, state.gradient)
        state.value = torch.where(fell, value, state.value)
        state.size, state.halved = state.size / 2, state.halved + 1
        _aim(state, steps, changes, fell)
        found[state.rows] = state.x
        stay = (~done & (state.halved < HALVINGS)).nonzero()[:, 0]
        if len(stay) < len(state.rows):
            state.keep(stay)
            steps, changes = steps[:, stay], changes[:, stay]
    return found


def _remember(
    steps: Tensor, changes: Tensor, moved: Tensor, change: Tensor, fell: Bool[Tensor, "n"]
) -> tuple[Tensor, Tensor]:
    """Add the pair of each example whose step was taken along a direction of growing gradient."""
    good = fell & ((moved * change).sum(1) > 1e-10 * change.square().sum(1))
    add = good[None, :, None]
    return (
        torch.where(add, torch.cat([steps[1:], moved[None]]), steps),
        torch.where(add, torch.cat([changes[1:], change[None]]), changes),
    )


def _aim(state: _State, steps: Tensor, changes: Tensor, anew: Bool[Tensor, "n"]) -> None:
    """Give the examples that moved a direction and a whole step again."""
    held = ((state.x <= 0) & (state.gradient > 0)) | ((state.x >= 1) & (state.gradient < 0))
    free = (~held).to(state.x.dtype)
    pull = state.gradient * free
    direction, known = _quasi_newton(pull, steps * free, changes * free)
    first = 1 / pull.abs().sum(1).clamp(min=1e-30)  # nothing is known of the curvature: move by 1 in L1 at most
    state.direction = torch.where(anew[:, None], -direction, state.direction)
    state.size = torch.where(anew, torch.where(known, torch.ones_like(first), first.clamp(max=1.0)), state.size)
    state.halved = torch.where(anew, 0, state.halved)


def _quasi_newton(pull: Tensor, steps: Tensor, changes: Tensor) -> tuple[Tensor, Bool[Tensor, "n"]]:
    """The two loops over the pairs, for all examples at once; pairs without curvature drop out. Also: had it any?"""
    curve = (steps * changes).sum(2)  # (M, N)
    weight = torch.where(curve > 1e-30, 1 / curve.clamp(min=1e-30), 0.0)
    scale = torch.ones_like(curve[0])
    shares = []
    for step, change, w in zip(reversed(steps), reversed(changes), reversed(weight), strict=True):
        share = w * (step * pull).sum(1)
        pull = pull - share[:, None] * change
        shares.append(share)
    for bend, change in zip(curve, changes, strict=True):  # the latest pair that has curvature gives the scale
        scale = torch.where(bend > 1e-30, bend / change.square().sum(1).clamp(min=1e-30), scale)
    pull = scale[:, None] * pull
    for step, change, w, share in zip(steps, changes, weight, reversed(shares), strict=True):
        pull = pull + (share - w * (change * pull).sum(1))[:, None] * step
    return pull, (weight > 0).any(0)
