"""A small network with batch norm, a residual sum and a functional ReLU."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F


class Small(nn.Module):
    """Two convolutions, a residual sum and a linear head, for images (N, 3, 12, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.head = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 4)

    def maps(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first = F.relu(self.norm(self.conv1(x)))  # (N, 6, 12, 12)
        return first, F.relu(self.conv2(first)) + first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.maps(x)[1].mean((2, 3)))


@pytest.fixture
def small() -> Small:
    net = Small()
    with torch.no_grad():
        net.norm.running_mean.normal_(0, 0.1)
        net.norm.running_var.uniform_(0.5, 2)
    return net.train()  # looked at in evaluation mode; the mode itself stays


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(2, 3, 12, 12)
