"""Augmentation that changes values: functions of (x, generator) on whole batches."""

import math

import torch
import torch.nn.functional as F

from cutaway.data.geometry import Batch, each, uniform


def brightness(x: Batch, generator: torch.Generator, amount: float = 0.2) -> Batch:
    """Multiply images by a factor in [1 − amount, 1 + amount], clipped to [0, 1].

    >>> brightness(torch.zeros(1, 1, 2, 2), torch.Generator()).unique().tolist()
    [0.0]
    """
    return (x * each(uniform(x, generator, 1 - amount, 1 + amount))).clamp(0, 1)


def contrast(x: Batch, generator: torch.Generator, amount: float = 0.2) -> Batch:
    """Multiply each image's distance from its mean by a factor in [1 − amount, 1 + amount], clipped to [0, 1].

    >>> contrast(torch.full((1, 1, 2, 2), 0.25), torch.Generator()).unique().tolist()
    [0.25]
    """
    mean = x.mean((1, 2, 3), keepdim=True)
    return (mean + (x - mean) * each(uniform(x, generator, 1 - amount, 1 + amount))).clamp(0, 1)


def color(x: Batch, generator: torch.Generator, amount: float = 0.2) -> Batch:
    """Change saturation and the balance of the channels by factors in [1 − amount, 1 + amount], clipped to [0, 1].

    >>> color(torch.zeros(1, 3, 2, 2), torch.Generator()).unique().tolist()
    [0.0]
    """
    grey = x.mean(1, keepdim=True)
    saturated = grey + (x - grey) * each(uniform(x, generator, 1 - amount, 1 + amount))
    drawn = torch.rand(*x.shape[:2], 1, 1, generator=generator, device=generator.device).to(x)
    return (saturated * (1 - amount + 2 * amount * drawn)).clamp(0, 1)


def blur(x: Batch, generator: torch.Generator, sigma: float = 1.0) -> Batch:
    """Smooth images by Gaussians whose standard deviations are drawn from [0, sigma] pixels; the border is repeated.

    >>> blur(torch.ones(1, 1, 8, 8), torch.Generator()).round(decimals=5).unique().tolist()
    [1.0]
    """
    n, c, h, w = x.shape
    radius = max(1, math.ceil(3 * sigma))
    drawn = uniform(x, generator, 0, sigma).clamp(min=1e-3)
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
    top = (uniform(x, generator, 0, h).floor() - size // 2).reshape(-1, 1)
    left = (uniform(x, generator, 0, w).floor() - size // 2).reshape(-1, 1)
    rows, columns = torch.arange(h, device=x.device), torch.arange(w, device=x.device)
    inside = ((rows >= top) & (rows < top + size))[:, :, None] & ((columns >= left) & (columns < left + size))[
        :, None, :
    ]
    return torch.where(inside[:, None], torch.full_like(x, fill), x)  # (N, 1, H, W) over the channels
