"""Convolutions of many small networks at once, as copies of windows and one batched matrix product.

A convolution is bilinear in inputs and kernels. Its two adjoints are bilinear as well, and all three are here as
autograd functions with a rule of their own for `torch.vmap`, because torch's rule makes one grouped convolution of
them, which costs several times as much where the networks are tiny.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

Pair = tuple[int, int]
Window = tuple[Pair, Pair, Pair]  # side, stride and dilation of the kernel

_LONG = 8  # numbers side by side from which on copying rows is quicker than gathering numbers
_LARGEST = 1 << 23  # numbers in the copied windows from which on torch's convolution is used


@cache
def places(shape: tuple[int, int, int], window: Window) -> Tensor:
    """Where in a flattened image `(C·H·W,)` the numbers of all its windows lie, `(C·K·K·P·Q,)`.

    >>> places((1, 2, 3), ((2, 2), (1, 1), (1, 1))).reshape(4, 2).tolist()
    [[0, 1], [1, 2], [3, 4], [4, 5]]
    """
    channels, height, width = shape
    (k, m), (down, right), (spread, wide) = window
    p, q = sides(shape, window)
    channel = torch.arange(channels).view(-1, 1, 1, 1, 1) * height * width
    row = torch.arange(k).view(-1, 1, 1, 1) * spread + torch.arange(p).view(1, 1, -1, 1) * down  # (K, 1, P, 1)
    column = torch.arange(m).view(-1, 1, 1) * wide + torch.arange(q) * right  # (K, 1, Q)
    return (channel + row * width + column).flatten()


def sides(shape: tuple[int, ...], window: Window) -> Pair:
    """Height and width of a convolution's output.

    >>> sides((1, 16, 16), ((5, 5), (2, 2), (1, 1)))
    (6, 6)
    """
    (k, m), (down, right), (spread, wide) = window
    return (shape[-2] - spread * (k - 1) - 1) // down + 1, (shape[-1] - wide * (m - 1) - 1) // right + 1


def windows(x: Tensor, window: Window) -> Tensor:
    """Copy the windows of images `(…, N, C, H, W)` into the columns of a matrix `(…, C·K·K, N·P·Q)`."""
    (k, m), (down, right), (spread, wide) = window
    *lead, n, c, h, w = x.shape
    p, q = sides((h, w), window)
    if right == 1 and q >= _LONG:
        shape = (math.prod(lead), c, k, m, n, p, q)
        strides = (n * c * h * w, h * w, spread * w, wide, c * h * w, down * w, right)
        return x.contiguous().as_strided(shape, strides).reshape(*lead, c * k * m, n * p * q)
    flat = x.reshape(-1, c * h * w).index_select(1, places((c, h, w), window).to(x.device))
    if n == 1:
        return flat.view(*lead, c * k * m, -1)
    return flat.view(*lead, n, c * k * m, -1).transpose(-3, -2).flatten(-2)


def rows_of(maps: Tensor) -> Tensor:
    """Maps `(…, N, O, P, Q)` as a matrix `(…, O, N·P·Q)`."""
    if maps.shape[-4] == 1:
        return maps.flatten(-2).squeeze(-3)
    return maps.flatten(-2).transpose(-3, -2).flatten(-2)


def product(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b`; one matrix b for many a is one product."""
    if a.dim() == 3 and b.dim() == 2:
        return (a.flatten(0, 1) @ b).view(a.shape[0], a.shape[1], -1)
    return a @ b


def convolve(x: Tensor, weight: Tensor, window: Window) -> Tensor:
    """Maps `(…, N, O, P, Q)` of images `(…, N, C, H, W)` under kernels `(…, O, C, K, K)`."""
    p, q = sides(tuple(x.shape), window)
    out = product(weight.flatten(-3), windows(x, window))  # (…, O, N·P·Q)
    return out.unflatten(-1, (x.shape[-4], p, q)).movedim(-3, -4)


def to_kernels(x: Tensor, grad: Tensor, window: Window) -> Tensor:
    """The kernels' adjoint `(…, O, C, K, K)`."""
    found = product(rows_of(grad), windows(x, window).transpose(-1, -2))  # (…, O, C·K·K)
    return found.unflatten(-1, (x.shape[-3], *window[0]))


def to_images(grad: Tensor, weight: Tensor, shape: tuple[int, int, int], window: Window) -> Tensor:
    """The images' adjoint `(…, N, C, H, W)`: every window's share is added where it was read."""
    n = grad.shape[-4]
    columns = weight.flatten(-3).transpose(-1, -2) @ rows_of(grad)  # (…, C·K·K, N·P·Q)
    lead = columns.shape[:-2]
    if n > 1:
        columns = columns.unflatten(-1, (n, -1)).transpose(-3, -2)  # (…, N, C·K·K, P·Q)
    flat = columns.reshape(-1, columns.shape[-1] * columns.shape[-2])
    found = flat.new_zeros(len(flat), shape[0] * shape[1] * shape[2])
    return found.index_add(1, places(shape, window).to(flat.device), flat).view(*lead, n, *shape)


def _first(value: Tensor, dim: int | None) -> Tensor:
    """The replicates' dimension first, where there is one."""
    return value if dim is None else value.movedim(dim, 0)


class Convolution(Function):
    """`convolve`, with its adjoints and its rule for many replicates."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, window: Window) -> Tensor:
        """See `convolve`."""
        return convolve(x, weight, window)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        """Keep both factors."""
        ctx.save_for_backward(inputs[0], inputs[1])
        ctx.window = inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Give both adjoints."""
        x, weight = ctx.saved_tensors
        images, kernels = ctx.needs_input_grad[:2]
        shape = tuple(x.shape[-3:])
        return (
            ImagesAdjoint.apply(grad, weight, shape, ctx.window) if images else None,
            KernelsAdjoint.apply(x, grad, ctx.window) if kernels else None,
            None,
        )

    @staticmethod
    def vmap(info: Any, dims: tuple, x: Tensor, weight: Tensor, window: Window) -> tuple[Tensor, int]:
        """All replicates at once."""
        return convolve(_first(x, dims[0]), _first(weight, dims[1]), window), 0


class _Adjoint(Function):
    """An adjoint is not differentiated again."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        """Keep nothing."""


class KernelsAdjoint(_Adjoint):
    """`to_kernels`, for many replicates."""

    @staticmethod
    def forward(x: Tensor, grad: Tensor, window: Window) -> Tensor:
        """See `to_kernels`."""
        return to_kernels(x, grad, window)

    @staticmethod
    def vmap(info: Any, dims: tuple, x: Tensor, grad: Tensor, window: Window) -> tuple[Tensor, int]:
        """All replicates at once."""
        return to_kernels(_first(x, dims[0]), _first(grad, dims[1]), window), 0


class ImagesAdjoint(_Adjoint):
    """`to_images`, for many replicates."""

    @staticmethod
    def forward(grad: Tensor, weight: Tensor, shape: tuple[int, int, int], window: Window) -> Tensor:
        """See `to_images`."""
        return to_images(grad, weight, shape, window)

    @staticmethod
    def vmap(info: Any, dims: tuple, grad: Tensor, weight: Tensor, shape: Any, window: Window) -> tuple[Tensor, int]:
        """All replicates at once."""
        return to_images(_first(grad, dims[0]), _first(weight, dims[1]), shape, window), 0


@dataclass(frozen=True)
class Way:
    """Where the rows that an index names go, and how their adjoints come back.

    Attributes:
        index: the row `(M,)` that every place reads.
        source: for every row the one place that reads it, M for a row that none or several read.
        places: the places `(L,)` that share their row with others.
    """

    index: Tensor
    source: Tensor
    places: Tensor


def way(index: Tensor, rows: int) -> Way:
    """Look at an index: rows that are read once are copied back, only the others need a sum.

    >>> found = way(torch.tensor([2, 0, 0]), 4)
    >>> found.source.tolist(), found.places.tolist()
    ([3, 3, 0, 3], [1, 2])
    """
    once = torch.bincount(index, minlength=rows)[index] == 1
    places = torch.arange(len(index), device=index.device)
    source = torch.full((rows,), len(index), device=index.device)
    source[index[once]] = places[once]
    return Way(index, source, places[~once])


class Rows(Function):
    """The rows of a tensor that an index names, for many replicates; torch's own rule gathers number by number."""

    @staticmethod
    def forward(values: Tensor, way: Way) -> Tensor:
        """`values[index]`."""
        return values.index_select(0, way.index)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        """Keep the index."""
        ctx.way = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Add every row's adjoint where it was read."""
        return RowsAdjoint.apply(grad, ctx.way), None  # pyright: ignore[reportReturnType]

    @staticmethod
    def vmap(info: Any, dims: tuple, values: Tensor, way: Way) -> tuple[Tensor, int]:
        """All replicates at once."""
        return _first(values, dims[0]).index_select(1, way.index), 0


class RowsAdjoint(_Adjoint):
    """The adjoint of `Rows`."""

    @staticmethod
    def forward(grad: Tensor, way: Way) -> Tensor:
        """See `Rows`."""
        return grad.new_zeros(len(way.source), *grad.shape[1:]).index_add(0, way.index, grad)

    @staticmethod
    def vmap(info: Any, dims: tuple, grad: Tensor, way: Way) -> tuple[Tensor, int]:
        """All replicates at once."""
        grad = _first(grad, dims[0])
        flat = grad.flatten(2)  # (R, M, inner)
        found = F.pad(flat, (0, 0, 0, 1)).index_select(1, way.source)  # the last row is zero
        if len(way.places):
            found = found.index_add(1, way.index[way.places], flat.index_select(1, way.places))
        return found.view(len(grad), len(way.source), *grad.shape[2:]), 0


class SmallConvolutions(TorchFunctionMode):
    """While it is on, small two-dimensional convolutions are computed by `Convolution`.

    Args:
        replicates: how many networks are computed at once.
        constants: buffers among which the indices lie that choose rows of weights.

    >>> x, weight = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3)
    >>> with SmallConvolutions(1): ours = F.conv2d(x, weight, stride=2, padding=1)
    >>> torch.allclose(ours, F.conv2d(x, weight, stride=2, padding=1), atol=1e-5)
    True
    """

    def __init__(self, replicates: int, constants: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.replicates = replicates
        self.indices = [tensor for tensor in constants if tensor.dtype == torch.int64 and tensor.dim() == 1]
        self.ways: dict[tuple[int, int], Way] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace convolutions and the choice of rows, leave everything else."""
        if func is F.conv2d or func is torch.conv2d:
            return self._convolution(func, *args, **(kwargs or {}))
        if func is Tensor.index_select and len(args) == 3 and args[1] == 0:
            number = next((i for i, index in enumerate(self.indices) if index is args[2]), None)
            if number is not None:
                return Rows.apply(args[0], self._way(number, args[0].shape[0]))
        return func(*args, **(kwargs or {}))

    def _way(self, number: int, rows: int) -> Way:
        """How rows go and come back by one of the constants; tracing must not see how it is found."""
        if (number, rows) not in self.ways:
            with _disable_current_modes():
                self.ways[number, rows] = way(self.indices[number], rows)
        return self.ways[number, rows]

    def _convolution(
        self,
        func: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        if isinstance(padding, str) or groups != 1 or input.dim() != 4:
            return func(input, weight, bias, stride, padding, dilation, groups)
        window: Window = ((int(weight.shape[-2]), int(weight.shape[-1])), _pair(stride), _pair(dilation))
        high, wide = _pair(padding)
        p, q = sides((input.shape[-2] + 2 * high, input.shape[-1] + 2 * wide), window)
        if self.replicates * input.shape[0] * weight[0].numel() * p * q > _LARGEST:
            return func(input, weight, bias, stride, padding, dilation, groups)
        x = F.pad(input, (wide, wide, high, high)) if high or wide else input
        out: Any = Convolution.apply(x, weight, window)
        return out if bias is None else out + bias[:, None, None]


def _pair(value: Any) -> Pair:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))
