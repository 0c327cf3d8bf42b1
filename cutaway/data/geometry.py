"""Augmentation that moves pixels: functions of (x, generator) on whole batches."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import ArgumentError

Batch = Float[Tensor, "n c h w"]


def uniform(x: Tensor, generator: torch.Generator, low: float, high: float) -> Tensor:
    """One number for every image, `(N,)`."""
    return (torch.rand(len(x), generator=generator, device=generator.device) * (high - low) + low).to(x)


def each(numbers: Tensor) -> Tensor:
    """One number for every image, shaped to act on all its pixels."""
    return numbers.reshape(-1, 1, 1, 1)  # (N, 1, 1, 1)


def flip(x: Batch, generator: torch.Generator, probability: float = 0.5, vertical: bool = False) -> Batch:
    """Mirror images left to right (or upside down), each with a probability.

    >>> flip(torch.arange(3.0).reshape(1, 1, 1, 3), torch.Generator(), probability=1.0).flatten().tolist()
    [2.0, 1.0, 0.0]
    """
    chosen = each(uniform(x, generator, 0, 1) < probability)
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
    angle = uniform(x, generator, -degrees, degrees) * (math.pi / 180)
    size = torch.exp(uniform(x, generator, math.log(scale[0]), math.log(scale[1])))
    slope = torch.tan(uniform(x, generator, -skew, skew) * (math.pi / 180))
    move = torch.stack([uniform(x, generator, -pixels, pixels), uniform(x, generator, -pixels, pixels)], 1)
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
    share = uniform(x, generator, least, 1.0)
    room = torch.tensor([x.shape[3], x.shape[2]], device=x.device, dtype=x.dtype) * (1 - share)[:, None] / 2
    move = torch.stack([uniform(x, generator, -1, 1), uniform(x, generator, -1, 1)], 1) * room
    return _warp(x, share[:, None, None] * torch.eye(2, device=x.device, dtype=x.dtype), move)
