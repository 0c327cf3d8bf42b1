"""Pose an attack: check what the user gave, run the model once on the clean images, and fix the random streams."""

import warnings
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cutaway.attack.draws import Draws
from cutaway.attack.losses import Goal, Logits, Loss
from cutaway.attack.norms import LENGTHS, NORMS, Norm, spread
from cutaway.attack.oracle import Answer, Model, Oracle
from cutaway.errors import ArgumentError, CutawayError, nearest


class ModelModeWarning(UserWarning):
    """A model was handed over in training mode; it was evaluated in evaluation mode and given back as it was."""


@dataclass(frozen=True)
class Problem:
    """A checked attack problem.

    Attributes:
        x: clean images (N, C, H, W) in [0, 1].
        goal: labels and targets (N,).
        radii: the bound ε for each example (N,); infinite for attacks that look for the smallest perturbation.
        clean: logits (N, K) of the clean images.
        first: value and gradient at the clean images, when a loss was named.
    """

    oracle: Oracle
    x: Float[Tensor, "n c h w"]
    goal: Goal
    norm: str
    radii: Float[Tensor, "n"]
    draws: Draws
    clean: Logits
    first: Answer | None = None

    @property
    def geometry(self) -> Norm:
        """The row of the table of norms."""
        return NORMS[self.norm]

    @cached_property
    def bounds(self) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]]:
        """The least and the largest value of each pixel in the L∞ ball and the box."""
        r = spread(self.radii, self.x)
        return (self.x - r).clamp_(min=0), (self.x + r).clamp_(max=1)

    def project(self, point: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The nearest point of ball and box."""
        if self.norm == "linf":
            return torch.clamp(point, *self.bounds)
        return self.geometry.project(self.x, point, self.radii)

    def lengths(self, change: Float[Tensor, "n c h w"]) -> Float[Tensor, "n"]:
        """Sizes of changes in the problem's norm, which need not have a ball."""
        return LENGTHS[self.norm](change)

    @property
    def solved(self) -> Bool[Tensor, "n"]:
        """Which examples need no perturbation."""
        return self.goal.reached(self.clean)

    def start(self) -> Answer:
        """Value and gradient at the clean images.

        Raises:
            CutawayError: the problem was posed without a loss.
        """
        if self.first is None:
            raise CutawayError("the problem was posed without a loss, so there is no first gradient")
        return self.first

    def keep(self, rows: Int[Tensor, "m"]) -> "Problem":
        """The same problem for some of the examples; their random streams stay theirs."""
        return replace(
            self,
            x=self.x[rows],
            goal=self.goal.keep(rows),
            radii=self.radii[rows],
            draws=self.draws.keep(rows),
            clean=self.clean[rows],
            first=None,
        )


def pose(
    model: Model,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, "n"],
    *,
    eps: float | None,
    norm: str,
    target: int | Int[Tensor, "n"] | None,
    seed: int,
    batch_size: int = 256,
    samples: int = 1,
    loss: Loss | None = None,
    captured: bool = False,
) -> Problem:
    """Check all arguments and run the clean images: with a loss for their gradient as well, `captured` by the graph."""
    if norm not in LENGTHS:
        raise nearest(norm, LENGTHS, "norm")
    _check_images(x)
    _check_model(model)
    labels = _classes(y, "y", len(x), x.device)
    targets = None if target is None else _targets(target, len(x), x.device)
    radii = torch.full((len(x),), _radius(eps, norm, x), dtype=torch.float64, device=x.device)
    for name, value in (("batch_size", batch_size), ("samples", samples)):
        if value < 1:
            raise ArgumentError(f"{name}={value}: expected at least 1")
    oracle, goal, x = Oracle(model, batch_size, samples, seed), Goal(labels, targets), x.detach()
    if loss is None:
        if captured:
            oracle.follow(x)
        first, clean = None, oracle.look(x)
        _check_goal(goal, clean.shape[1])
    else:
        _check_goal(goal, oracle.classes(x))
        first = oracle.ascent(x, loss, goal)
        clean = oracle.sure(x, first.logits)
    return Problem(oracle, x, goal, norm, radii, Draws(seed, torch.arange(len(x), device=x.device)), clean, first)


survey = partial(pose, captured=True)  # for attacks that are going to ask for gradients


def measured_in(norms: tuple[str, ...], norm: str) -> None:
    """Refuse a norm that exists but is not one of those an attack works in."""
    if norm in LENGTHS and norm not in norms:
        raise ArgumentError(f"norm={norm!r}: this attack works in {' or '.join(map(repr, norms))}")


def _check_images(x: Tensor) -> None:
    if not isinstance(x, Tensor) or x.dim() != 4 or len(x) == 0:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ArgumentError(f"x is {got}; expected a batch of images, a tensor (N, C, H, W) with N ≥ 1")
    if not x.is_floating_point():
        raise ArgumentError(f"x has dtype {x.dtype}; expected floats in [0, 1]: for 8-bit images give x / 255")
    if not torch.isfinite(x).all():
        bad = (~torch.isfinite(x)).flatten(1).any(1).nonzero()[0].item()
        raise ArgumentError(f"image {bad} of x holds NaN or infinite pixels; expected numbers in [0, 1]")
    low, high = x.min().item(), x.max().item()
    if low < 0 or high > 1:
        raise ArgumentError(
            f"images have to be in [0, 1], these are in [{low:.4g}, {high:.4g}]; if the model wants standardised "
            "images, attack cutaway.nets.normalized(model, mean, std), which takes pixels and standardises them itself"
        )


def _check_model(model: Model) -> None:
    if not callable(model):
        raise ArgumentError(f"model is a {type(model).__name__}; expected a module or a function from images to logits")
    if isinstance(model, nn.Module) and any(part.training for part in model.modules()):
        warnings.warn(
            f"{type(model).__name__} is in training mode: it is attacked in evaluation mode and then given back as it "
            "was; call model.eval() first to silence this",
            ModelModeWarning,
            stacklevel=4,
        )


def _classes(values: Tensor, name: str, count: int, device: torch.device) -> Tensor:
    if not isinstance(values, Tensor) or values.shape != (count,) or values.is_floating_point():
        got = f"{values.dtype} {tuple(values.shape)}" if isinstance(values, Tensor) else repr(values)
        raise ArgumentError(f"{name} is {got}; expected class indices, an integer tensor of shape ({count},)")
    return values.to(device=device, dtype=torch.long)


def _targets(target: int | Tensor, count: int, device: torch.device) -> Tensor:
    if isinstance(target, int) and not isinstance(target, bool):
        return torch.full((count,), target, device=device)
    return _classes(target, "target", count, device)  # pyright: ignore[reportArgumentType]


def _radius(eps: float | None, norm: str, x: Tensor) -> float:
    if eps is None:
        return float("inf")
    if norm not in NORMS:
        raise ArgumentError(f"norm={norm!r} has no ball to search in; expected one of {', '.join(map(repr, NORMS))}")
    if not isinstance(eps, int | float) or isinstance(eps, bool) or not 0 <= eps < float("inf"):
        raise ArgumentError(f"eps={eps!r}: expected a number ≥ 0, in units of pixels in [0, 1]")
    largest = NORMS[norm].largest(x[0].numel())
    if eps > largest:
        hint = f"; for {eps:g} steps of 256 give eps={eps:g}/255" if norm == "linf" else ""
        raise ArgumentError(
            f"eps={eps:g} is beyond {largest:.4g}, the largest {norm} distance between two images of this size with "
            f"pixels in [0, 1]{hint}"
        )
    return float(eps)


def _check_goal(goal: Goal, classes: int) -> None:
    if classes < 2:
        raise ArgumentError(f"the model gives {classes} logit per image; an attack needs at least 2 classes")
    for name, values in (("y", goal.label), ("target", goal.target)):
        if values is not None and (values.min() < 0 or values.max() >= classes):
            bad = int(((values < 0) | (values >= classes)).nonzero()[0])
            raise ArgumentError(
                f"{name}[{bad}] = {int(values[bad])}, but the model has {classes} classes: expected 0 … {classes - 1}"
            )
    if goal.target is not None and (goal.target == goal.label).any():
        bad = int((goal.target == goal.label).nonzero()[0])
        raise ArgumentError(
            f"target[{bad}] = {int(goal.target[bad])} is the label of image {bad}; "
            "a targeted attack needs another class: leave such images out or give a target per image"
        )
