"""Convolutions of many small networks at once, as copies of windows and one batched matrix product.

A convolution is bilinear in inputs and kernels. Its two adjoints are bilinear as well, and all three are here as
autograd functions with a rule of their own for `torch.vmap`, because torch's rule makes one grouped convolution of
them, which costs several times as much where the networks are tiny.
"""

import math
from collections.abc import Iterable
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


class Copied(Function):
    """`index_copy` along the first dimension, for many replicates; torch's own rule copies number by number."""

    @staticmethod
    def forward(whole: Tensor, rows: Tensor, places: Tensor, source: Tensor) -> Tensor:
        """Rows `(P, …)` copied over those of `(M, …)` at distinct places; `source` `(M,)` is what `sources` gives."""
        return whole.index_copy(0, places, rows)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        """Keep the places."""
        ctx.places = inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take every row's adjoint from its place; the others are the whole's."""
        whole, rows = ctx.needs_input_grad[:2]
        return (
            grad.index_fill(0, ctx.places, 0.0) if whole else None,
            Chosen.apply(grad, ctx.places) if rows else None,  # pyright: ignore[reportReturnType]
            None,
            None,
        )

    @staticmethod
    def vmap(info: Any, dims: tuple, whole: Tensor, rows: Tensor, places: Tensor, source: Tensor) -> tuple[Tensor, int]:
        """All replicates at once."""
        count = info.batch_size
        whole, rows = (value.expand(count, *value.shape) if dim is None else value.movedim(dim, 0)
                       for value, dim in zip((whole, rows), dims[:2], strict=True))  # fmt: skip
        joined = torch.cat((rows.flatten(2), whole.flatten(2).contiguous()), 1)  # (R, P + M, …); quick side by side
        return joined.index_select(1, source).view(whole.shape), 0


class Chosen(_Adjoint):
    """Rows by their places, for many replicates: what `Copied` gives back."""

    @staticmethod
    def forward(values: Tensor, places: Tensor) -> Tensor:
        """`values[places]`."""
        return values.index_select(0, places)

    @staticmethod
    def vmap(info: Any, dims: tuple, values: Tensor, places: Tensor) -> tuple[Tensor, int]:
        """All replicates at once."""
        return _first(values, dims[0]).index_select(1, places), 0


def sources(places: Tensor, count: int) -> Tensor:
    """Where in rows joined with the whole, `(P + M,)`, each row of their `index_copy` lies, `(M,)`.

    >>> sources(torch.tensor([2, 0]), 4).tolist()
    [1, 3, 0, 5]
    """
    own = torch.arange(len(places), len(places) + count, device=places.device)
    return own.index_copy(0, places, torch.arange(len(places), device=places.device))


class SmallConvolutions(TorchFunctionMode):
    """While it is on, small two-dimensional convolutions are computed by `Convolution`.

    Args:
        replicates: how many networks are computed at once.
        constants: buffers among which the indices lie by which rows of weights are copied to distinct places.

    >>> x, weight = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3)
    >>> with SmallConvolutions(1): ours = F.conv2d(x, weight, stride=2, padding=1)
    >>> torch.allclose(ours, F.conv2d(x, weight, stride=2, padding=1), atol=1e-5)
    True
    """

    def __init__(self, replicates: int, constants: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.replicates = replicates
        self.indices = [tensor for tensor in constants if tensor.dtype == torch.int64 and tensor.dim() == 1]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace convolutions and the copying of rows, leave everything else."""
        if func is F.conv2d or func is torch.conv2d:
            return self._convolution(func, *args, **(kwargs or {}))
        if func is Tensor.index_copy and len(args) == 4 and args[1] == 0:
            whole, _, places, rows = args
            if any(places is known for known in self.indices):
                with _disable_current_modes():  # tracing must not see how it is found
                    source = sources(places, len(whole))
                return Copied.apply(whole, rows, places, source)
        return func(*args, **(kwargs or {}))

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
