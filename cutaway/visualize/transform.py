"""Random transformations that an optimised image has to survive: all of one image's together are one resampling."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cutaway.errors import ArgumentError

Size = tuple[int, int]


class Transformation(Protocol):
    """Draws, for each image, where its pixels are read from."""

    def draw(self, n: int, size: Size, random: torch.Generator) -> Float[Tensor, "n 3 3"]:
        """Matrices that take places (x, y, 1) of the new image, in pixels from its centre, to those of the old."""
        ...


@dataclass(frozen=True)
class Jitter:
    """A shift by whole pixels, up to `pixels` in each direction.

    >>> Jitter(2).draw(1, (8, 8), torch.Generator()).shape
    torch.Size([1, 3, 3])
    """

    pixels: int

    def draw(self, n: int, size: Size, random: torch.Generator) -> Float[Tensor, "n 3 3"]:
        """See `Transformation`."""
        shift = torch.randint(-self.pixels, self.pixels + 1, (n, 2), generator=random).float()
        matrix = torch.eye(3).repeat(n, 1, 1)
        matrix[:, :2, 2] = shift
        return matrix


@dataclass(frozen=True)
class Scale:
    """A change of size, by a factor between `low` and `high`.

    >>> float(Scale(2.0, 2.0).draw(1, (8, 8), torch.Generator())[0, 0, 0])
    0.5
    """

    low: float
    high: float

    def draw(self, n: int, size: Size, random: torch.Generator) -> Float[Tensor, "n 3 3"]:
        """See `Transformation`."""
        return _linear(1 / _between(self.low, self.high, n, random), torch.zeros(n))


@dataclass(frozen=True)
class Rotate:
    """A rotation about the centre by up to `degrees` either way.

    >>> Rotate(5).draw(1, (8, 8), torch.Generator()).shape
    torch.Size([1, 3, 3])
    """

    degrees: float

    def draw(self, n: int, size: Size, random: torch.Generator) -> Float[Tensor, "n 3 3"]:
        """See `Transformation`."""
        reach = math.radians(self.degrees)
        return _linear(torch.ones(n), _between(-reach, reach, n, random))


@dataclass(frozen=True)
class Crop:
    """A square cut out at random and enlarged to the whole; its side is between `low` and `high` of the image's.

    Source: T. Fel et al., Unlocking Feature Visualization for Deeper Networks with MAgnitude Constrained Optimization,
    2023, section 3.

    >>> Crop(0.5, 0.5).draw(1, (8, 8), torch.Generator())[0, 0, 0].item()
    0.5
    """

    low: float
    high: float

    def draw(self, n: int, size: Size, random: torch.Generator) -> Float[Tensor, "n 3 3"]:
        """See `Transformation`."""
        share = _between(self.low, self.high, n, random)
        matrix = _linear(share, torch.zeros(n))
        room = (1 - share)[:, None] / 2 * torch.tensor([size[1], size[0]])  # (N, 2), from the centre
        matrix[:, :2, 2] = (2 * torch.rand(n, 2, generator=random) - 1) * room
        return matrix


# Source: tensorflow/lucid, optvis/transform.py, 2018 ("standard_transforms"), in one resampling
ROBUST: tuple[Transformation, ...] = (Jitter(8), Scale(0.9, 1.1), Rotate(10), Jitter(4))


def transformed(
    images: Float[Tensor, "n c h w"], steps: Sequence[Transformation], random: torch.Generator
) -> Float[Tensor, "n c h w"]:
    """Apply transformations one after the other, differentiably; beyond its edges an image is mirrored.

    Args:
        images: (N, C, H, W), each transformed in its own way.
        steps: transformations; none leave the images as they are.
        random: draws them.

    Raises:
        ArgumentError: what is transformed are no images.

    >>> x = torch.rand(1, 3, 8, 8)
    >>> torch.allclose(transformed(x, [Scale(1.0, 1.0)], torch.Generator()), x, atol=1e-6)
    True
    """
    if not steps:
        return images
    if images.dim() != 4:
        raise ArgumentError(
            f"images (N, C, H, W) can be transformed, got shape {tuple(images.shape)}; pass transformation=()"
        )
    n, (height, width) = len(images), images.shape[-2:]
    matrix = torch.eye(3).repeat(n, 1, 1)
    for step in steps:
        matrix = matrix @ step.draw(n, (height, width), random)  # the last step's places are taken first
    unit = torch.tensor([width / 2, height / 2, 1.0])  # grid_sample counts from −1 to 1
    theta = (matrix * unit / unit[:, None])[:, :2].to(images)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _between(low: float, high: float, n: int, random: torch.Generator) -> Float[Tensor, " n"]:
    """Uniform numbers."""
    return low + (high - low) * torch.rand(n, generator=random)


def _linear(factor: Float[Tensor, " n"], angle: Float[Tensor, " n"]) -> Float[Tensor, "n 3 3"]:
    """A scaling and a rotation."""
    matrix = torch.zeros(len(factor), 3, 3)
    matrix[:, 0, 0], matrix[:, 0, 1] = factor * angle.cos(), -factor * angle.sin()
    matrix[:, 1, 0], matrix[:, 1, 1] = factor * angle.sin(), factor * angle.cos()
    matrix[:, 2, 2] = 1
    return matrix
