"""Mild changes of training images that keep their labels: functions `(x, generator) -> x` on whole batches."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cutaway.errors import ArgumentError, nearest

Images = Float[Tensor, "n c h w"]


def affine(
    x: Images, generator: torch.Generator, shift: float = 0.5, rotate: float = 10.0, scale: float = 0.1
) -> Images:
    """Shift, rotate and scale every image by its own small random amount, bilinear, zeros outside.

    Args:
        x: images `(N, C, H, W)`.
        generator: where the random numbers come from.
        shift: largest shift along each axis, in pixels.
        rotate: largest angle either way, in degrees.
        scale: largest relative change of size.

    Source: Simard, Steinkraus, Platt, Best practices for convolutional neural networks, 2003, section 2.

    >>> from cutaway.rng import generator
    >>> affine(torch.ones(2, 1, 8, 8), generator(0)).shape
    torch.Size([2, 1, 8, 8])
    """
    height, width = x.shape[2:]
    draws = torch.rand(len(x), 4, generator=generator, device=x.device, dtype=x.dtype) * 2 - 1  # (N, 4) in [-1, 1)
    angle, size = draws[:, 0] * math.radians(rotate), 1 + draws[:, 1] * scale
    cosine, sine = angle.cos() * size, angle.sin() * size
    right, down = draws[:, 2] * 2 * shift / width, draws[:, 3] * 2 * shift / height  # the grid is 2 wide
    rows = [torch.stack([cosine, -sine, right], 1), torch.stack([sine, cosine, down], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)  # (N, H, W, 2)
    return F.grid_sample(x, grid, align_corners=False)


def shift(x: Images, generator: torch.Generator, pixels: int = 1) -> Images:
    """Shift every image by whole pixels along each axis, zeros outside.

    Args:
        x: images `(N, C, H, W)`.
        generator: where the random numbers come from.
        pixels: largest shift.

    >>> from cutaway.rng import generator
    >>> shift(torch.ones(1, 1, 4, 4), generator(0), pixels=0).sum()
    tensor(16.)
    """
    n, _channels, height, width = x.shape
    padded = F.pad(x, [pixels] * 4)  # (N, C, H + 2p, W + 2p)
    starts = torch.randint(0, 2 * pixels + 1, (n, 2), generator=generator, device=x.device)
    rows = starts[:, :1] + torch.arange(height, device=x.device)  # (N, H)
    columns = starts[:, 1:] + torch.arange(width, device=x.device)  # (N, W)
    each = torch.arange(n, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def flip(x: Images, generator: torch.Generator, share: float = 0.5) -> Images:
    """Mirror a random share of the images left to right.

    >>> from cutaway.rng import generator
    >>> flip(torch.arange(3.0).reshape(1, 1, 1, 3), generator(0), share=1.0).flatten()
    tensor([2., 1., 0.])
    """
    chosen = torch.rand(len(x), generator=generator, device=x.device) < share  # (N,)
    return torch.where(chosen[:, None, None, None], x.flip(3), x)


AUGMENTS: dict[str, Callable[..., Tensor]] = {"affine": affine, "shift": shift, "flip": flip}


def make_augment(wanted: str | Mapping[str, Mapping[str, Any]] | Callable[..., Tensor] | None) -> Any:
    """Make one function of several augmentations by name.

    Args:
        wanted: a name, several by name with their settings (`{"flip": {}, "shift": {"pixels": 4}}`), a function
            `(x, generator) -> x`, or None.

    Raises:
        LookupFailure: a name is unknown.

    >>> from cutaway.rng import generator
    >>> make_augment({"flip": {"share": 1.0}})(torch.arange(2.0).reshape(1, 1, 1, 2), generator(0)).flatten()
    tensor([1., 0.])
    """
    if wanted is None or callable(wanted):
        return wanted
    table = {wanted: {}} if isinstance(wanted, str) else dict(wanted)
    steps = []
    for name, settings in table.items():
        if name not in AUGMENTS:
            raise nearest(name, AUGMENTS, "augmentation")
        try:
            steps.append(partial(AUGMENTS[name], **settings))
        except TypeError as reason:
            raise ArgumentError(f"augmentation {name!r} with {settings!r}: {reason}") from None

    def augment(x: Tensor, generator: torch.Generator) -> Tensor:
        for step in steps:
            x = step(x, generator)
        return x

    return augment
