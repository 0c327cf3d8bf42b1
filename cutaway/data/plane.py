"""The classic two-dimensional sets: moons, circles, spirals, XOR, checkerboard."""

import math

import torch
from torch import Tensor

from cutaway.data.dataset import Dataset, Parts
from cutaway.errors import ArgumentError
from cutaway.rng import generator


def _make(name: str, x: Tensor, y: Tensor, noise: float, source: torch.Generator) -> Parts:
    x = x + noise * torch.randn(x.shape, generator=source)
    classes = tuple(str(label) for label in range(int(y.max()) + 1))
    return Parts(Dataset(x, y, classes, name, f"generated {name}"))


def _sizes(n: int, classes: int) -> Tensor:
    """Labels `(N,)` in equal numbers."""
    if n < 2 * classes:
        raise ArgumentError(f"n={n}: expected at least {2 * classes} points")
    return torch.arange(n) % classes


def moons(n: int = 1000, noise: float = 0.1, seed: int = 0) -> Parts:
    """Two interleaving half circles of radius 1, see `load`.

    >>> moons(10).train.x.shape
    torch.Size([10, 2])
    """
    source, y = generator(seed, "moons"), _sizes(n, 2)
    angle = math.pi * torch.rand(n, generator=source)
    upper = torch.stack([angle.cos(), angle.sin()], 1)
    lower = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1)
    return _make("moons", torch.where(y[:, None] == 0, upper, lower), y, noise, source)


def circles(n: int = 1000, noise: float = 0.05, factor: float = 0.5, seed: int = 0) -> Parts:
    """A circle of radius 1 (class 0) around one of radius `factor`.

    >>> circles(10, noise=0.0).train.x[0].norm().round(decimals=3).item()
    1.0
    """
    source, y = generator(seed, "circles"), _sizes(n, 2)
    angle = 2 * math.pi * torch.rand(n, generator=source)
    radius = torch.where(y == 0, 1.0, factor)
    return _make("circles", torch.stack([angle.cos(), angle.sin()], 1) * radius[:, None], y, noise, source)


def spirals(n: int = 1000, noise: float = 0.02, arms: int = 2, turns: float = 1.5, seed: int = 0) -> Parts:
    """Spirals of radius 0 to 1 that start at the centre, one a class.

    >>> spirals(12, arms=3).train.classes
    ('0', '1', '2')
    """
    source, y = generator(seed, "spirals"), _sizes(n, arms)
    radius = torch.rand(n, generator=source).sqrt()
    angle = 2 * math.pi * (turns * radius + y / arms)
    return _make("spirals", torch.stack([angle.cos(), angle.sin()], 1) * radius[:, None], y, noise, source)


def xor(n: int = 1000, noise: float = 0.0, seed: int = 0) -> Parts:
    """The square [-1, 1]², class 1 where the signs of the coordinates differ.

    >>> part = xor(100).train
    >>> torch.equal(part.y == 1, part.x[:, 0] * part.x[:, 1] < 0)
    True
    """
    source = generator(seed, "xor")
    x = 2 * torch.rand(len(_sizes(n, 2)), 2, generator=source) - 1
    return _make("xor", x, ((x[:, 0] > 0) != (x[:, 1] > 0)).long(), noise, source)


def checkerboard(n: int = 1000, noise: float = 0.0, squares: int = 4, seed: int = 0) -> Parts:
    """The square [-1, 1]² as a board of squares × squares fields in two classes.

    >>> checkerboard(100).train.y.unique().tolist()
    [0, 1]
    """
    source = generator(seed, "checkerboard")
    x = 2 * torch.rand(len(_sizes(n, 2)), 2, generator=source) - 1
    field = ((x + 1) / 2 * squares).floor().clamp(max=squares - 1).long()  # (N, 2)
    return _make("checkerboard", x, field.sum(1) % 2, noise, source)
