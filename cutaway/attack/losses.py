"""What an attack makes larger: losses of the logits, each with its seed for the reverse pass.

A loss is a row of the table `LOSSES`: (logits (N, K), goal) → (value (N,), seed (N, K)). The seed points along
the derivative of the value with respect to the logits.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

Logits = Float[Tensor, "n k"]
Values = Float[Tensor, "n"]


@dataclass(frozen=True)
class Goal:
    """What is wanted: away from the label, or, when there is a target, towards it."""

    label: Int[Tensor, "n"]
    target: Int[Tensor, "n"] | None = None

    @property
    def pivot(self) -> Int[Tensor, "n"]:
        """The class whose logit is pushed down (untargeted) or up (targeted)."""
        return self.label if self.target is None else self.target

    @property
    def sign(self) -> int:
        """1 when the pivot's logit has to fall, −1 when it has to rise."""
        return 1 if self.target is None else -1

    def reached(self, logits: Logits) -> Bool[Tensor, "n"]:
        """Whether the predicted class is as wanted."""
        predicted = logits.argmax(1)
        return predicted != self.label if self.target is None else predicted == self.target

    def keep(self, rows: Tensor) -> "Goal":
        """The goals of some of the examples."""
        return Goal(self.label[rows], None if self.target is None else self.target[rows])


def _pick(logits: Logits, classes: Int[Tensor, "n"]) -> Values:
    return logits.gather(1, classes[:, None])[:, 0]


def without(logits: Logits, classes: Int[Tensor, "n"]) -> Logits:
    """The logits with one class of each example at −∞ (not at zero: all logits may be negative)."""
    return logits.scatter(1, classes[:, None], float("-inf"))


def cross_entropy(logits: Logits, goal: Goal) -> tuple[Values, Logits]:
    """−log p(label), or log p(target); the seed is its gradient divided by 1 − p(pivot).

    The gradient is (1 − p)·(q − onehot), where q is the softmax over the other classes. The factor is left out: it
    underflows to zero when a network is sure, which hides the direction that attacks need (a known kind of masked
    gradient), and no attack here depends on the gradient's length.
    """
    value = goal.sign * F.cross_entropy(logits, goal.pivot, reduction="none")
    others = torch.softmax(without(logits, goal.pivot), 1)
    return value, goal.sign * others.scatter(1, goal.pivot[:, None], -1.0)


def log_success(logits: Logits, goal: Goal) -> tuple[Values, Logits]:
    """The log-probability of what is wanted, log p(target) or log(1 − p(label)), with its true gradient."""
    all_of_it = logits.logsumexp(1)
    if goal.target is not None:
        wanted = F.one_hot(goal.target, logits.shape[1]).to(logits.dtype)
        return _pick(logits, goal.target) - all_of_it, wanted - logits.softmax(1)
    others = without(logits, goal.label)
    return others.logsumexp(1) - all_of_it, others.softmax(1) - logits.softmax(1)


def margin(logits: Logits, goal: Goal) -> tuple[Values, Logits]:
    """Largest other logit minus the label's, or the target's minus the largest other: positive when the goal is met."""
    best, rival = without(logits, goal.pivot).max(1)
    seed = torch.zeros_like(logits).scatter(1, goal.pivot[:, None], -1.0).scatter(1, rival[:, None], 1.0)
    return goal.sign * (best - _pick(logits, goal.pivot)), goal.sign * seed


def _ratio(logits: Logits, goal: Goal) -> Values:
    ordered = logits.sort(1, descending=True).values
    if goal.target is None:
        if logits.shape[1] < 3:
            return without(logits, goal.label).amax(1) - _pick(logits, goal.label)
        own = _pick(logits, goal.label)
        return (without(logits, goal.label).amax(1) - own) / (ordered[:, 0] - ordered[:, 2] + 1e-12)
    gap = _pick(logits, goal.target) - _pick(logits, goal.label)
    if logits.shape[1] < 4:
        return gap if logits.shape[1] < 3 else gap / (ordered[:, 0] - ordered[:, 2] + 1e-12)
    return gap / (ordered[:, 0] - 0.5 * (ordered[:, 2] + ordered[:, 3]) + 1e-12)


def dlr(logits: Logits, goal: Goal) -> tuple[Values, Logits]:
    """Difference of logits ratio, which no shift or scale of the logits changes.

    −(z_y − max_{i≠y} z_i)/(z_π1 − z_π3); targeted −(z_y − z_t)/(z_π1 − ½(z_π3 + z_π4)). With too few classes for the
    denominator the targeted loss divides by z_π1 − z_π3 (three classes) and both are plain differences (two classes).

    Source: Croce, Hein, "Reliable evaluation of adversarial robustness …", 2020, section 4.
    """

    def total(z: Logits) -> tuple[Tensor, Values]:
        values = _ratio(z, goal)
        return values.sum(), values

    seed, value = torch.func.grad(total, has_aux=True)(logits)
    return value, seed


Loss = Callable[[Logits, Goal], tuple[Values, Logits]]
LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "margin": margin, "dlr": dlr}
