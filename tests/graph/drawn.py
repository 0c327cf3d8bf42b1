"""A network with copies, reuse, branches and a shortcut, for the tests of pictures."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cutaway as ct
from cutaway.graph.graph import Graph
from cutaway.graph.outline import Box


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv2(F.relu(self.conv1(x))))


class Net3(nn.Module):
    """A stem, three equal blocks, two branches that meet, one layer used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.blocks = nn.Sequential(Block(4), Block(4), Block(4))
        self.left, self.right = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 3, 3, padding=1)
        self.mix = nn.Linear(5, 5)
        self.idle = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        x = torch.cat([self.left(x), self.right(x)], 1).mean((2, 3))
        for _ in range(3):
            x = torch.tanh(self.mix(x))
        return x


def captured() -> Graph:
    """The network's graph; the weights live as long as it does."""
    torch.manual_seed(0)
    model = Net3()
    graph = ct.capture(model, torch.randn(2, 1, 6, 6))
    graph.kept = model  # type: ignore[attr-defined]
    return graph


def named(root: Box, path: str, kind: str | None = None) -> Box:
    return next(box for box in root.walk() if box.path == path and kind in (None, box.kind))
