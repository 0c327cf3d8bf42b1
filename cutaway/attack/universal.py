"""One perturbation for all images."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.attack.losses import Goal, Logits, Values, cross_entropy
from cutaway.attack.norms import NORMS, Norm
from cutaway.attack.oracle import Model
from cutaway.attack.panel import AMPLIFY, NORM_NAMES, pixels, strip
from cutaway.attack.problem import Problem, measured_in, pose
from cutaway.attack.result import Attack, settle, store
from cutaway.attack.walk import at_least
from cutaway.errors import ArgumentError
from cutaway.progress import Tick, bar
from cutaway.rng import generator

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOMENTUM = 0.9
Pair = tuple[Float[Tensor, "m c h w"], Int[Tensor, "m"]]


@dataclass(frozen=True)
class Universal:
    """One perturbation, and what it does to the images it was made from and to others.

    Attributes:
        perturbation: (C, H, W), to be added to an image and cut to [0, 1].
        made_on, held_out: the images it was made from and the others with it, each with random noise of the same
            distance as its control (held_out is None when no image was held back).
        trace: (epochs,) the mean loss that was made larger.
        settings, seed: how it was made.
    """

    perturbation: Float[Tensor, "c h w"]
    made_on: Attack
    held_out: Attack | None
    trace: Float[Tensor, "epochs"]
    settings: dict[str, Any]
    seed: int

    @property
    def fooling_rate(self) -> float:
        """The share of the images it was made from whose predicted class it changes."""
        return _changed(self.made_on)

    @property
    def held_out_rate(self) -> float | None:
        """The same for the images that were held back."""
        return None if self.held_out is None else _changed(self.held_out)

    def plot(self, names: list[str] | None = None) -> "Figure":
        """Draw the perturbation × 10 and four images with it, held-out ones if there are any.

        Args:
            names: the classes' names.
        """
        shown = self.held_out or self.made_on
        count = min(len(shown.x), 4)
        texts = [
            f"{word(int(before), names)} → {word(int(after), names)}\n{100 * float(sure):.1f} %"
            for before, after, sure in zip(shown.before, shown.after, shown.confidence_after, strict=True)
        ]
        rate = _changed(shown)
        noise = "" if shown.control is None else f", random noise {100 * _changed(shown.control):.0f} %"
        where = "held-out images" if self.held_out is not None else "images it was made from"
        title = f"universal ({NORM_NAMES[shown.norm]}, ε = {shown.eps:.4g}): fools {100 * rate:.0f} % of {where}{noise}"
        images = [pixels(0.5 + AMPLIFY * self.perturbation), *(pixels(image) for image in shown.x[:count])]
        return strip(images, [f"perturbation × {AMPLIFY}\n", *texts[:count]], title)

    def save(self, path: str | Path) -> Path:
        """Write perturbation and rates to a .safetensors file, or the plot to a picture (.png, .svg, .pdf, .jpg)."""
        words = {
            "fooling_rate": self.fooling_rate,
            "held_out_rate": self.held_out_rate,
            "norm": self.made_on.norm,
            "eps": self.made_on.eps,
            "settings": self.settings,
            "seed": self.seed,
        }
        return store(path, self.plot, {"perturbation": self.perturbation, "trace": self.trace}, "universal", words)


def _changed(attack: Attack) -> float:
    return (attack.after != attack.before).double().mean().item()


def word(index: int, names: list[str] | None) -> str:
    """A class's name, or its index."""
    return names[index] if names else str(index)


def _project(row: Norm, shift: Tensor, eps: float) -> Tensor:
    """The nearest perturbation in the ball, entries in [−1, 1]: the box [0, 1] at half the scale, about its middle."""
    middle = torch.full_like(shift[None], 0.5)
    radii = torch.full((1,), eps / 2, dtype=torch.float64, device=shift.device)
    return (2 * (row.project(middle, middle + shift[None] / 2, radii) - middle))[0]


def _climb(problem: Problem, eps: float, how: dict[str, Any], tick: Tick) -> tuple[Tensor, Tensor]:
    """Steps along the mean gradient of each batch; the perturbation and the mean loss of each epoch."""
    row, least = problem.geometry, how["clip"]

    def clipped(logits: Logits, goal: Goal) -> tuple[Values, Logits]:
        value, seed = cross_entropy(logits, goal)
        open_ = value < (least if goal.target is None else 0)  # images that are fooled well enough pull no more
        return value.clamp(max=least), seed * open_[:, None]

    shift = torch.zeros_like(problem.x[0])  # (C, H, W)
    direction, losses, done = torch.zeros_like(shift), [], 0
    order = generator(problem.draws.seed, "universal")
    batches = -(-len(problem.x) // how["per_step"])
    for _ in range(how["epochs"]):
        total = 0.0
        for rows in torch.randperm(len(problem.x), generator=order).to(problem.x.device).split(how["per_step"]):
            part = problem.keep(rows)
            answer = problem.oracle.ascent((part.x + shift).clamp(0, 1), clipped, part.goal)
            total += answer.value.sum().item()
            pull = answer.gradient.mean(0)
            direction = MOMENTUM * direction + pull / pull.abs().mean().clamp(min=1e-30) * (pull != 0).any()
            size = torch.full((1,), how["step_size"] * (1 - done / (how["epochs"] * batches)), device=shift.device)
            shift = _project(row, row.step(shift[None], direction[None], size)[0], eps)
            done += 1
            tick(f"loss {answer.value.mean().item():.3g}")
        losses.append(total / len(problem.x))
    return shift, torch.tensor(losses)


def split(x: Tensor, y: Tensor, held_out: float | Pair) -> tuple[Pair, Pair | None]:
    """The images to work on, and those held back: the last of them, or others."""
    if isinstance(held_out, tuple):
        return (x, y), held_out
    if not 0 <= held_out < 1:
        raise ArgumentError(f"held_out={held_out!r}: expected a share of the images in [0, 1), or a pair (x, y)")
    first = len(x) - int(held_out * len(x))
    return (x[:first], y[:first]), (x[first:], y[first:]) if first < len(x) else None


def universal(
    model: Model,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, "n"],
    *,
    eps: float,
    norm: str = "linf",
    target: int | None = None,
    held_out: float | Pair = 0.2,
    epochs: int = 10,
    step_size: float | None = None,
    per_step: int = 64,
    clip: float = 9.0,
    samples: int = 1,
    seed: int = 0,
    control: bool = True,
    batch_size: int = 256,
    progress: bool = True,
) -> Universal:
    """Find one perturbation that makes the model err on most images, by gradient ascent over batches of them.

    (Adding up one DeepFool perturbation after the other, as first proposed, asks for more gradients and finds weaker
    perturbations.)

    Args:
        model: module or function from images (N, C, H, W) to logits (N, K), differentiable.
        x: images (N, C, H, W) in [0, 1].
        y: their labels (N,).
        eps: bound on the perturbation in `norm`, in pixel units.
        norm: "linf", "l2" or "l1".
        target: one class wanted for all images; None wants any other than the label.
        held_out: the share of the images, the last ones, that only measure; or other images with their labels.
        epochs: passes over the images.
        step_size: length of the first step in `norm`, falling to zero; eps/4 when None.
        per_step: images of a step.
        clip: the cross-entropy beyond which an image pulls no more.
        samples, control, batch_size, progress: see `pgd`.
        seed: of the images' order and the control.

    Raises:
        ArgumentError: see `pgd`; also a share held out that is none.

    Source: Moosavi-Dezfooli et al., "Universal adversarial perturbations", 2017; the ascent: Shafahi et al.,
    "Universal adversarial training", 2020, algorithm 2.

    >>> import torch
    >>> x, y = torch.tensor([[[[0.6, 0.5]]], [[[0.7, 0.6]]], [[[0.4, 0.3]]]]), torch.tensor([0, 0, 0])
    >>> found = universal(lambda x: x.flatten(1), x, y, eps=0.1, held_out=0.4)
    >>> found.perturbation, found.fooling_rate, found.held_out_rate
    (tensor([[[-0.1000,  0.1000]]]), 1.0, 1.0)
    """
    at_least(1, epochs=epochs, per_step=per_step)
    measured_in(tuple(NORMS), norm)
    common: dict[str, Any] = {"eps": eps, "norm": norm, "target": target, "seed": seed, "batch_size": batch_size}
    problem = pose(model, x, y, samples=samples, **common)
    size = eps / 4 if step_size is None else step_size
    at_least(0, step_size=size)
    own, others = split(x, y, held_out)
    rest = None if others is None else pose(model, *others, **common)
    part = problem.keep(torch.arange(len(own[0]), device=problem.x.device))
    how = {"epochs": epochs, "step_size": size, "per_step": per_step, "clip": clip}
    with bar("universal", epochs * -(-len(own[0]) // per_step), progress) as tick:
        shift, losses = _climb(part, eps, how, tick)
    settings = how | {"samples": samples}

    def apply(to: Problem) -> Attack:
        moved = (to.x + shift.to(to.x)).clamp(0, 1)
        return settle(to, "universal", moved, torch.empty(0, len(moved)), settings, control, seed, eps)

    return Universal(shift, apply(part), None if rest is None else apply(rest), losses, settings, seed)
