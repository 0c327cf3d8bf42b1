"""MobileNet v2."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.errors import ArgumentError

# Table 2 of the paper: expansion, channels, repeats, stride.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class SamePadConv2d(nn.Conv2d):
    """Convolution of stride 2 that pads below and to the right only, as TensorFlow's SAME does for even sizes."""

    def forward(self, input: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        return super().forward(F.pad(input, (0, 1, 0, 1)))


def _conv(
    channels: int, width: int, kernel: int, stride: int = 1, groups: int = 1, same: bool = False
) -> nn.Sequential:
    if same and stride == 2:
        conv = SamePadConv2d(channels, width, kernel, stride, 0, groups=groups, bias=False)
    else:
        conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """Widen by a 1×1 convolution, filter each channel by 3×3, narrow by 1×1 without activation."""

    def __init__(self, channels: int, width: int, stride: int, expansion: int, same: bool) -> None:
        super().__init__()
        inside = channels * expansion
        self.residual = stride == 1 and channels == width
        self.conv = nn.Sequential(
            *([_conv(channels, inside, 1)] if expansion > 1 else []),
            _conv(inside, inside, 3, stride, groups=inside, same=same),
            nn.Conv2d(inside, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """See `mobilenet_v2`."""

    def __init__(self, classes: int, same: bool, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, 32, 3, 2, same=same)]
        channels = 32
        for expansion, width, repeats, stride in STAGES:
            for place in range(repeats):
                layers.append(InvertedResidual(channels, width, stride if place == 0 else 1, expansion, same))
                channels = width
        self.features = nn.Sequential(*layers, _conv(channels, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(1280, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k"]:
        x = self.features(x)  # (N, 1280, 7, 7) from 224
        return self.classifier(x.mean((2, 3)))  # (N, classes)


def mobilenet_v2(classes: int = 1000, padding: str = "symmetric", dropout: float = 0.2) -> MobileNetV2:
    """MobileNet v2 with torchvision's names (3,504,872 parameters).

    Args:
        classes: number of outputs.
        padding: of convolutions of stride 2: "symmetric" as torchvision, or "same" as TensorFlow (below and to the
            right), which weights from TensorFlow need.
        dropout: probability of dropping a unit before the linear layer, in [0, 1).

    Raises:
        ArgumentError: for another padding.

    Source: Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", 2018, Table 2.

    >>> sum(p.numel() for p in mobilenet_v2().parameters())
    3504872
    """
    if padding not in ("symmetric", "same"):
        raise ArgumentError(f"padding={padding!r}: expected 'symmetric' or 'same'")
    return MobileNetV2(classes, padding == "same", dropout)
