"""Random numbers per example: what an example draws depends on the seed and its own index, not on its batch."""

from dataclasses import dataclass
from math import pi, prod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.rng import derive

GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15, the increment of SplitMix64, as a signed integer
FIRST, SECOND = -4658895280553007687, -7723592293110705685  # its two multipliers
LOW = {shift: (1 << (64 - shift)) - 1 for shift in (11, 27, 30, 31)}


def _shift(bits: Tensor, by: int) -> Tensor:
    return (bits >> by).bitwise_and_(LOW[by])  # logical, where torch's shift keeps the sign


def _mix(bits: Tensor) -> Tensor:
    for by, factor in ((30, FIRST), (27, SECOND)):
        bits = _shift(bits, by).bitwise_xor_(bits).mul_(factor)
    return _shift(bits, 31).bitwise_xor_(bits)


@dataclass(frozen=True)
class Draws:
    """A stream of random numbers for each example of a batch.

    Finished examples leave a batch and batches are cut at will; a shared generator would then give the others
    different numbers. Here number j of draw `name` of example i is a hash of (seed, name, i, j).

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014 (the mixing function).

    >>> one, many = Draws(0, torch.tensor([2])), Draws(0, torch.arange(3))
    >>> bool((one.uniform((4,), "start") == many.uniform((4,), "start")[2:]).all())
    True
    """

    seed: int
    index: Int[Tensor, "n"]

    def keep(self, rows: Int[Tensor, "m"] | Bool[Tensor, "n"]) -> "Draws":
        """The streams of some of the examples."""
        return Draws(self.seed, self.index[rows])

    def uniform(self, shape: tuple[int, ...], *name: object) -> Float[Tensor, "n ..."]:
        """Numbers in [0, 1), float64, of shape (N, *shape)."""
        base = derive(self.seed, *name)
        keys = _mix((self.index + 1) * GOLDEN + base)  # (N,)
        counter = torch.arange(prod(shape), device=self.index.device) * GOLDEN  # (D,)
        bits = _mix(keys[:, None] + counter)  # (N, D)
        return _shift(bits, 11).double().mul_(2.0**-53).view(-1, *shape)

    def normal(self, shape: tuple[int, ...], *name: object) -> Float[Tensor, "n ..."]:
        """Standard normal numbers, float64, of shape (N, *shape)."""
        radius = (-2 * torch.log1p(-self.uniform(shape, *name, "radius"))).sqrt()
        return radius * torch.cos(2 * pi * self.uniform(shape, *name, "angle"))

    def sign(self, shape: tuple[int, ...], *name: object) -> Float[Tensor, "n ..."]:
        """Numbers −1 or 1, float64, of shape (N, *shape)."""
        return torch.where(self.uniform(shape, *name) < 0.5, -1.0, 1.0).double()

    def integer(self, high: int | Int[Tensor, "n"], *name: object) -> Int[Tensor, "n"]:
        """One integer in 0 … high − 1 for each example."""
        return (self.uniform((), *name) * high).long()
