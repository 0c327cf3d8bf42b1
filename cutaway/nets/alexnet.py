"""AlexNet."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class AlexNet(nn.Module):
    """See `alexnet`."""

    def __init__(self, features: nn.Sequential, channels: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(channels * 36, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, classes),
        )

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k"]:
        x = self.avgpool(self.features(x))  # (N, 256, 6, 6)
        return self.classifier(torch.flatten(x, 1))  # (N, classes)


def alexnet(classes: int = 1000, dropout: float = 0.5) -> AlexNet:
    """AlexNet in one column, with the names and sizes of torchvision's state dicts (61,100,840 parameters).

    Args:
        classes: number of outputs.
        dropout: probability of dropping a unit before the first two linear layers, in [0, 1).

    Source: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014.

    >>> with torch.device("meta"):
    ...     alexnet()(torch.zeros(1, 3, 224, 224)).shape
    torch.Size([1, 1000])
    """
    features = nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
    )
    return AlexNet(features, 256, classes, dropout)


def alexnet2012(classes: int = 1000, dropout: float = 0.5) -> AlexNet:
    """AlexNet as it won in 2012: two columns (grouped convolutions), response normalisation (60,965,224 parameters).

    Args:
        classes: number of outputs.
        dropout: probability of dropping a unit before the first two linear layers, in [0, 1).

    Source: Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks", 2012,
    section 3; the input is 227×227, which the paper calls 224.

    >>> with torch.device("meta"):
    ...     sum(p.numel() for p in alexnet2012().parameters())
    60965224
    """
    features = nn.Sequential(
        nn.Conv2d(3, 96, 11, stride=4),  # (N, 96, 55, 55)
        nn.ReLU(inplace=True),
        nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2),  # torch divides alpha by the size, the paper does not
        nn.MaxPool2d(3, 2),  # (N, 96, 27, 27)
        nn.Conv2d(96, 256, 5, padding=2, groups=2),
        nn.ReLU(inplace=True),
        nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2),
        nn.MaxPool2d(3, 2),  # (N, 256, 13, 13)
        nn.Conv2d(256, 384, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 384, 3, padding=1, groups=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, 3, padding=1, groups=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),  # (N, 256, 6, 6)
    )
    return AlexNet(features, 256, classes, dropout)
