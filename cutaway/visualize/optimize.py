"""Images optimised to excite what an objective names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cutaway.errors import ArgumentError, NonFiniteError
from cutaway.progress import track
from cutaway.rng import generator
from cutaway.saving import save_arrays
from cutaway.visualize import picture
from cutaway.visualize.network import Network, home, network, of_image, of_layers
from cutaway.visualize.objective import IMAGE, Objective
from cutaway.visualize.parametrize import Canvas, Parametrization, parametrization_of
from cutaway.visualize.targets import logit
from cutaway.visualize.transform import ROBUST, Transformation, transformed

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Optimized:
    """Images made to excite something.

    Attributes:
        images: (N, C, H, W) in [0, 1].
        scores: the objective of each image, as it is (not transformed), (N,).
        dead: (N,) whether the image excites the unit no more than what it started from, and has no gradient: nothing
            was found that does. Such an image shows nothing; it is not drawn.
        history: the objective at each step (steps, N), under that step's transformations.
        words: what was made larger.
        titles: one for each image; empty for none.
        settings: the further arguments; seed: fixes all random numbers.
    """

    images: Float[Tensor, "n c h w"]
    scores: Float[Tensor, " n"]
    dead: Bool[Tensor, " n"]
    history: Float[Tensor, "steps n"]
    words: str
    titles: tuple[str, ...]
    settings: Mapping[str, Any]
    seed: int

    def plot(self, columns: int = 6, titles: Sequence[str] | None = None) -> "Figure":
        """Draw the images; a dead unit is crossed out and named.

        Args:
            columns: images in one row.
            titles: words above the images.
        """
        figure, axes = picture.grid(len(self.images), columns, picture.shortened(self.words))
        words = picture.titles(titles or self.titles, len(axes))
        for axis, image, score, dead, title in zip(axes, self.images, self.scores, self.dead, words, strict=True):
            if dead:
                picture.show_dead(axis, "dead:\nno gradient", title)
            else:
                picture.show(axis, image, f"{title}   {float(score):.3g}".strip())
        return figure

    def save(self, path: str) -> Any:
        """Write the picture (.png, .svg, .pdf) or the numbers (.npz: images, scores, dead, history and `about`)."""
        if str(path).lower().endswith(".npz"):
            tensors = {"images": self.images, "scores": self.scores, "dead": self.dead, "history": self.history}
            about = {"objective": self.words, "settings": dict(self.settings), "seed": self.seed}
            return save_arrays(path, tensors, about)
        return picture.save_figure(path, self.plot())

    def _repr_png_(self) -> bytes:
        return picture.png(self.plot())

    def __repr__(self) -> str:
        dead = f", {int(self.dead.sum())} dead" if self.dead.any() else ""
        return f"<{len(self.images)} images for {picture.shortened(self.words)}{dead}>"


def optimize(
    model: nn.Module | Callable,
    objective: Objective | int,
    *,
    size: int | tuple[int, ...] = 128,
    image: Float[Tensor, "n c h w"] | None = None,
    count: int | None = None,
    parametrization: str | Parametrization = "fourier",
    transformation: Sequence[Transformation] = ROBUST,
    samples: int = 1,
    steps: int = 256,
    lr: float | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Optimized:
    """Change images until they excite a unit, channel, layer, class or direction.

    Args:
        model: a module or function of images (N, C, H, W) in [0, 1].
        objective: what to make larger, such as `channel("conv2", 3) - 0.1 * total_variation()`; a class by its index.
            `-channel(…)` shows what a channel shuns: name a layer before its rectifier, whose values can be negative.
        size: side of the images (3, size, size) in pixels, or (C, H, W), or the shape of another input.
        image: to start from instead of noise, (1, C, H, W) or one for each.
        count: how many images; by default as many as the objective is made for.
        parametrization: "pixels", "fourier", "maco", or a `Pixels`, `Fourier` or `MACO` of other settings.
        transformation: what the images have to survive, in this order; () for nothing.
        samples: transformed copies of each image in one step.
        steps: of Adam (NAdam for MACO).
        lr: the learning rate; by default what suits the parametrisation.
        seed: fixes noise and transformations.
        progress: show a bar on a terminal.

    Returns:
        the images; `.dead` says which have no picture.

    Raises:
        ArgumentError: a setting is out of range, or the objective does not fit the layer.
        LookupFailure: a layer or parametrisation is unknown.
        NonFiniteError: the objective is no number.

    Source: C. Olah, A. Mordvintsev, L. Schubert, Feature Visualization, 2017; A. Nguyen, J. Yosinski, J. Clune,
    Understanding Neural Networks via Feature Visualization: A Survey, 2019.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    >>> from cutaway.visualize import channel
    >>> optimize(net, channel("0", 2), size=16, steps=2, transformation=()).images.shape
    torch.Size([1, 3, 16, 16])
    """
    objective = logit(objective) if isinstance(objective, int) else objective
    shape = (_count(objective, count), *_shape(size, image))
    if steps < 1 or samples < 1:
        raise ArgumentError(f"steps={steps}, samples={samples}: expected at least 1 of each")
    made = parametrization_of(parametrization)
    steps_of = tuple(transformation)
    canvas = made.canvas(shape, generator(seed, "canvas"), image)
    there = home(model)
    seen = network(model, torch.zeros(shape, **there), of_layers(objective).layers)
    rate = made.lr if lr is None else lr
    run = _Run(seen, objective, canvas, steps_of, samples, generator(seed, "transformation"), there)
    optimizer = (torch.optim.NAdam if type(made).__name__ == "MACO" else torch.optim.Adam)(canvas.parameters, lr=rate)
    before, _ = run.excited(canvas.image().detach())
    history = [run.step(optimizer, step) for step in track(range(steps), "optimising", progress)]
    images = canvas.image().detach()
    after, moved = run.excited(images)
    dead = ~moved & (after <= before)
    settings = {"size": shape[1:], "parametrization": made, "transformation": steps_of, "samples": samples}
    settings |= {"steps": steps, "lr": rate}
    return Optimized(
        images, run.score(images), dead, torch.stack(history), objective.words, objective.titles, settings, seed
    )


@dataclass(eq=False)
class _Run:
    """One optimisation: what is seen, changed and drawn at random."""

    network: Network
    objective: Objective
    canvas: Canvas
    steps: tuple[Transformation, ...]
    samples: int
    random: torch.Generator
    there: Mapping[str, Any]
    strongest: Tensor = field(default_factory=lambda: torch.zeros(()))  # norm of each image's gradient so far

    def as_strong(self, adjoint: Tensor) -> Tensor:
        """Gradients as strong as each image's strongest so far: Adam would hardly notice them otherwise."""
        if not self.strongest.dim():
            return adjoint
        factor = self.strongest / _norms(adjoint, len(self.strongest)).clamp(min=1e-30)
        return adjoint * _wide(torch.where(self.strongest > 0, factor, 1.0), adjoint)

    def step(self, optimizer: torch.optim.Optimizer, step: int) -> Tensor:
        """Change the image once; the objective's values."""
        seen, priors = of_layers(self.objective), of_image(self.objective)
        with torch.enable_grad():
            image = self.canvas.image()
            views = image.repeat(self.samples, *[1] * (image.dim() - 1))
            views = transformed(views, self.steps, self.random).to(**self.there)
            prior = priors.value({IMAGE: image})
        values, adjoint = self.network.gradient(views.detach(), seen, self.samples)
        moved = _per_image(adjoint, len(image))
        if not moved.all():  # shut rectifiers pass what would open them
            _, redirected = self.network.gradient(views.detach(), seen, self.samples, redirect=True)
            adjoint = torch.where(_wide(moved, adjoint), adjoint, self.as_strong(redirected))
        self.strongest = torch.maximum(self.strongest, _norms(adjoint, len(image)))
        values = values.cpu() + prior.detach()
        if not values.isfinite().all() or not adjoint.isfinite().all():
            raise NonFiniteError(f"{self.objective.words} is {values.tolist()} at step {step}, or its gradient is not")
        outputs, adjoints = [views], [-adjoint]
        if priors.terms and prior.requires_grad:
            outputs, adjoints = [*outputs, prior], [*adjoints, -torch.ones_like(prior)]
        found = torch.autograd.grad(outputs, self.canvas.parameters, adjoints)
        for parameter, gradient in zip(self.canvas.parameters, found, strict=True):
            parameter.grad = gradient
        optimizer.step()
        return values

    def excited(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """How strongly images as they are excite what is asked for, and whether there is a gradient; no priors."""
        main = of_layers(self.objective).part(lambda term: not term.side)
        main = main if main.terms else of_layers(self.objective)
        values, adjoint = self.network.gradient(images.to(**self.there), main)
        return values.cpu(), _per_image(adjoint, len(images))

    def score(self, images: Tensor) -> Tensor:
        """The objective of images as they are."""
        values = self.network.values(images.to(**self.there))
        return self.objective.value({**values, IMAGE: images.to(**self.there)}).cpu()


def _norms(adjoint: Tensor, n: int) -> Tensor:
    """The norm of each image's gradient, over all its copies."""
    return adjoint.flatten(1).square().sum(1).reshape(-1, n).sum(0).sqrt().cpu()


def _wide(each: Tensor, adjoint: Tensor) -> Tensor:
    """One number for each image, for all pixels of all its copies."""
    copies = each.repeat(len(adjoint) // len(each)).to(adjoint.device)
    return copies.reshape(-1, *[1] * (adjoint.dim() - 1))


def _per_image(adjoint: Tensor, n: int) -> Tensor:
    """Which images have a gradient in any of their copies."""
    return (adjoint != 0).flatten(1).any(1).reshape(-1, n).any(0).cpu()


def _count(objective: Objective, count: int | None) -> int:
    """How many images."""
    if count is None:
        return objective.count
    if count < 1 or objective.count not in (1, count):
        raise ArgumentError(f"count={count}: {objective.words} is made for {objective.count} images")
    return count


def _shape(size: int | tuple[int, ...], image: Tensor | None) -> tuple[int, ...]:
    if image is not None:
        if image.dim() < 3:
            raise ArgumentError(f"an image to start from is (N, C, H, W), got shape {tuple(image.shape)}")
        return tuple(image.shape[1:])
    shape = (3, size, size) if isinstance(size, int) else tuple(size)
    if len(shape) < 2 or min(shape) < 1:
        raise ArgumentError(f"size={size}: expected the side of an image in pixels, or (C, H, W)")
    return shape
