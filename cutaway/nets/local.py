"""Locally connected layers: convolutions without sharing of weights."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.errors import ArgumentError


def output_size(size: int, kernel: int, stride: int = 1, padding: int = 0) -> int:
    """Positions of a window along one axis: (W − F + 2P)/S + 1, rounded down.

    Raises:
        ArgumentError: when the window is larger than the padded axis.

    >>> output_size(227, 11, stride=4)
    55
    """
    if min(size, kernel, stride) < 1 or padding < 0 or size + 2 * padding < kernel:
        raise ArgumentError(
            f"size={size}, kernel={kernel}, stride={stride}, padding={padding}: the window does not fit"
        )
    return (size - kernel + 2 * padding) // stride + 1


class LocallyConnected1d(nn.Module):
    """Locally connected layer over sequences: every position has its own kernel and its own bias.

    Args:
        channels: C of the input `(N, C, L)`.
        width: channels of the output `(N, width, P)`.
        length: L, fixed because weights belong to positions.
        kernel, stride, padding: of the window.
        bias: whether there are biases, one for every output.

    >>> layer = LocallyConnected1d(2, 3, length=10, kernel=4, stride=2)
    >>> layer(torch.zeros(5, 2, 10)).shape, layer.weight.shape
    (torch.Size([5, 3, 4]), torch.Size([4, 3, 8]))
    """

    def __init__(
        self, channels: int, width: int, length: int, kernel: int, stride: int = 1, padding: int = 0, bias: bool = True
    ) -> None:
        super().__init__()
        positions = output_size(length, kernel, stride, padding)
        self.length, self.kernel, self.stride, self.padding = length, kernel, stride, padding
        self.weight = nn.Parameter(torch.empty(positions, width, channels * kernel))
        self.bias = nn.Parameter(torch.empty(width, positions)) if bias else None
        _uniform(self, channels * kernel)

    def forward(self, x: Float[Tensor, "n c l"]) -> Float[Tensor, "n d p"]:
        if x.shape[-1] != self.length:
            raise ArgumentError(f"input of length {x.shape[-1]}; the weights belong to {self.length} positions")
        x = F.pad(x, (self.padding, self.padding)).unfold(2, self.kernel, self.stride)  # (N, C, P, K)
        x = x.permute(2, 0, 1, 3).flatten(2)  # (P, N, C·K)
        y = torch.bmm(x, self.weight.transpose(1, 2)).permute(1, 2, 0)  # (P, N, D) -> (N, D, P)
        return y if self.bias is None else y + self.bias


class LocallyConnected2d(nn.Module):
    """Locally connected layer over images: every position has its own kernel and its own bias.

    Args:
        channels: C of the input `(N, C, H, W)`.
        width: channels of the output `(N, width, P, Q)`.
        size: side of the input, or height and width, fixed because weights belong to positions.
        kernel: side of the square window.
        stride, padding: of the window.
        bias: whether there are biases, one for every output.

    Source: LeCun, "Generalization and network design strategies", 1989, section 5 (Net-3).

    >>> layer = LocallyConnected2d(3, 4, size=8, kernel=3)
    >>> layer(torch.zeros(2, 3, 8, 8)).shape, layer.weight.shape
    (torch.Size([2, 4, 6, 6]), torch.Size([36, 4, 27]))
    """

    def __init__(
        self,
        channels: int,
        width: int,
        size: int | tuple[int, int],
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else size
        self.positions = tuple(output_size(side, kernel, stride, padding) for side in self.size)  # (P, Q)
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.weight = nn.Parameter(torch.empty(math.prod(self.positions), width, channels * kernel**2))
        self.bias = nn.Parameter(torch.empty(width, *self.positions)) if bias else None
        _uniform(self, channels * kernel**2)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        if tuple(x.shape[-2:]) != self.size:
            raise ArgumentError(f"input of size {tuple(x.shape[-2:])}; the weights belong to positions of {self.size}")
        x = F.pad(x, (self.padding,) * 4)
        x = x.unfold(2, self.kernel, self.stride).unfold(3, self.kernel, self.stride)  # (N, C, P, Q, K, K)
        x = x.permute(2, 3, 0, 1, 4, 5).flatten(3).flatten(0, 1)  # (P·Q, N, C·K·K)
        y = torch.bmm(x, self.weight.transpose(1, 2)).permute(1, 2, 0)  # (P·Q, N, D) -> (N, D, P·Q)
        y = y.unflatten(2, self.positions)  # (N, D, P, Q)
        return y if self.bias is None else y + self.bias


def _uniform(layer: "LocallyConnected1d | LocallyConnected2d", fan_in: int) -> None:
    """The bounds that torch's own layers draw from."""
    for parameter in (layer.weight, layer.bias):
        if parameter is not None:
            nn.init.uniform_(parameter, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))
