"""Small networks trained in seconds on the embedded digits, and a linear one whose best attacks are known."""

import copy

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn


def images() -> tuple[torch.Tensor, torch.Tensor]:
    pixels, labels = load_digits(return_X_y=True)
    x = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16  # (1797, 1, 8, 8)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    return x[order], torch.tensor(labels)[order]


def small_net(classes: int = 10) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, classes),
    )


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int = 12) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="session")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Test images (297, 1, 8, 8) and labels."""
    x, y = images()
    return x[1500:], y[1500:]


@pytest.fixture(scope="session")
def net() -> nn.Module:
    """A network of two convolutions with batch norm, in evaluation mode."""
    torch.manual_seed(0)
    x, y = images()
    return train(small_net(), x[:1500], y[:1500])


@pytest.fixture(scope="session")
def exact(net) -> nn.Module:
    """The same network in float64."""
    return copy.deepcopy(net).double()


@pytest.fixture(scope="session")
def binary() -> nn.Module:
    """The same for the digits 0 and 1 only: two classes."""
    torch.manual_seed(0)
    x, y = images()
    rows = y[:1500] < 2
    return train(small_net(2), x[:1500][rows], y[:1500][rows])


@pytest.fixture(scope="session")
def linear() -> nn.Module:
    """Softmax regression in float64: the best perturbation of a given size is known in closed form."""
    torch.manual_seed(0)
    x, y = images()
    return train(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), x[:1500], y[:1500], 20).double()
