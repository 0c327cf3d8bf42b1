"""GoogLeNet (Inception v1)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ConvNorm(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=0.001)
        nn.init.trunc_normal_(self.conv.weight, 0, 0.01, -2, 2)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        return F.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    """Four branches side by side: 1×1, 3×3, 5×5 (or 3×3, see `googlenet`) and pooling."""

    def __init__(self, channels: int, widths: tuple[int, ...], kernel: int) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, project = widths
        self.branch1 = ConvNorm(channels, one, 1)
        self.branch2 = nn.Sequential(ConvNorm(channels, reduce3, 1), ConvNorm(reduce3, three, 3))
        self.branch3 = nn.Sequential(ConvNorm(channels, reduce5, 1), ConvNorm(reduce5, five, kernel))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), ConvNorm(channels, project, 1))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNet(nn.Module):
    """See `googlenet`."""

    unused = ("aux1.", "aux2.")  # torchvision's files hold the auxiliary classifiers, which serve training alone

    def __init__(self, classes: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, 64, 7, 2)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = ConvNorm(64, 64, 1)
        self.conv3 = ConvNorm(64, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        # Table 1: 1×1, reduced and 3×3, reduced and 5×5, projected after pooling.
        self.inception3a = Inception(192, (64, 96, 128, 16, 32, 32), kernel)
        self.inception3b = Inception(256, (128, 128, 192, 32, 96, 64), kernel)
        self.maxpool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception4a = Inception(480, (192, 96, 208, 16, 48, 64), kernel)
        self.inception4b = Inception(512, (160, 112, 224, 24, 64, 64), kernel)
        self.inception4c = Inception(512, (128, 128, 256, 24, 64, 64), kernel)
        self.inception4d = Inception(512, (112, 144, 288, 32, 64, 64), kernel)
        self.inception4e = Inception(528, (256, 160, 320, 32, 128, 128), kernel)
        self.maxpool4 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.inception5a = Inception(832, (256, 160, 320, 32, 128, 128), kernel)
        self.inception5b = Inception(832, (384, 192, 384, 48, 128, 128), kernel)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(1024, classes)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k"]:
        x = self.maxpool1(self.conv1(x))  # (N, 64, 56, 56) from 224
        x = self.maxpool2(self.conv3(self.conv2(x)))  # (N, 192, 28, 28)
        x = self.maxpool3(self.inception3b(self.inception3a(x)))  # (N, 480, 14, 14)
        x = self.inception4c(self.inception4b(self.inception4a(x)))  # (N, 512, 14, 14)
        x = self.maxpool4(self.inception4e(self.inception4d(x)))  # (N, 832, 7, 7)
        x = self.inception5b(self.inception5a(x))  # (N, 1024, 7, 7)
        return self.fc(self.dropout(torch.flatten(self.avgpool(x), 1)))  # (N, classes)


def googlenet(classes: int = 1000, kernel: int = 3, dropout: float = 0.2) -> GoogLeNet:
    """GoogLeNet with batch norm and torchvision's names, without the auxiliary classifiers (6,624,904 parameters).

    torchvision's published weights expect inputs in [-1, 1]: `normalized(model, mean=0.5, std=0.5)`.

    Args:
        classes: number of outputs.
        kernel: of the third branch: 3 as in torchvision's weights, 5 as in the paper.
        dropout: probability of dropping a unit before the linear layer, in [0, 1); the paper has 0.4.

    Source: Szegedy et al., "Going deeper with convolutions", 2015, Table 1.

    >>> with torch.device("meta"):
    ...     sum(p.numel() for p in googlenet().parameters())
    6624904
    """
    return GoogLeNet(classes, kernel, dropout)
