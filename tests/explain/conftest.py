"""Small networks written in the ways that methods with hooks get wrong, and one trained on the digits."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F


class Mixed(nn.Module):
    """Functional, in-place, method-call and clamp ReLUs; a convolution and an activation used twice; batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.act = nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(inplace=True)
        self.fc1, self.fc2 = nn.Linear(6 * 4 * 4, 12), nn.Linear(12, 5)

    def rectify(self, x: torch.Tensor, kind: str) -> torch.Tensor:
        return {
            "module": lambda: self.act(x),
            "functional": lambda: F.relu(x),
            "method": lambda: x.relu_(),
            "clamp": lambda: x.clamp(min=0),
        }[kind]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.rectify(self.norm(self.conv1(x)), "module")  # (N, 6, 8, 8)
        x = self.rectify(self.conv2(x), "module") + x
        x = self.rectify(self.conv2(x), "functional")
        x = F.max_pool2d(self.rectify(x * 1.5 - 0.05, "method"), 2)  # (N, 6, 4, 4)
        return self.fc2(self.rectify(self.fc1(x.flatten(1)), "clamp"))


class Pooled(nn.Module):
    """Two convolutions, global average pooling and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.head = nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.Linear(8, 5)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv2(F.relu(self.norm(self.conv1(x)))))  # (N, 8, 4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.maps(x).mean((2, 3)))


class Block(nn.Module):
    """A transformer's block with fused attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (N, heads, T, c)
        x = x + self.proj(self.attend(q, k, v).transpose(1, 2).reshape(n, t, c))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class TinyViT(nn.Module):
    """A vision transformer for images (N, 3, 8, 8): 4×4 patches, a class token, two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 2, 2)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 12)), nn.Parameter(torch.randn(1, 17, 12))
        self.blocks = nn.Sequential(Block(12, 3), Block(12, 3))
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x).flatten(2).transpose(1, 2)  # (N, 16, 12)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


@pytest.fixture
def pooled() -> Pooled:
    return Pooled().double()


@pytest.fixture
def vit() -> TinyViT:
    return TinyViT().double()


@pytest.fixture
def mixed() -> Mixed:
    net = Mixed().double()
    with torch.no_grad():
        net.norm.running_mean.normal_(0, 0.1)
        net.norm.running_var.uniform_(0.5, 2)
        net.norm.weight.uniform_(0.5, 2)
        net.norm.bias.normal_(0, 0.1)
    return net.train()  # instruments explain in evaluation mode and leave the mode alone


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(3, 3, 8, 8, dtype=torch.float64)


def digits_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 24, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * 16, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


@pytest.fixture(scope="session")
def digits() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A network trained on 1500 digits (over 85 % right on the rest), 24 test images and their labels."""
    bunch = load_digits()
    images = torch.tensor(bunch.images / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(bunch.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = digits_net()
        optimizer = torch.optim.Adam(net.parameters(), 2e-3)
        for _ in range(6):
            for batch in torch.randperm(1500).split(50):
                loss = F.cross_entropy(net(images[batch]), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    optimizer.zero_grad()
    assert (net(images[1500:]).argmax(1) == labels[1500:]).double().mean() > 0.85
    return net, images[1500:1524], labels[1500:1524]
