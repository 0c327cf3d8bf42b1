"""VGG networks of 11 to 19 layers, with or without batch norm."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.errors import ArgumentError
from cutaway.nets.shorthand import shorthand

# Table 1 of the paper: convolutions of 3×3 in each of the five stages.
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """See `vgg`."""

    def __init__(self, features: nn.Sequential, classes: int, dropout: float) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k"]:
        x = self.avgpool(self.features(x))  # (N, 512, 7, 7)
        return self.classifier(torch.flatten(x, 1))  # (N, classes)


def vgg(depth: int, classes: int = 1000, batch_norm: bool = False, dropout: float = 0.5) -> VGG:
    """VGG of 11, 13, 16 or 19 layers with torchvision's names; `vgg11()` … `vgg19_bn()` are short for it.

    Args:
        depth: number of layers with weights.
        classes: number of outputs.
        batch_norm: whether batch norm follows every convolution.
        dropout: probability of dropping a unit after the first two linear layers, in [0, 1).

    Raises:
        ArgumentError: for another depth.

    Source: Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition", 2015, Table 1.

    >>> with torch.device("meta"):
    ...     sum(p.numel() for p in vgg(16).parameters())
    138357544
    """
    if depth not in DEPTHS:
        raise ArgumentError(f"vgg({depth}): expected a depth of {', '.join(map(str, DEPTHS))}")
    layers: list[nn.Module] = []
    channels = 3
    for width, repeats in zip(WIDTHS, DEPTHS[depth], strict=True):
        for _ in range(repeats):
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            layers += [nn.BatchNorm2d(width)] if batch_norm else []
            layers.append(nn.ReLU(inplace=True))
            channels = width
        layers.append(nn.MaxPool2d(2))
    return VGG(nn.Sequential(*layers), classes, dropout)


vgg11, vgg13, vgg16, vgg19 = (shorthand(vgg, depth) for depth in DEPTHS)
vgg11_bn, vgg13_bn, vgg16_bn, vgg19_bn = (shorthand(vgg, depth, batch_norm=True) for depth in DEPTHS)
