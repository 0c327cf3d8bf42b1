"""Augmentation of whole batches: functions of (x, generator) that keep the labels, and mix-up, which mixes them."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from cutaway.errors import ArgumentError, nearest

Batch = Float[Tensor, "n c h w"]
Augmentation = Callable[[Tensor, torch.Generator], Tensor]


def _uniform(x: Tensor, generator: torch.Generator, low: float, high: float) -> Tensor:
    """One number for every image, `(N,)`."""
    return (torch.rand(len(x), generator=generator, device=generator.device) * (high - low) + low).to(x)


def _each(numbers: Tensor) -> Tensor:
    return numbers.reshape(-1, 1, 1, 1)  # (N, 1, 1, 1)


def flip(x: Batch, generator: torch.Generator, probability: float = 0.5, vertical: bool = False) -> Batch:
    """Mirror images left to right (or upside down), each with a probability.

    >>> flip(torch.arange(3.0).reshape(1, 1, 1, 3), torch.Generator(), probability=1.0).flatten().tolist()
    [2.0, 1.0, 0.0]
    """
    chosen = _each(_uniform(x, generator, 0, 1) < probability)
    return torch.where(chosen, x.flip(2 if vertical else 3), x)


def shift(x: Batch, generator: torch.Generator, pixels: int = 2, fill: float | None = None) -> Batch:
    """Move images by whole pixels, up to `pixels` each way; nothing wraps round.

    Args:
        x: images `(N, C, H, W)`.
        generator: source of the numbers.
        pixels: largest move.
        fill: value of what comes in from outside; None repeats the border.

    >>> shift(torch.rand(4, 1, 8, 8), torch.Generator().manual_seed(0)).shape
    torch.Size([4, 1, 8, 8])
    """
    if pixels < 1:
        return x
    n, c, h, w = x.shape
    mode = "replicate" if fill is None else "constant"
    padded = F.pad(x, (pixels,) * 4, mode, fill)  # (N, C, H + 2p, W + 2p)
    start = torch.randint(0, 2 * pixels + 1, (2, n, 1), generator=generator, device=generator.device).to(x.device)
    rows = (start[0] + torch.arange(h, device=x.device)).reshape(n, 1, h, 1)
    columns = (start[1] + torch.arange(w, device=x.device)).reshape(n, 1, 1, w)
    images = torch.arange(n, device=x.device).reshape(n, 1, 1, 1)
    return padded[images, torch.arange(c, device=x.device).reshape(1, c, 1, 1), rows, columns]


def _warp(x: Batch, matrix: Float[Tensor, "n 2 2"], move: Float[Tensor, "n 2"]) -> Batch:
    """Read every image at matrix · (x, y) + move, in pixels from the centre; the border is repeated."""
    h, w = x.shape[-2:]
    side = torch.tensor([w / 2, h / 2], device=x.device, dtype=x.dtype)
    relative = matrix * side[None, None, :] / side[None, :, None]  # pixels are square, the grid's units are not
    theta = torch.cat([relative, (move / side)[:, :, None]], 2)  # (N, 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def affine(
    x: Batch,
    generator: torch.Generator,
    degrees: float = 10.0,
    scale: tuple[float, float] = (0.9, 1.1),
    skew: float = 10.0,
    pixels: float = 2.0,
) -> Batch:
    """Rotate, scale, skew and move images, bilinear; the border is repeated.

    Args:
        x: images `(N, C, H, W)`.
        generator: source of the numbers, uniform in their ranges.
        degrees: largest rotation.
        scale: smallest and largest magnification, above 0.
        skew: largest angle of skewing in degrees, below 90.
        pixels: largest move along each axis.

    Source: Simard, Steinkraus, Platt, "Best practices for convolutional neural networks applied to visual document
    analysis", 2003, section 2.

    >>> x = torch.rand(2, 1, 8, 8)
    >>> still = affine(x, torch.Generator(), degrees=0, scale=(1, 1), skew=0, pixels=0)
    >>> torch.allclose(still, x, atol=1e-5)
    True
    """
    if not 0 < scale[0] <= scale[1] or not 0 <= skew < 90:
        raise ArgumentError(f"scale={scale}, skew={skew}: expected 0 < smallest ≤ largest and skew in [0, 90)")
    angle = _uniform(x, generator, -degrees, degrees) * (math.pi / 180)
    size = torch.exp(_uniform(x, generator, math.log(scale[0]), math.log(scale[1])))
    slope = torch.tan(_uniform(x, generator, -skew, skew) * (math.pi / 180))
    move = torch.stack([_uniform(x, generator, -pixels, pixels), _uniform(x, generator, -pixels, pixels)], 1)
    cos, sin = torch.cos(angle), torch.sin(angle)
    rotation = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)  # (N, 2, 2)
    one, zero = torch.ones_like(slope), torch.zeros_like(slope)
    skewing = torch.stack([torch.stack([one, slope], 1), torch.stack([zero, one], 1)], 1)
    return _warp(x, rotation @ skewing / size[:, None, None], move)


def rotate(x: Batch, generator: torch.Generator, degrees: float = 15.0) -> Batch:
    """Rotate images about their centre by up to `degrees` each way, see `affine`.

    >>> rotate(torch.ones(2, 1, 8, 8), torch.Generator()).round(decimals=5).unique().tolist()
    [1.0]
    """
    return affine(x, generator, degrees, (1.0, 1.0), 0.0, 0.0)


def skew(x: Batch, generator: torch.Generator, degrees: float = 15.0) -> Batch:
    """Skew images by up to `degrees` each way, see `affine`.

    >>> skew(torch.ones(2, 1, 8, 8), torch.Generator()).round(decimals=5).unique().tolist()
    [1.0]
    """
    return affine(x, generator, 0.0, (1.0, 1.0), degrees, 0.0)


def rescale(x: Batch, generator: torch.Generator, low: float = 0.8, high: float = 1.2) -> Batch:
    """Magnify images about their centre by a factor in [low, high], see `affine`.

    >>> rescale(torch.ones(2, 1, 8, 8), torch.Generator()).round(decimals=5).unique().tolist()
    [1.0]
    """
    return affine(x, generator, 0.0, (low, high), 0.0, 0.0)


def crop(x: Batch, generator: torch.Generator, least: float = 0.5) -> Batch:
    """Cut out a square part of the images, at least `least` of each side, and resize it to the whole.

    >>> crop(torch.rand(2, 3, 8, 8), torch.Generator()).shape
    torch.Size([2, 3, 8, 8])
    """
    if not 0 < least <= 1:
        raise ArgumentError(f"least={least}: expected a share of the side in (0, 1]")
    share = _uniform(x, generator, least, 1.0)
    room = torch.tensor([x.shape[3], x.shape[2]], device=x.device, dtype=x.dtype) * (1 - share)[:, None] / 2
    move = torch.stack([_uniform(x, generator, -1, 1), _uniform(x, generator, -1, 1)], 1) * room
    return _warp(x, share[:, None, None] * torch.eye(2, device=x.device, dtype=x.dtype), move)


def brightness(x: Batch, generator: torch.Generator, amount: float = 0.2) -> Batch:
    """Multiply images by a factor in [1 − amount, 1 + amount], clipped to [0, 1].

    >>> brightness(torch.zeros(1, 1, 2, 2), torch.Generator()).unique().tolist()
    [0.0]
    """
    return (x * _each(_uniform(x, generator, 1 - amount, 1 + amount))).clamp(0, 1)


def contrast(x: Batch, generator: torch.Generator, amount: float = 0.2) -> Batch:
    """Multiply each image's distance from its mean by a factor in [1 − amount, 1 + amount], clipped to [0, 1].

    >>> contrast(torch.full((1, 1, 2, 2), 0.25), torch.Generator()).unique().tolist()
    [0.25]
    """
    mean = x.mean((1, 2, 3), keepdim=True)
    return (mean + (x - mean) * _each(_uniform(x, generator, 1 - amount, 1 + amount))).clamp(0, 1)


def color(x: Batch, generator: torch.Generator, amount: float = 0.2) -> Batch:
    """Change saturation and the balance of the channels by factors in [1 − amount, 1 + amount], clipped to [0, 1].

    >>> color(torch.zeros(1, 3, 2, 2), torch.Generator()).unique().tolist()
    [0.0]
    """
    grey = x.mean(1, keepdim=True)
    saturated = grey + (x - grey) * _each(_uniform(x, generator, 1 - amount, 1 + amount))
    drawn = torch.rand(*x.shape[:2], 1, 1, generator=generator, device=generator.device).to(x)
    return (saturated * (1 - amount + 2 * amount * drawn)).clamp(0, 1)


def blur(x: Batch, generator: torch.Generator, sigma: float = 1.0) -> Batch:
    """Smooth images by Gaussians whose standard deviations are drawn from [0, sigma] pixels; the border is repeated.

    >>> blur(torch.ones(1, 1, 8, 8), torch.Generator()).round(decimals=5).unique().tolist()
    [1.0]
    """
    n, c, h, w = x.shape
    radius = max(1, math.ceil(3 * sigma))
    drawn = _uniform(x, generator, 0, sigma).clamp(min=1e-3)
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (offsets / drawn[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(c, 0)  # (N·C, 2r + 1)
    y = F.pad(x, (radius,) * 4, mode="replicate").reshape(1, n * c, h + 2 * radius, w + 2 * radius)
    y = F.conv2d(y, kernel[:, None, :, None], groups=n * c)
    return F.conv2d(y, kernel[:, None, None, :], groups=n * c).reshape(n, c, h, w)


def noise(x: Batch, generator: torch.Generator, sigma: float = 0.05) -> Batch:
    """Add normal noise of standard deviation `sigma`, clipped to [0, 1].

    >>> noise(torch.zeros(1, 1, 2, 2), torch.Generator(), sigma=0.0).unique().tolist()
    [0.0]
    """
    drawn = torch.randn(x.shape, generator=generator, device=generator.device).to(x)
    return (x + sigma * drawn).clamp(0, 1)


def cutout(x: Batch, generator: torch.Generator, size: int = 8, fill: float = 0.5) -> Batch:
    """Cover one square of `size` pixels, its centre anywhere in the image.

    Source: DeVries, Taylor, "Improved regularization of convolutional neural networks with cutout", 2017.

    >>> int((cutout(torch.zeros(1, 1, 32, 32), torch.Generator(), size=4) == 0.5).sum()) in range(4, 17)
    True
    """
    h, w = x.shape[-2:]
    top = (_uniform(x, generator, 0, h).floor() - size // 2).reshape(-1, 1)
    left = (_uniform(x, generator, 0, w).floor() - size // 2).reshape(-1, 1)
    rows, columns = torch.arange(h, device=x.device), torch.arange(w, device=x.device)
    inside = ((rows >= top) & (rows < top + size))[:, :, None] & ((columns >= left) & (columns < left + size))[
        :, None, :
    ]
    return torch.where(inside[:, None], torch.full_like(x, fill), x)  # (N, 1, H, W) over the channels


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
    mixed = _each(weight) * x + (1 - _each(weight)) * x[other]
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
