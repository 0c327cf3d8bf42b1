"""LeNet-1989 and LeNet-5."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.errors import ArgumentError
from cutaway.nets.layers import TableConv2d
from cutaway.nets.layers import activation as make_activation
from cutaway.nets.layers import pooling as make_pooling

# Table I of LeCun et al. 1998: the maps of S2 that every map of C3 is connected to.
C3_TABLE = (
    *[tuple(sorted((i + j) % 6 for j in range(3))) for i in range(6)],  # three neighbours
    *[tuple(sorted((i + j) % 6 for j in range(4))) for i in range(6)],  # four neighbours
    *[(0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)],  # two pairs
    (0, 1, 2, 3, 4, 5),
)

# Which eight maps of H1 feed every map of H2: three groups of four, the scheme is not given in the paper.
H2_TABLE = (*[tuple(range(8))] * 4, *[tuple(range(4, 12))] * 4, *[(0, 1, 2, 3, 8, 9, 10, 11)] * 4)


class LeNet5(nn.Module):
    """See `lenet5`; the layers carry the paper's names."""

    def __init__(self, classes: int, channels: int, activation: str, pooling: str, connections: str) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(channels, 6, 5)
        self.act1 = make_activation(activation)
        self.s2 = make_pooling(pooling, 6)
        self.c3 = TableConv2d(C3_TABLE, 6, 5) if connections == "paper" else nn.Conv2d(6, 16, 5)
        self.act3 = make_activation(activation)
        self.s4 = make_pooling(pooling, 16)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.act5 = make_activation(activation)
        self.f6 = nn.Linear(120, 84)
        self.act6 = make_activation(activation)
        self.output = nn.Linear(84, classes)

    def forward(self, x: Float[Tensor, "n c 32 32"]) -> Float[Tensor, "n k"]:
        x = self.s2(self.act1(self.c1(x)))  # (N, 6, 28, 28) -> (N, 6, 14, 14)
        x = self.s4(self.act3(self.c3(x)))  # (N, 16, 10, 10) -> (N, 16, 5, 5)
        x = self.act5(self.c5(x)).flatten(1)  # (N, 120, 1, 1) -> (N, 120)
        x = self.act6(self.f6(x))  # (N, 84)
        return self.output(x)  # (N, classes)


def lenet5(
    classes: int = 10,
    channels: int = 1,
    activation: str = "tanh",
    pooling: str = "average",
    connections: str = "full",
) -> LeNet5:
    """LeNet-5 for `(N, channels, 32, 32)`: the sizes of the paper, with tanh, average pooling and a linear output.

    The default is the usual reading of the paper (61,706 parameters). The trainable part of the original to the letter
    (60,000 parameters up to F6) is `activation="scaled_tanh", pooling="subsample", connections="paper"`; its output
    layer of fixed bitmaps is a linear layer here. The modern variant is `activation="relu", pooling="max"`.

    Args:
        classes: number of outputs (logits).
        channels: channels of the input.
        activation: name of the activation, see `ACTIVATIONS`.
        pooling: "average", "max", "subsample" (average with a trainable coefficient and bias), … see `POOLINGS`.
        connections: of C3: "full" or "paper" (Table I).

    Raises:
        ArgumentError: for other connections, LookupFailure for an unknown activation or pooling.

    Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998, II.B.

    >>> lenet5()(torch.zeros(2, 1, 32, 32)).shape
    torch.Size([2, 10])
    """
    if connections not in ("full", "paper"):
        raise ArgumentError(f"connections={connections!r}: expected 'full' or 'paper'")
    return LeNet5(classes, channels, activation, pooling, connections)


class LeNet1989(nn.Module):
    """See `lenet1989`; the layers carry the paper's names."""

    def __init__(self, classes: int, activation: str, output_activation: str, dropout: float) -> None:
        super().__init__()
        self.h1 = nn.Conv2d(1, 12, 5, stride=2, bias=False)
        self.h1_bias = nn.Parameter(torch.zeros(12, 8, 8))
        self.act1 = make_activation(activation)
        self.h2 = TableConv2d(H2_TABLE, 12, 5, stride=2, bias=False)
        self.h2_bias = nn.Parameter(torch.zeros(12, 4, 4))
        self.act2 = make_activation(activation)
        self.dropout = nn.Dropout(dropout)
        self.h3 = nn.Linear(192, 30)
        self.act3 = make_activation(activation)
        self.out = nn.Linear(30, classes)
        self.act4 = make_activation(output_activation)
        for layer, fan_in in ((self.h1, 25), (self.h2, 200), (self.h3, 192), (self.out, 30)):
            nn.init.uniform_(layer.weight, -2.4 / fan_in**0.5, 2.4 / fan_in**0.5)
        nn.init.zeros_(self.h3.bias)
        nn.init.constant_(self.out.bias, -1.0)  # nine of ten targets are -1

    def forward(self, x: Float[Tensor, "n 1 16 16"]) -> Float[Tensor, "n k"]:
        x = F.pad(x, (2, 2, 2, 2), value=-1.0)  # (N, 1, 20, 20); -1 is the background
        x = self.act1(self.h1(x) + self.h1_bias)  # (N, 12, 8, 8)
        x = F.pad(x, (2, 2, 2, 2), value=-1.0)  # (N, 12, 12, 12)
        x = self.act2(self.h2(x) + self.h2_bias)  # (N, 12, 4, 4)
        x = self.act3(self.h3(self.dropout(x.flatten(1))))  # (N, 30)
        return self.act4(self.out(x))  # (N, classes)


def lenet1989(
    classes: int = 10, activation: str = "tanh", output_activation: str = "tanh", dropout: float = 0.0
) -> LeNet1989:
    """The network of 1989 for `(N, 1, 16, 16)` in [-1, 1]: 9,760 parameters, sparse H1→H2, biases not shared.

    For images in [0, 1] wrap it: `normalized(lenet1989(), mean=0.5, std=0.5, size=16)`.

    Args:
        classes: number of outputs.
        activation: of H1, H2 and H3, see `ACTIVATIONS`.
        output_activation: "tanh" for squared error on ±1 targets, "identity" for logits.
        dropout: probability of dropping a unit of H2 before H3, in [0, 1).

    Raises:
        LookupFailure: for an unknown activation.

    Source: LeCun et al., "Backpropagation applied to handwritten zip code recognition", 1989, section 3; the groups of
    H1→H2 and the padding by -1 follow Karpathy, "Deep neural nets: 33 years ago and 33 years from now", 2022.

    >>> sum(p.numel() for p in lenet1989().parameters())
    9760
    """
    return LeNet1989(classes, activation, output_activation, dropout)
