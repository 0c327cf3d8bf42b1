"""Small models that hold what other tools stumble over: functional and in-place ReLUs, reused modules, branches."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """A residual block whose one in-place ReLU is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.relu(self.norm(self.conv(x))) + x)


class Reused(nn.Module):
    """The same block twice, functional activations, pooling, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.stem = nn.Sequential(nn.Conv2d(3, 3, 3, stride=2), nn.ReLU())
        self.pool = nn.MaxPool2d(2)
        self.norm = nn.LayerNorm(3)
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.block(x))
        x = self.pool(self.stem(x)).mean((2, 3))
        return self.head(F.gelu(self.norm(x)))


def reused(seed: int = 0) -> nn.Module:
    """A `Reused` in float64 with running statistics that are not trivial."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Reused().double()
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)
    return model


def images(batch: int = 3, size: int = 9) -> Tensor:
    """Random images in float64."""
    return torch.randn(batch, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
