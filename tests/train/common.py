"""Small data and networks that the tests of training share."""

import torch
from torch import Tensor, nn

from cutaway.rng import generator


def blobs(n: int = 96, classes: int = 3, seed: int = 0, spread: float = 0.4) -> tuple[Tensor, Tensor]:
    """Points around the corners of a polygon, `(N, 2)`, and their corner, `(N,)`."""
    draw = generator(seed, "blobs")
    y = torch.arange(n) % classes
    angle = y * (2 * torch.pi / classes)
    centre = torch.stack([angle.cos(), angle.sin()], 1)  # (N, 2)
    return centre + spread * torch.randn(n, 2, generator=draw), y


def seeded(make: object, seed: int = 0) -> nn.Module:
    """A network with initial weights fixed by the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()  # type: ignore[operator]


def small_net(dropout: float = 0.25, norm: bool = True) -> nn.Module:
    """A multi-layer perceptron with everything that carries hidden state: batch norm and dropout."""

    def make() -> nn.Module:
        layers = [nn.Linear(2, 16), *([nn.BatchNorm1d(16)] if norm else []), nn.ReLU(), nn.Dropout(dropout)]
        return nn.Sequential(*layers, nn.Linear(16, 3))

    return seeded(make)


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    """Whether two networks agree in every bit of weights and buffers."""
    left, right = a.state_dict(), b.state_dict()
    return list(left) == list(right) and all(torch.equal(left[name], right[name]) for name in left)
