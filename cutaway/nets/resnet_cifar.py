"""Residual and plain networks for 32×32 images, of 6n + 2 layers."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.errors import ArgumentError
from cutaway.nets.norms import norm as make_norm
from cutaway.nets.shorthand import shorthand

Norm = Callable[[int], nn.Module]  # channels -> module


class CifarBlock(nn.Module):
    """Two 3×3 convolutions, with (option A) or without a shortcut."""

    def __init__(self, channels: int, width: int, stride: int, residual: bool, norm: Norm) -> None:
        super().__init__()
        self.stride, self.missing, self.residual = stride, width - channels, residual
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = norm(width)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x) if self.residual else y)

    def shortcut(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        """Option A: every second pixel, and zeros for the channels that are missing, half of them on each side."""
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.missing // 2, self.missing - self.missing // 2)) if self.missing else x


def stage(channels: int, width: int, stride: int, blocks: int, residual: bool, norm: Norm) -> nn.Sequential:
    """Blocks of one resolution; the first takes the stride."""
    rest = [CifarBlock(width, width, 1, residual, norm) for _ in range(blocks - 1)]
    return nn.Sequential(CifarBlock(channels, width, stride, residual, norm), *rest)


class CifarResNet(nn.Module):
    """See `resnet_cifar`."""

    def __init__(self, blocks: int, classes: int, residual: bool, width: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = norm(width)
        self.layer1 = stage(width, width, 1, blocks, residual, norm)
        self.layer2 = stage(width, 2 * width, 2, blocks, residual, norm)
        self.layer3 = stage(2 * width, 4 * width, 2, blocks, residual, norm)
        self.linear = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k"]:
        x = F.relu(self.bn1(self.conv1(x)))  # (N, 16, 32, 32)
        x = self.layer3(self.layer2(self.layer1(x)))  # (N, 64, 8, 8)
        return self.linear(x.mean((2, 3)))  # (N, classes)


def resnet_cifar(
    depth: int, classes: int = 10, residual: bool = True, width: int = 16, norm: str = "batch", groups: int = 8
) -> CifarResNet:
    """ResNet of 6n + 2 layers for 32×32 images, shortcuts without parameters (option A).

    `resnet20_cifar()`, 32, 44, 56, 110 and 1202, and without shortcuts `plain20_cifar()`, 32, 44, 56, 110 are short for
    it. The names of the parameters are those of github.com/akamaster/pytorch_resnet_cifar10.

    Args:
        depth: number of layers with weights: 20, 26, 32, …
        classes: number of outputs.
        residual: False makes the plain network.
        width: channels of the first stage.
        norm: after every convolution: "batch" as the paper, "layer", "instance" or "group", see `norm`.
        groups: of channels, for "group".

    Raises:
        ArgumentError: when depth is not 6n + 2, or groups do not divide the channels.
        LookupFailure: for an unknown norm.

    Source: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", 2016, section 4.2.

    >>> sum(p.numel() for p in resnet_cifar(20).parameters())
    269722
    """
    if depth < 8 or depth % 6 != 2:
        raise ArgumentError(f"resnet_cifar({depth}): expected a depth of 6n + 2, such as 20, 32, 44, 56, 110 or 1202")
    return CifarResNet((depth - 2) // 6, classes, residual, width, partial(make_norm, norm, groups=groups))


resnet20_cifar, resnet32_cifar, resnet44_cifar, resnet56_cifar, resnet110_cifar, resnet1202_cifar = (
    shorthand(resnet_cifar, depth) for depth in (20, 32, 44, 56, 110, 1202)
)
plain20_cifar, plain32_cifar, plain44_cifar, plain56_cifar, plain110_cifar = (
    shorthand(resnet_cifar, depth, residual=False) for depth in (20, 32, 44, 56, 110)
)
