"""Networks with known troubles."""

import torch
from torch import nn
from torch.nn import functional as F


def deep(activation, layers=12, width=32, gain=1.0, outputs=4, seed=0) -> nn.Sequential:
    """Linear layers with weights of standard deviation gain / sqrt(width), each followed by an activation."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for _ in range(layers):
        linear = nn.Linear(width, width)
        with torch.no_grad():
            linear.weight.copy_(torch.randn(width, width, generator=generator) * gain / width**0.5)
            linear.bias.zero_()
        parts += [linear, activation()]
    return nn.Sequential(*parts, nn.Linear(width, outputs))


class Residual(nn.Module):
    """Two residual blocks, one with an activation after the sum, one without; ReLUs written three ways."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.norm, self.act, self.head = nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Linear(4, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = self.act(self.a(x) + x)
        x = self.b(x).clamp(min=0) + x
        return self.head(x.mean((2, 3)))
