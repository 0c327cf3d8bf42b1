"""Residual networks for ImageNet, 18 to 152 layers."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.errors import ArgumentError
from cutaway.nets.shorthand import shorthand

# Table 1 of the paper: blocks in each of the four stages, and whether they are bottlenecks.
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(channels, width, stride)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        kept = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + kept)


class Bottleneck(nn.Module):
    """Convolutions of 1×1 (narrow), 3×3 and 1×1 (four times as wide), and a shortcut."""

    def __init__(self, channels: int, width: int, stride: int, stride_in: str) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_in == "conv1" else (1, stride)
        self.conv1 = nn.Conv2d(channels, width, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, second, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = shortcut(channels, 4 * width, stride)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        kept = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + kept)


def shortcut(channels: int, width: int, stride: int) -> nn.Sequential | None:
    """Option B: a projection where the shape changes, else the identity (None)."""
    if stride == 1 and channels == width:
        return None
    return nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))


def stage(
    block: Callable[[int, int, int], nn.Module], channels: int, width: int, stride: int, repeats: int, expansion: int
) -> nn.Sequential:
    """Blocks of one resolution; the first takes the stride."""
    rest = [block(width * expansion, width, 1) for _ in range(repeats - 1)]
    return nn.Sequential(block(channels, width, stride), *rest)


class ResNet(nn.Module):
    """See `resnet`."""

    def __init__(self, blocks: tuple[int, ...], bottleneck: bool, classes: int, stride_in: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        expansion = 4 if bottleneck else 1
        inside = (64, 64 * expansion, 128 * expansion, 256 * expansion)  # channels that enter each stage
        block = partial(Bottleneck, stride_in=stride_in) if bottleneck else BasicBlock
        self.layer1 = stage(block, inside[0], 64, 1, blocks[0], expansion)
        self.layer2 = stage(block, inside[1], 128, 2, blocks[1], expansion)
        self.layer3 = stage(block, inside[2], 256, 2, blocks[2], expansion)
        self.layer4 = stage(block, inside[3], 512, 2, blocks[3], expansion)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * expansion, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k"]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (N, 64, 56, 56) from 224
        x = self.layer2(self.layer1(x))  # (N, 64·e, 56, 56) -> (N, 128·e, 28, 28); e is 4 with bottlenecks, else 1
        x = self.layer4(self.layer3(x))  # (N, 256·e, 14, 14) -> (N, 512·e, 7, 7)
        return self.fc(torch.flatten(self.avgpool(x), 1))  # (N, classes)


def resnet(depth: int, classes: int = 1000, stride_in: str = "conv2") -> ResNet:
    """ResNet of 18, 34, 50, 101 or 152 layers with torchvision's names; `resnet18()` … are short for it.

    Args:
        depth: number of layers with weights.
        classes: number of outputs.
        stride_in: where bottlenecks halve the resolution: "conv2" as torchvision, "conv1" as the paper.

    Raises:
        ArgumentError: for another depth or place of the stride.

    Source: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", 2016, Table 1.

    >>> with torch.device("meta"):
    ...     sum(p.numel() for p in resnet(18).parameters())
    11689512
    """
    if depth not in DEPTHS or stride_in not in ("conv1", "conv2"):
        known = ", ".join(map(str, DEPTHS))
        raise ArgumentError(
            f"resnet({depth}, stride_in={stride_in!r}): expected a depth of {known}, 'conv1' or 'conv2'"
        )
    return ResNet(*DEPTHS[depth], classes, stride_in)


resnet18, resnet34, resnet50, resnet101, resnet152 = (shorthand(resnet, depth) for depth in DEPTHS)
