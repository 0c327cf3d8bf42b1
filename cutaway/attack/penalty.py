"""What attacks share that minimise distance + weight · loss: the hinge on the margin, and the search for the weight."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.attack.losses import Goal, Logits, Loss, Values, margin
from cutaway.attack.problem import Problem
from cutaway.attack.search import Keeper, firm

LARGEST = 1e10  # of the weight
Descend = Callable[[Problem, Int[Tensor, "m"], Keeper, Float[Tensor, "m"]], Bool[Tensor, "m"]]


def hinge(confidence: float) -> Loss:
    """The loss max(confidence − margin, 0), which ends when the wanted logit leads by the confidence."""

    def loss(logits: Logits, goal: Goal) -> tuple[Values, Logits]:
        value, seed = margin(logits, goal)
        short = value < confidence
        return (confidence - value).clamp(min=0), -seed * short[:, None]

    return loss


def through(goal: Goal, logits: Logits, left: Values) -> Bool[Tensor, "n"]:
    """Whether nothing of the hinge is left, and the goal is reached by more than rounding."""
    return firm(goal, logits) & (left == 0)


class Patience:
    """Looks ten times in a descent which examples still make progress."""

    def __init__(self, steps: int, like: Values) -> None:
        self.window = max(steps // 10, 1)
        self.before = torch.full_like(like, float("inf"))

    def stay(self, step: int, value: Values) -> Int[Tensor, "m"] | None:
        """The rows that go on, or None when it is not the time to look."""
        if (step + 1) % self.window:
            return None
        stay = (value <= self.before * 0.9999).nonzero()[:, 0]
        self.before = value[stay]
        return stay


def bisect(problem: Problem, searches: int, weight: float, descend: Descend) -> Keeper:
    """Look for the smallest weight of the loss that makes each example succeed.

    Args:
        problem: the images.
        searches: descents for each example.
        weight: the first; it grows tenfold until the example succeeds and is halved between bounds afterwards.
        descend: (part, its rows, keeper, weights) → who succeeded; it offers what it finds to the keeper.
    """
    keeper = Keeper(problem, solved_score=0.0)
    rows = keeper.open()
    part = problem.keep(rows)
    weights = torch.full((len(rows),), weight, dtype=torch.float64, device=rows.device)
    low, high = torch.zeros_like(weights), torch.full_like(weights, LARGEST)
    for _ in range(searches):
        if not len(rows):
            break
        done = descend(part, rows, keeper, weights)
        high, low = torch.where(done, weights.minimum(high), high), torch.where(done, low, weights.maximum(low))
        weights = torch.where(high < LARGEST, (low + high) / 2, (weights * 10).clamp(max=LARGEST))
    keeper.give_back(problem)
    return keeper
