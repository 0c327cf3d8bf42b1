"""Augmentation of batches of images, sounds and texts by name: functions of (x, generator) that keep the labels."""

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
from cutaway.data.sound import SOUND_AUGMENTATIONS
from cutaway.data.text import TEXT_AUGMENTATIONS
from cutaway.errors import ArgumentError, nearest

Augmentation = Callable[[Any, torch.Generator], Any]


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


KINDS: dict[str, dict[str, Callable[..., Any]]] = {
    "image": AUGMENTATIONS,
    "sound": SOUND_AUGMENTATIONS,
    "text": TEXT_AUGMENTATIONS,
}


def augmentation(*steps: str | tuple[str, dict[str, Any]] | Augmentation, of: str = "image") -> Augmentation:
    """Chain augmentations into one function of (x, generator).

    Args:
        steps: names, pairs (name, settings), or functions of (x, generator).
        of: whose names they are: "image" (`AUGMENTATIONS`, x `(N, C, H, W)`), "sound" (`SOUND_AUGMENTATIONS`, x
            `(N, T)` or `(N, C, T)`) or "text" (`TEXT_AUGMENTATIONS`, x a list of strings).

    Raises:
        LookupFailure: for an unknown name.

    >>> both = augmentation("flip", ("shift", {"pixels": 1}))
    >>> first, second = (both(torch.ones(2, 1, 4, 4), torch.Generator().manual_seed(7)) for _ in range(2))
    >>> torch.equal(first, second)
    True
    >>> augmentation(("synonyms", {"share": 1.0, "table": {"big": ["large"]}}), of="text")(["Big."], torch.Generator())
    ['Large.']
    """
    if of not in KINDS:
        raise nearest(of, KINDS, "kind of augmentation")
    functions = [_step(step, KINDS[of]) for step in steps]

    def augmented(x: Any, generator: torch.Generator) -> Any:
        for function in functions:
            x = function(x, generator)
        return x

    return augmented


def _step(step: str | Sequence[Any] | Augmentation, table: dict[str, Callable[..., Any]]) -> Augmentation:
    if callable(step):
        return step
    name, settings = (step, {}) if isinstance(step, str) else step
    if name not in table:
        raise nearest(name, table, "augmentation")
    return partial(table[name], **settings)
