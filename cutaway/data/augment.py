"""Augmentation of whole batches by name, with functions of (x, generator) that keep the labels, and mix-up."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from cutaway.data.geometry import Batch, affine, crop, each, flip, rescale, rotate, shift, skew
from cutaway.data.pixels import blur, brightness, color, contrast, cutout, noise
from cutaway.errors import ArgumentError, nearest

Augmentation = Callable[[Tensor, torch.Generator], Tensor]


def mixup(
    x: Batch, y: Int64[Tensor, "n"], classes: int, generator: torch.Generator, alpha: float = 0.2
) -> tuple[Batch, Float[Tensor, "n k"]]:
    """Mix every image and its one-hot label with those of another one, by a weight drawn from Beta(alpha, alpha).

    Args:
        x: images `(N, C, H, W)`.
        y: class indices `(N,)`.
        classes: number of classes K.
        generator: source of the numbers.
        alpha: above 0; the larger the stronger the mixture.

    Returns:
        the mixed images and the mixed labels `(N, K)`, each row of which sums to 1.

    Source: Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: beyond empirical risk minimization", 2018.

    >>> x, y = mixup(torch.rand(4, 1, 2, 2), torch.arange(4), 4, torch.Generator())
    >>> torch.allclose(y.sum(1), torch.ones(4))
    True
    """
    if alpha <= 0:
        raise ArgumentError(f"alpha={alpha}: expected a number above 0")
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
    weight = torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, len(x))).to(
        x
    )  # torch has none with a seed
    other = torch.randperm(len(x), generator=generator, device=generator.device).to(x.device)
    hot = F.one_hot(y, classes).to(x)
    mixed = each(weight) * x + (1 - each(weight)) * x[other]
    return mixed, weight[:, None] * hot + (1 - weight[:, None]) * hot[other]


AUGMENTATIONS: dict[str, Callable[..., Tensor]] = {
    "crop": crop,
    "flip": flip,
    "shift": shift,
    "rotate": rotate,
    "skew": skew,
    "affine": affine,
    "scale": rescale,
    "brightness": brightness,
    "contrast": contrast,
    "color": color,
    "blur": blur,
    "noise": noise,
    "cutout": cutout,
}


def augmentation(*steps: str | tuple[str, dict[str, Any]] | Augmentation) -> Augmentation:
    """Chain augmentations into one function of (x, generator).

    Args:
        steps: names of `AUGMENTATIONS`, pairs (name, settings), or functions of (x, generator).

    Raises:
        LookupFailure: for an unknown name.

    >>> both = augmentation("flip", ("shift", {"pixels": 1}))
    >>> first, second = (both(torch.ones(2, 1, 4, 4), torch.Generator().manual_seed(7)) for _ in range(2))
    >>> torch.equal(first, second)
    True
    """
    functions = [_step(step) for step in steps]

    def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
        for function in functions:
            x = function(x, generator)
        return x

    return augmented


def _step(step: str | Sequence[Any] | Augmentation) -> Augmentation:
    if callable(step):
        return step
    name, settings = (step, {}) if isinstance(step, str) else step
    if name not in AUGMENTATIONS:
        raise nearest(name, AUGMENTATIONS, "augmentation")
    return partial(AUGMENTATIONS[name], **settings)
