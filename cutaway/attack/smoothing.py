"""Randomised smoothing: the class a network gives most often under Gaussian noise, with a radius it provably keeps."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from scipy.special import bdtr, betaincinv, ndtri
from torch import Tensor

from cutaway.attack.oracle import Model, checked
from cutaway.attack.problem import pose
from cutaway.attack.robustness import Rate, wilson
from cutaway.errors import ArgumentError
from cutaway.nets.modes import evaluating
from cutaway.progress import bar
from cutaway.rng import derive, generator
from cutaway.saving import save_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ABSTAIN = -1


@dataclass(frozen=True)
class Certificates:
    """Certified classes and radii of N images.

    Attributes:
        labels: the true classes (N,).
        classes: the smoothed classifier's classes (N,), −1 where it abstains.
        radii: L2 radii (N,) within which the class does not change, in pixel units; 0 where it abstains.
        sigma, samples, confidence, seed: how they were made.
    """

    labels: Int[Tensor, "n"]
    classes: Int[Tensor, "n"]
    radii: Float[Tensor, "n"]
    sigma: float
    samples: int
    confidence: float
    seed: int

    @property
    def correct(self) -> Bool[Tensor, "n"]:
        """Which images get their label."""
        return self.classes == self.labels

    @property
    def abstained(self) -> Bool[Tensor, "n"]:
        """Which images get no class."""
        return self.classes == ABSTAIN

    def accuracy(self, radius: float = 0.0) -> Rate:
        """Certified accuracy: the share of images that are right everywhere within the radius, with its interval.

        >>> three = Certificates(torch.zeros(3), torch.zeros(3), torch.tensor([0.1, 0.5, 0.9]), 0.5, 100, 0.999, 0)
        >>> round(three.accuracy(0.4).value, 3)
        0.667
        """
        right = self.correct & (self.radii >= radius)
        return wilson(int(right.sum()), len(right))

    def plot(self) -> "Figure":
        """Draw certified accuracy over the radius, with its 95 % band."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.6, 3.8), layout="constrained")
        axis = figure.subplots()
        reach = float(self.radii[self.correct].max()) if self.correct.any() else self.sigma
        radii = torch.linspace(0, 1.05 * max(reach, 1e-6), 200).tolist()
        rates = [self.accuracy(radius) for radius in radii]
        axis.step(radii, [100 * rate.value for rate in rates], where="pre")
        low, high = [100 * rate.low for rate in rates], [100 * rate.high for rate in rates]
        axis.fill_between(radii, low, high, alpha=0.15, linewidth=0, step="pre")
        axis.set(xlabel="L2 radius (pixels in [0, 1])", ylabel="certified accuracy (%)", ylim=(-2, 102))
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
        axis.set_title(
            f"σ = {self.sigma:g}, {self.samples} samples, confidence {self.confidence:g}, {len(self.labels)} images; "
            f"{int(self.abstained.sum())} abstain",
            fontsize=9,
        )
        return figure

    def save(self, path: str | Path) -> Path:
        """Write everything to .json, or the plot to .png, .svg or .pdf."""
        return save_json(path, self.plot, self.words)

    def words(self) -> dict[str, Any]:
        """Classes, radii and settings, for a JSON file."""
        settings = {name: getattr(self, name) for name in ("sigma", "samples", "confidence", "seed")}
        return settings | {name: getattr(self, name).tolist() for name in ("labels", "classes", "radii")}


@dataclass(frozen=True)
class Smoothed:
    """The smoothed classifier of a network: the class it gives most often for x + σ·N(0, 1).

    Images stay in [0, 1]; the noisy ones are not clipped, as the radius needs Gaussian noise. Train the network on
    such noise (`fit(…, adversary=train.adversaries.Noise(sigma=…, clip=False))`), or it will not be sure of anything.

    Args:
        model: module or function from images (N, C, H, W) to logits (N, K).
        sigma: standard deviation of the noise, in pixel units.
        batch_size: the most noisy images given to the model at once.
        seed: what image i draws depends on the seed, on i and on batch_size only.

    Raises:
        ArgumentError: sigma or batch_size is out of range.

    Source: Cohen, Rosenfeld, Kolter, "Certified adversarial robustness via randomized smoothing", 2019, section 3.

    >>> model = lambda x: torch.stack([-x.mean((1, 2, 3)) + 0.5, x.mean((1, 2, 3)) - 0.5], 1)
    >>> smoothed = Smoothed(model, sigma=0.25)
    >>> x = torch.stack([torch.full((1, 2, 2), 0.5), torch.full((1, 2, 2), 0.9)])
    >>> smoothed.predict(x, samples=100)  # the first image is at the boundary
    tensor([-1,  1])
    >>> found = smoothed.certify(x, torch.tensor([1, 1]), samples=1000, progress=False)
    >>> [round(radius, 2) for radius in found.radii.tolist()]  # its true distance to the boundary is 0.8
    [0.0, 0.56]
    """

    model: Model
    sigma: float
    batch_size: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ArgumentError(f"sigma={self.sigma!r}: expected a number above 0, in units of pixels in [0, 1]")
        if self.batch_size < 1:
            raise ArgumentError(f"batch_size={self.batch_size}: expected at least 1")

    def counts(self, x: Float[Tensor, "n c h w"], samples: int, *words: object) -> Int[Tensor, "n k"]:
        """How often the network gives each class for each image with noise.

        Args:
            x: images (N, C, H, W) in [0, 1].
            samples: noisy versions of each.
            words: name the draw; other words draw other noise.
        """
        self._check(x, None, samples=samples)
        return torch.stack([self._counts(image, samples, i, *words) for i, image in enumerate(x)])

    def _check(self, x: Tensor, y: Tensor | None, **counts: int) -> None:
        """Refuse images, labels and numbers that make no sense."""
        for name, value in counts.items():
            if value < 1:
                raise ArgumentError(f"{name}={value}: expected at least 1")
        labels = torch.zeros(len(x), dtype=torch.long) if y is None else y
        pose(self.model, x, labels, eps=None, norm="l2", target=None, seed=self.seed, batch_size=self.batch_size)

    def _counts(self, image: Tensor, samples: int, *words: object) -> Tensor:
        """How often one image (C, H, W) gets each class (K,)."""
        draw, found = generator(derive(self.seed, "smoothing", *words), device=image.device), []
        with torch.no_grad(), evaluating(self.model):
            for begin in range(0, samples, self.batch_size):
                size = (min(self.batch_size, samples - begin), *image.shape)
                noise = torch.randn(size, generator=draw, device=image.device, dtype=image.dtype)
                noisy = image + self.sigma * noise  # (M, C, H, W)
                logits = checked(self.model(noisy), noisy)
                found.append(torch.bincount(logits.argmax(1), minlength=logits.shape[1]))
        return torch.stack(found).sum(0)

    def predict(
        self, x: Float[Tensor, "n c h w"], *, samples: int = 1000, confidence: float = 0.999
    ) -> Int[Tensor, "n"]:
        """The smoothed classifier's classes (N,), −1 where the two most frequent cannot be told apart.

        Args:
            x: images (N, C, H, W) in [0, 1].
            samples: noisy versions of each.
            confidence: probability, for each image, of giving no wrong class of the smoothed classifier.

        Source: Cohen, Rosenfeld, Kolter, 2019, section 3.2.1 (PREDICT), with the test of Hung and Fithian, 2019.
        """
        level = _level(confidence)
        counts, classes = self.counts(x, samples, "predict").topk(2, dim=1)
        sure = [2 * bdtr(b, a + b, 0.5) <= level for a, b in counts.tolist()]  # exact two-sided test of p = ½
        return torch.where(torch.tensor(sure, device=x.device), classes[:, 0], ABSTAIN)

    def certify(
        self,
        x: Float[Tensor, "n c h w"],
        y: Int[Tensor, "n"],
        *,
        samples: int = 10_000,
        guesses: int = 100,
        confidence: float = 0.999,
        progress: bool = True,
    ) -> Certificates:
        """Classes, with L2 radii within which the smoothed classifier provably keeps them.

        The class is guessed from a few samples; from the many others comes a lower bound p of its probability (Clopper
        and Pearson's), and the radius σ·Φ⁻¹(p), if p > ½. Otherwise the classifier abstains. The largest radius that n
        samples can certify is σ·Φ⁻¹((1 − confidence)^(1/n)).

        Args:
            x: images (N, C, H, W) in [0, 1].
            y: their labels (N,).
            samples: noisy versions of each image for the bound.
            guesses: noisy versions of each image for the class.
            confidence: probability that an image's radius holds.
            progress: show a bar when stderr is a terminal.

        Raises:
            ArgumentError: images outside [0, 1], labels that do not fit, settings out of range.

        Source: Cohen, Rosenfeld, Kolter, 2019, section 3.2.2 (CERTIFY) and theorem 1.
        """
        level = _level(confidence)
        self._check(x, y, samples=samples, guesses=guesses)
        classes, radii = [], []
        with bar("certifying", len(x), progress) as tick:
            for i, image in enumerate(x):
                guess = int(self._counts(image, guesses, i, "guess").argmax())
                hits = int(self._counts(image, samples, i, "bound")[guess])
                low = lower_bound(hits, samples, level)
                sure = low > 0.5
                classes.append(guess if sure else ABSTAIN)
                radii.append(self.sigma * float(ndtri(low)) if sure else 0.0)
                tick(f"mean radius {sum(radii) / len(radii):.3f}")
        found, lengths = torch.tensor(classes), torch.tensor(radii, dtype=torch.float64)
        return Certificates(y.cpu(), found, lengths, self.sigma, samples, confidence, self.seed)


def lower_bound(hits: int, samples: int, level: float) -> float:
    """Clopper and Pearson's one-sided lower bound of a probability.

    Args:
        hits: how often it happened, 0 … samples.
        samples: trials.
        level: probability that the bound is wrong, in (0, 1).

    Source: Clopper, Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial", 1934.

    >>> round(lower_bound(100, 100, 0.001), 4), lower_bound(0, 100, 0.001)
    (0.9333, 0.0)
    """
    if samples < 1 or not 0 <= hits <= samples or not 0 < level < 1:
        raise ArgumentError(f"{hits} hits of {samples} at level {level}: expected 0 ≤ hits ≤ samples and 0 < level < 1")
    return float(betaincinv(hits, samples - hits + 1, level)) if hits else 0.0


def smoothed(model: Model, sigma: float, batch_size: int = 1000, seed: int = 0) -> Smoothed:
    """Smooth a classifier with Gaussian noise, see `Smoothed`.

    Args:
        model: module or function from images (N, C, H, W) to logits (N, K).
        sigma: standard deviation of the noise, in pixel units.
        batch_size: the most noisy images given to the model at once.
        seed: of the noise.

    >>> smoothed(lambda x: x.flatten(1), 0.25).sigma
    0.25
    """
    return Smoothed(model, sigma, batch_size, seed)


def _level(confidence: float) -> float:
    if not 0.5 <= confidence < 1:
        raise ArgumentError(f"confidence={confidence!r}: expected a probability in [0.5, 1), 0.999 for example")
    return 1 - confidence
