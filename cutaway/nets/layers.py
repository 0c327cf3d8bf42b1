"""Activations and poolings by name, and the layers torch lacks."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.errors import ArgumentError, nearest


class ScaledTanh(nn.Module):
    """The squashing function 1.7159 · tanh(2a/3), which maps ±1 to ±1.

    Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998, Appendix A.

    >>> round(ScaledTanh()(torch.ones(1)).item(), 3)
    1.0
    """

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return 1.7159 * torch.tanh(x * (2 / 3))


class Subsample(nn.Module):
    """Average pooling with one trainable coefficient and one trainable bias per channel.

    Args:
        channels: C of the input `(N, C, H, W)`.
        size: side of the pooled square and the stride.

    Source: LeCun et al., "Gradient-based learning applied to document recognition", 1998, section II.B, S2 and S4.

    >>> Subsample(6)(torch.zeros(1, 6, 28, 28)).shape
    torch.Size([1, 6, 14, 14])
    """

    def __init__(self, channels: int, size: int = 2) -> None:
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c p q"]:
        return F.avg_pool2d(x, self.size) * self.weight + self.bias


class MedianPool2d(nn.Module):
    """Median over non-overlapping squares; the mean of the middle two where their number is even.

    Args:
        size: side of the square and the stride.

    >>> MedianPool2d(2)(torch.tensor([[[[29.0, 15.0], [0.0, 100.0]]]])).item()
    22.0
    """

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c p q"]:
        x = x.unfold(2, self.size, self.size).unfold(3, self.size, self.size)  # (N, C, P, Q, S, S)
        ordered = x.flatten(4).sort(-1).values  # (N, C, P, Q, S·S)
        last = self.size**2 - 1
        return (ordered[..., last // 2] + ordered[..., last - last // 2]) / 2


class StridedPool2d(nn.Module):
    """The upper left pixel of non-overlapping squares: downsampling without pooling.

    Args:
        size: side of the square and the stride.

    >>> StridedPool2d(2)(torch.arange(16.0).reshape(1, 1, 4, 4)).flatten().tolist()
    [0.0, 2.0, 8.0, 10.0]
    """

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c p q"]:
        height, width = (side // self.size * self.size for side in x.shape[-2:])
        return x[..., : height : self.size, : width : self.size]


class Residual(nn.Module):
    """Residual connection H(x) = F(x) + x, or F(x) + shortcut(x) where F changes the shape.

    Its Jacobian is that of F plus the identity, so that gradients also pass where F's own vanish.

    Args:
        body: F; it must not change its input in place.
        shortcut: from `x` to the shape of `body(x)`; None is the identity.

    Raises:
        ArgumentError: when what is added differs in shape.

    Source: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", 2016, section 3.1 and 3.2.

    >>> Residual(nn.Tanh())(torch.zeros(2, 3)).shape
    torch.Size([2, 3])
    """

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        y, kept = self.body(x), x if self.shortcut is None else self.shortcut(x)
        if y.shape != kept.shape:
            raise ArgumentError(
                f"the body gives {tuple(y.shape)} and the shortcut {tuple(kept.shape)}, which cannot be added; give a "
                "shortcut to the body's shape, such as a 1×1 convolution with its channels and stride"
            )
        return y + kept


class TableConv2d(nn.Module):
    """Convolution in which every output channel sees only the input channels its row of a table names.

    Only the kernels in use are parameters: `weight` is `(P, K, K)` for P connected pairs of channels.

    Args:
        table: for every output channel the input channels it is connected to.
        channels: number of input channels.
        kernel: side K of the square kernels.
        stride, padding: as in `torch.nn.Conv2d`.
        bias: whether every output channel has a bias.

    Raises:
        ArgumentError: when the table names a channel that does not exist, or one twice for the same output.

    Source: LeCun et al., "Gradient-based learning applied to document recognition", 1998, Table I.

    >>> layer = TableConv2d([(0, 1), (1, 2), (2, 0)], channels=3, kernel=5)
    >>> layer(torch.zeros(2, 3, 8, 8)).shape, layer.weight.shape
    (torch.Size([2, 3, 4, 4]), torch.Size([6, 5, 5]))
    """

    index: Tensor

    def __init__(
        self,
        table: Sequence[Sequence[int]],
        channels: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        for row, inputs in enumerate(table):
            if len(set(inputs)) != len(inputs) or not set(inputs) <= set(range(channels)):
                raise ArgumentError(
                    f"row {row} of the table is {tuple(inputs)}; expected distinct channels below {channels}"
                )
        self.table = tuple(tuple(inputs) for inputs in table)
        self.channels, self.kernel, self.stride, self.padding = channels, kernel, stride, padding
        pairs = [(out, channel) for out, inputs in enumerate(self.table) for channel in inputs]
        places = torch.tensor([out * channels + channel for out, channel in pairs], dtype=torch.long)
        self.register_buffer("index", places, persistent=False)  # (P,): where kernels lie among all O·C
        self.weight = nn.Parameter(torch.empty(len(pairs), kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(len(self.table))) if bias else None
        start = 0
        for inputs in self.table:  # every output channel has its own number of inputs, hence its own bound
            bound = 1 / math.sqrt(len(inputs) * kernel**2)
            nn.init.uniform_(self.weight.data[start : start + len(inputs)], -bound, bound)
            start += len(inputs)

    def dense(self) -> Float[Tensor, "o c k k"]:
        """The weight of the equal full convolution, zero where nothing is connected."""
        whole = self.weight.new_zeros(len(self.table) * self.channels, self.kernel, self.kernel)  # (O·C, K, K)
        return whole.index_copy(0, self.index, self.weight).unflatten(0, (-1, self.channels))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n o p q"]:
        return F.conv2d(x, self.dense(), self.bias, self.stride, self.padding)

    def extra_repr(self) -> str:
        return f"{self.channels}, {len(self.table)}, kernel={self.kernel}, kernels={len(self.weight)}"


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "scaled_tanh": ScaledTanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}

POOLINGS: dict[str, Callable[[int, int], nn.Module]] = {  # (channels, side) -> module
    "average": lambda channels, size: nn.AvgPool2d(size),
    "max": lambda channels, size: nn.MaxPool2d(size),
    "median": lambda channels, size: MedianPool2d(size),
    "strided": lambda channels, size: StridedPool2d(size),
    "subsample": Subsample,
}


def activation(name: str) -> nn.Module:
    """Make an activation by name, see `ACTIVATIONS`.

    Raises:
        LookupFailure: for an unknown name.

    >>> activation("relu")
    ReLU()
    """
    if name not in ACTIVATIONS:
        raise nearest(name, ACTIVATIONS, "activation")
    return ACTIVATIONS[name]()


def pooling(name: str, channels: int, size: int = 2) -> nn.Module:
    """Make a pooling of non-overlapping squares by name, see `POOLINGS`.

    Raises:
        LookupFailure: for an unknown name.

    >>> pooling("max", channels=6)(torch.zeros(1, 6, 28, 28)).shape
    torch.Size([1, 6, 14, 14])
    """
    if name not in POOLINGS:
        raise nearest(name, POOLINGS, "pooling")
    return POOLINGS[name](channels, size)
