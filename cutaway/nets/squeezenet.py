"""SqueezeNet 1.0 and 1.1."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Fire(nn.Module):
    """A 1×1 convolution that squeezes the channels, then 1×1 and 3×3 convolutions side by side."""

    def __init__(self, channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        x = F.relu(self.squeeze(x))  # (N, squeeze, H, W)
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)  # (N, 2·expand, H, W)


class SqueezeNet(nn.Module):
    """See `squeezenet1_0` and `squeezenet1_1`."""

    def __init__(self, features: nn.Sequential, classes: int, dropout: float) -> None:
        super().__init__()
        self.features = features
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), nn.Conv2d(512, classes, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.classifier[1].weight, 0, 0.01)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k"]:
        x = self.classifier(self.features(x))  # (N, classes, 1, 1)
        return torch.flatten(x, 1)  # (N, classes)


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


def squeezenet1_0(classes: int = 1000, dropout: float = 0.5) -> SqueezeNet:
    """SqueezeNet 1.0 with torchvision's names (1,248,424 parameters).

    Args:
        classes: number of outputs.
        dropout: probability of dropping a unit before the last convolution, in [0, 1).

    Source: Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters", 2016, Table 1.

    >>> sum(p.numel() for p in squeezenet1_0().parameters())
    1248424
    """
    features = nn.Sequential(
        *[nn.Conv2d(3, 96, 7, stride=2), nn.ReLU(inplace=True), _pool()],
        *[Fire(96, 16, 64), Fire(128, 16, 64), Fire(128, 32, 128), _pool()],
        *[Fire(256, 32, 128), Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), _pool()],
        Fire(512, 64, 256),
    )
    return SqueezeNet(features, classes, dropout)


def squeezenet1_1(classes: int = 1000, dropout: float = 0.5) -> SqueezeNet:
    """SqueezeNet 1.1 with torchvision's names: 2.4 times fewer multiply-adds than 1.0 (1,235,496 parameters).

    Args:
        classes: number of outputs.
        dropout: probability of dropping a unit before the last convolution, in [0, 1).

    Source: Iandola et al., github.com/forresti/SqueezeNet, SqueezeNet_v1.1, 2016.

    >>> sum(p.numel() for p in squeezenet1_1().parameters())
    1235496
    """
    features = nn.Sequential(
        *[nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(inplace=True), _pool()],
        *[Fire(64, 16, 64), Fire(128, 16, 64), _pool()],
        *[Fire(128, 32, 128), Fire(256, 32, 128), _pool()],
        *[Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)],
    )
    return SqueezeNet(features, classes, dropout)
