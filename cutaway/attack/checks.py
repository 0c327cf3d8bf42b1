"""Checks of an evaluation itself: signs that robust accuracy comes from weak attacks and not from a robust model.

Source: Carlini et al., "On evaluating adversarial robustness", 2019, sections 3–5; Athalye, Carlini, Wagner,
"Obfuscated gradients give a false sense of security", 2018, section 3.1.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from cutaway.attack.losses import Goal, cross_entropy, margin
from cutaway.attack.norms import NORMS
from cutaway.attack.oracle import MaskedGradientWarning, Model, Oracle
from cutaway.attack.problem import Problem
from cutaway.attack.robustness import SLACK, Check
from cutaway.attack.search import Keeper
from cutaway.attack.square import search as square_search
from cutaway.attack.walk import Walk, walk
from cutaway.errors import ArgumentError
from cutaway.progress import Tick

MOST = 100  # images that checks are run on
QUIET: Tick = lambda _: None  # noqa: E731


@dataclass(frozen=True)
class Trial:
    """What the checks share: correctly classified images, and what PGD does to them at a telling ε."""

    problem: Problem
    eps: float
    pgd: Keeper

    def at(self, eps: float) -> Problem:
        """The same images with another radius."""
        return replace(self.problem, radii=torch.full_like(self.problem.radii, eps))

    def climb(self, eps: float, steps: int = 40) -> Keeper:
        """PGD with the margin loss from random points, then with cross-entropy and momentum on those that withstand."""
        part, size = self.at(eps), 2.5 * eps / steps
        first = walk(part, Walk(margin, steps, size, random_start=True), QUIET)
        rows = first.open()
        if len(rows):
            second = walk(part.keep(rows), Walk(cross_entropy, steps, size, decay=0.75), QUIET)
            first.offer(rows, second.x, second.success, second.score)
        return first


def run_checks(
    problem: Problem,
    ladder: Sequence[float],
    broken: dict[str, Bool[Tensor, "e n"]],
    control: Bool[Tensor, "e n"],
    surrogate: Model | None,
) -> tuple[Check, ...]:
    """Run all checks on at most 100 of the images that are classified correctly.

    Args:
        problem: the images.
        ladder: radii (E), rising from 0.
        broken: by attack, (E, N), each radius by itself.
        control: (E, N) for random noise.
        surrogate: a model to make examples on that are then shown to the model (None: that check does not apply).
    """
    rows = (~problem.solved).nonzero()[:MOST, 0]
    if not len(rows) or len(ladder) < 2:
        return (Check("images", None, "No image is classified correctly, or ε is 0 only: there is nothing to check."),)
    eps = telling(ladder, broken)
    part = problem.keep(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MaskedGradientWarning)  # said in a sentence below
        first = Trial(part, eps, Keeper(part))
        try:
            trial = Trial(part, eps, first.climb(eps))
        except ArgumentError as error:
            return (random_model(first), Check("gradients", False, f"There is no gradient to follow: {error}."))
        found = [check(trial) for check in CHECKS]
    found += [rises(ladder, broken), noise(ladder, broken, control, eps), transfer(trial, surrogate)]
    return tuple(found)


def telling(ladder: Sequence[float], broken: dict[str, Tensor]) -> float:
    """The smallest radius at which the worst attack breaks at least half of the images; the largest if none does."""
    worst = torch.stack(list(broken.values())).any(0)
    right = ~worst[0]
    for radius, row in zip(ladder[1:], worst[1:], strict=True):
        if (row & right).sum() >= right.sum() / 2:
            return radius
    return ladder[-1]


def _share(count: int | Tensor, trial: Trial) -> str:
    return f"{int(count)} of {len(trial.problem.x)} images"


def unbounded(trial: Trial) -> Check:
    """Without a bound every image can be changed into another class."""
    largest = NORMS[trial.problem.norm].largest(trial.problem.x[0].numel())
    done = trial.climb(largest, 60).success
    passed = bool(done.all())
    end = "as it must." if passed else "though every image of another class is inside that bound: the attack is broken."
    return Check(
        "unbounded attack", passed, f"With all pixels free the attack breaks {_share(done.sum(), trial)}, {end}"
    )


def iterative(trial: Trial) -> Check:
    """Many steps do at least as much as one."""
    part = trial.at(trial.eps)
    answer = part.oracle.ascent(part.x, cross_entropy, part.goal)
    single = part.goal.reached(part.oracle.logits(part.geometry.ascend(part.x, answer.gradient, part.radii)))
    worse = (single & ~trial.pgd.success).double().mean().item()
    passed = worse <= SLACK
    said = f"At ε = {trial.eps:.4g} PGD breaks {_share(trial.pgd.success.sum(), trial)}, one step {int(single.sum())}"
    end = "." if passed else f"; one step breaks {100 * worse:.0f} % that PGD does not: PGD is stuck."
    return Check("iterative beats single-step", passed, said + end)


def black_box(trial: Trial) -> Check:
    """An attack that sees gradients does at least as much as one that does not."""
    part = trial.at(trial.eps)
    blind = square_search(part, 200, 0.8, 200 / 10_000, "margin", QUIET).success
    only = blind & ~trial.pgd.success
    passed = only.double().mean().item() <= SLACK
    said = (
        f"At ε = {trial.eps:.4g} the white-box attack breaks {_share(trial.pgd.success.sum(), trial)}, "
        f"200 queries of a black-box attack {int(blind.sum())}"
    )
    end = "." if passed else f", {int(only.sum())} of them safe from the white-box attack: the gradients are masked."
    return Check("white-box beats black-box", passed, said + end)


def steps(trial: Trial) -> Check:
    """Twice the steps change nothing."""
    more = trial.climb(trial.eps, 80).success
    gained = (more & ~trial.pgd.success).double().mean().item()
    passed = gained <= SLACK
    end = "40 are enough." if passed else "the attack has not converged; give it more steps."
    return Check("twice the steps", passed, f"80 steps break {100 * gained:.0f} % more images than 40: {end}")


def gradient_zero(trial: Trial) -> Check:
    """The plain gradient of the cross-entropy is not zero."""
    part = trial.problem

    def plain(logits: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
        value, _ = cross_entropy(logits, goal)
        return value, logits.softmax(1) - torch.nn.functional.one_hot(goal.label, logits.shape[1])

    gradient = part.oracle.ascent(part.x, plain, part.goal).gradient.flatten(1)
    size = gradient.abs().amax(1)
    zero = size < 1e-30
    passed = zero.double().mean().item() <= 0.05
    said = (
        f"The gradient of the loss is zero for {_share(zero.sum(), trial)} (median size {size.median():.2g} per pixel)"
    )
    end = (
        "."
        if passed
        else ": attacks that follow it see nothing; use logits that do not saturate, or a black-box attack."
    )
    return Check("gradient norms", passed, said + end)


def direction(trial: Trial) -> Check:
    """A small step along the gradient raises the loss."""
    part = trial.at(trial.eps)
    answer = part.oracle.ascent(part.x, margin, part.goal)
    shares = (0.02, 0.1, 0.3)
    rises = torch.zeros(len(part.x), dtype=torch.bool, device=part.x.device)
    for share in shares:
        moved = part.geometry.ascend(part.x, answer.gradient, part.radii * share)
        rises |= margin(part.oracle.logits(moved), part.goal)[0] > answer.value
    passed = rises.double().mean().item() >= 0.9
    said = f"A small step along the gradient raises the loss for {_share(rises.sum(), trial)}"
    end = "." if passed else ": the gradient does not point uphill, so attacks that follow it are blind."
    return Check("loss along the gradient", passed, said + end)


def random_model(trial: Trial) -> Check:
    """Two passes over the same images agree."""
    part = trial.problem
    first, second = part.oracle.logits(part.x), part.oracle.logits(part.x)
    apart = (first - second).abs().amax(1) > 1e-4 * first.abs().amax(1).clamp(min=1e-6)
    passed = not apart.any()
    if not passed and part.oracle.samples > 1:
        passed = True
    said = f"Two passes over the same images differ for {_share(apart.sum(), trial)}"
    end = "." if passed else ": the model is random, so one gradient is noise; attack with samples=20 or more."
    return Check("random model", passed, said + end)


def eight_bits(trial: Trial) -> Check:
    """Adversarial images stay so when they are stored with 8 bits per channel, inside the ball."""
    if trial.problem.norm == "linf" and trial.eps < 1 / 255:
        return Check("8-bit images", None, f"ε = {trial.eps:.4g} is below a step of 8-bit images: nothing to round.")
    part = trial.at(trial.eps)
    # To the end: an attack that stops at its first success stands on the border, where rounding decides.
    how = Walk(margin, 20, 2.5 * trial.eps / 20, random_start=True, early_stop=False)
    found = walk(part, how, QUIET)
    if not found.success.any():
        return Check("8-bit images", None, "No adversarial image was found that could be rounded.")
    whole = rounded(part.x, found.x)
    still = part.goal.reached(part.oracle.logits(whole)) & found.success
    kept = (still.sum() / found.success.sum()).item()
    passed = kept >= 0.75
    said = f"Rounded to whole steps of 1/255, {100 * kept:.0f} % of {int(found.success.sum())} adversarial images work"
    return Check("8-bit images", passed, said + ("." if passed else ": the success lies in the rounding."))


def rounded(x: Tensor, adversarial: Tensor) -> Tensor:
    """Adversarial images in whole steps of 1/255, each pixel rounded towards the clean image: never farther from it."""
    up = torch.maximum((adversarial * 255 + 1e-3).floor() / 255, x)
    down = torch.minimum((adversarial * 255 - 1e-3).ceil() / 255, x)
    return torch.where(adversarial > x, up, down)


def rises(ladder: Sequence[float], broken: dict[str, Tensor]) -> Check:
    """Success rises with ε."""
    for name, rows in broken.items():
        rates = rows.double().mean(1)
        falls = (rates[1:] < rates[:-1] - SLACK).nonzero()
        if len(falls):
            at = int(falls[0])
            return Check(
                "success rises with ε",
                False,
                f"{name} breaks {100 * rates[at]:.0f} % at ε = {ladder[at]:.4g} but only {100 * rates[at + 1]:.0f} % "
                f"at ε = {ladder[at + 1]:.4g}, though the larger ball holds the smaller: it misses what is there.",
            )
    return Check("success rises with ε", True, "Every attack breaks at least as many images in a larger ball.")


def noise(ladder: Sequence[float], broken: dict[str, Tensor], control: Tensor, eps: float) -> Check:
    """Random noise of the same size does much less."""
    at = list(ladder).index(eps)
    worst = torch.stack(list(broken.values())).any(0)[at]
    right = ~control[0]
    attacked, noisy = ((rows & right).sum().item() / right.sum().item() for rows in (worst, control[at]))
    passed = noisy <= max(0.5 * attacked, SLACK)
    said = f"At ε = {eps:.4g} random noise breaks {100 * noisy:.0f} %, the attacks {100 * attacked:.0f} %"
    return Check("random noise", passed, said + ("." if passed else ": the size does it, hardly the attack."))


def transfer(trial: Trial, surrogate: Model | None) -> Check:
    """Examples made on another model do not do more than examples made on this one."""
    if surrogate is None:
        return Check("transfer in", None, "No surrogate model was given to make examples on.")
    there = replace(trial.at(trial.eps), oracle=Oracle(surrogate, trial.problem.oracle.batch_size))
    how = Walk(margin, 20, 2.5 * trial.eps / 20, decay=1.0, early_stop=False)
    came = trial.problem.goal.reached(trial.problem.oracle.logits(walk(there, how, QUIET).x))
    only = came & ~trial.pgd.success
    passed = only.double().mean().item() <= SLACK
    said = f"Examples made on the surrogate break {_share(came.sum(), trial)}"
    end = "." if passed else f", {int(only.sum())} of them safe from the white-box attack: the gradients are masked."
    return Check("transfer in", passed, said + end)


CHECKS = (unbounded, iterative, black_box, steps, gradient_zero, direction, random_model, eight_bits)
