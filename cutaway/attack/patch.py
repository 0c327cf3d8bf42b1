"""An adversarial patch: a picture to be put anywhere, turned and scaled, that makes a model see one class."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.attack.adam import Adam
from cutaway.attack.draws import Draws
from cutaway.attack.losses import log_success
from cutaway.attack.oracle import Model
from cutaway.attack.panel import pixels, strip
from cutaway.attack.placing import Placing
from cutaway.attack.problem import Problem, pose
from cutaway.attack.result import store
from cutaway.attack.universal import Pair, split, word
from cutaway.attack.walk import at_least
from cutaway.errors import ArgumentError, nearest
from cutaway.progress import Tick, bar
from cutaway.rng import generator

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHAPES = ("circle", "square")


@dataclass(frozen=True)
class Trials:
    """What a patch did to N images, each with the patch at R random places.

    Attributes:
        success, control: (R, N) whether the goal was reached with the patch, and with a patch of random pixels at the
            same places.
        before: (N,) whether it was reached without any.
    """

    success: Bool[Tensor, "r n"]
    control: Bool[Tensor, "r n"]
    before: Bool[Tensor, "n"]

    @property
    def rate(self) -> float:
        """The share of images and placements with success."""
        return self.success.double().mean().item()

    @property
    def control_rate(self) -> float:
        """The same with random pixels."""
        return self.control.double().mean().item()


@dataclass(frozen=True)
class Patch:
    """A patch, and what it does to the images it was made from and to others.

    Attributes:
        patch: its pixels (C, S, S) in [0, 1]; random: the pixels of the control.
        mask: (S, S), 1 where the patch covers the image.
        placing: the places, sizes and angles it was made for.
        target: the class wanted, or None.
        made_on, held_out: trials on the images it was made from and on the others (None without any).
        shown: a few images with the patch (M, C, H, W), the last with random pixels; predicted, confidence: (M,).
        trace: (steps,) the mean log-probability of what is wanted.
        settings, seed: how it was made.
    """

    patch: Float[Tensor, "c s s"]
    random: Float[Tensor, "c s s"]
    mask: Float[Tensor, "s s"]
    placing: Placing
    target: int | None
    made_on: Trials
    held_out: Trials | None
    shown: Float[Tensor, "m c h w"]
    predicted: Int[Tensor, "m"]
    confidence: Float[Tensor, "m"]
    trace: Float[Tensor, "steps"]
    settings: dict[str, Any]
    seed: int

    def place(self, x: Float[Tensor, "n c h w"], seed: int = 0) -> Float[Tensor, "n c h w"]:
        """Images with the patch at random places.

        Args:
            x: images in [0, 1].
            seed: of the places.
        """
        draws = Draws(seed, torch.arange(len(x), device=x.device))
        return self.placing.put(self.patch.to(x), self.mask.to(x), x, draws, "place")

    def plot(self, names: list[str] | None = None) -> "Figure":
        """Draw the patch, a few images with it, and one with a patch of random pixels.

        Args:
            names: the classes' names.
        """
        trials = self.held_out or self.made_on
        said = [f"{word(int(k), names)}\n{100 * float(p):.1f} %" for k, p in zip(self.predicted, self.confidence)]
        wanted = "another class" if self.target is None else word(self.target, names)
        where = "held-out images" if self.held_out is not None else "images it was made from"
        title = (
            f"patch for {wanted}: {100 * trials.rate:.0f} % of {where} over {len(trials.success)} placements, "
            f"random pixels {100 * trials.control_rate:.0f} %"
        )
        images = [pixels(self.patch * self.mask + 1 - self.mask), *(pixels(image) for image in self.shown)]
        said[-1] += " (random pixels)"
        return strip(images, ["the patch\n", *said], title)

    def save(self, path: str | Path) -> Path:
        """Write patch, mask and rates to a .safetensors file, or the plot to a picture (.png, .svg, .pdf, .jpg)."""
        trials = {"made_on": self.made_on, "held_out": self.held_out}
        words = {
            "rates": {name: None if one is None else [one.rate, one.control_rate] for name, one in trials.items()},
            "target": self.target,
            "settings": self.settings,
            "seed": self.seed,
        }
        tensors = {"patch": self.patch, "mask": self.mask, "random": self.random, "trace": self.trace}
        return store(path, self.plot, tensors, "patch", words)


def _masked(shape: str, side: int, like: Tensor) -> Tensor:
    if shape == "square":
        return like.new_ones(side, side)
    at = (torch.arange(side, device=like.device) + 0.5) * 2 / side - 1
    return ((at[:, None].square() + at.square()) <= 1).to(like.dtype)


def _climb(
    problem: Problem, placing: Placing, mask: Tensor, patch: Tensor, how: dict[str, Any], tick: Tick
) -> tuple[Tensor, Tensor]:
    """Adam on the expectation over images and placements, one batch of both at a time."""
    adam, order, losses = Adam(patch, how["rate"]), generator(problem.draws.seed, "patch"), []
    for step in range(how["steps"]):
        rows = torch.randint(len(problem.x), (how["per_step"],), generator=order).to(problem.x.device)
        draws = Draws(problem.draws.seed, torch.arange(len(rows), device=rows.device))
        with torch.enable_grad():
            leaf = patch.detach().requires_grad_()
            placed = placing.put(leaf, mask, problem.x[rows], draws, "step", step)
        answer = problem.oracle.ascent(placed.detach(), log_success, problem.goal.keep(rows))
        (pull,) = torch.autograd.grad(placed, leaf, answer.gradient / len(rows))
        patch = (patch + adam.step(-pull)).clamp(0, 1)
        losses.append(answer.value.mean().item())
        tick(f"loss {-losses[-1]:.3g}")
    return patch, torch.tensor(losses)


def _tried(problem: Problem, placing: Placing, patches: tuple[Tensor, Tensor], mask: Tensor, count: int) -> Trials:
    """Both patches at `count` fresh places in every image."""

    def once(patch: Tensor, number: int) -> Tensor:
        placed = placing.put(patch, mask, problem.x, problem.draws, "trial", number)
        return problem.goal.reached(problem.oracle.logits(placed))

    with torch.no_grad():
        made, random = (torch.stack([once(patch, number) for number in range(count)]) for patch in patches)
    return Trials(made, random, problem.solved)


def patch(
    model: Model,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, "n"],
    *,
    target: int | None = None,
    scale: tuple[float, float] = (0.3, 0.5),
    turn: float = 22.5,
    shape: str = "circle",
    held_out: float | Pair = 0.2,
    steps: int = 300,
    per_step: int = 32,
    rate: float = 0.05,
    placements: int = 5,
    samples: int = 1,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = True,
) -> Patch:
    """Make a patch that gives any image the target class wherever it is put: expectation over transformation.

    Args:
        model: module or function from images (N, C, H, W) to logits (N, K), differentiable.
        x: images (N, C, H, W) in [0, 1]; images of the target class are to be left out.
        y: their labels (N,).
        target: the class wanted; None wants any other than the label.
        scale: least and largest side of the patch, as shares of the image's shorter side, in (0, 1].
        turn: largest rotation to either side, in degrees.
        shape: "circle" or "square".
        held_out: the share of the images, the last ones, that only measure; or other images with their labels.
        steps: of Adam.
        per_step: images of a step, each with a place of its own.
        rate: Adam's learning rate.
        placements: places in each image at which success is measured.
        samples: forward passes averaged for a gradient (more than one for models that are random).
        seed: of images, places and the first pixels.
        batch_size: the most images given to the model at once.
        progress: show a bar when stderr is a terminal.

    Returns:
        the patch with its success over images and placements, beside that of random pixels at the same places.

    Raises:
        ArgumentError: see `pgd`; also a scale, turn or share out of range.
        LookupFailure: an unknown shape.

    Source: Brown et al., "Adversarial patch", 2017, section 2; Athalye et al., "Synthesizing robust adversarial
    examples", 2018, section 2.1 (expectation over transformation).

    >>> import torch
    >>> x, y = torch.full((4, 1, 8, 8), 0.5), torch.zeros(4, dtype=torch.long)
    >>> brighter = lambda x: torch.stack([0.55 - x.mean((1, 2, 3)), x.mean((1, 2, 3)) - 0.55], 1)
    >>> made = patch(brighter, x, y, target=1, scale=(0.5, 0.6), steps=30, held_out=0.25)
    >>> made.held_out.rate, made.held_out.control_rate, bool(made.patch.mean() > 0.9)
    (1.0, 0.0, True)
    """
    at_least(1, steps=steps, per_step=per_step, placements=placements)
    at_least(0, rate=rate, turn=turn)
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ArgumentError(f"scale={scale!r}: expected (least, largest) with 0 < least ≤ largest ≤ 1")
    if shape not in SHAPES:
        raise nearest(shape, SHAPES, "shape")
    common: dict[str, Any] = {"eps": None, "norm": "l0", "target": target, "seed": seed, "batch_size": batch_size}
    problem = pose(model, x, y, samples=samples, **common)
    own, others = split(problem.x, y, held_out)
    part = problem.keep(torch.arange(len(own[0]), device=problem.x.device))
    rest = None if others is None else pose(model, *others, **common)
    placing, side = Placing(scale, turn), max(round(scale[1] * min(x.shape[2:])), 1)
    mask = _masked(shape, side, problem.x)
    random = torch.rand(x.shape[1], side, side, generator=generator(seed, "pixels")).to(problem.x)
    how = {"steps": steps, "per_step": per_step, "rate": rate}
    with bar("patch", steps, progress) as tick:
        made, losses = _climb(part, placing, mask, random, how, tick)
    patches = (made, random)
    trials = _tried(part, placing, patches, mask, placements)
    others_trials = None if rest is None else _tried(rest, placing, patches, mask, placements)
    few = rest or part
    few = few.keep(torch.arange(min(4, len(few.x)), device=x.device))
    with torch.no_grad():
        shown = [placing.put(one, mask, few.x, few.draws, "trial", 0) for one in patches]
        examples = torch.cat([shown[0], shown[1][-1:]])
    sure = problem.oracle.logits(examples).softmax(1).max(1)
    settings = how | {"scale": scale, "turn": turn, "shape": shape, "placements": placements, "samples": samples}
    return Patch(
        patch=made,
        random=random,
        mask=mask,
        placing=placing,
        target=target,
        made_on=trials,
        held_out=others_trials,
        shown=examples,
        predicted=sure.indices,
        confidence=sure.values,
        trace=losses,
        settings=settings,
        seed=seed,
    )
