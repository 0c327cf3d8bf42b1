"""Counting parameters and multiply-adds."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from cutaway.errors import ArgumentError
from cutaway.nets.local import output_size
from cutaway.nets.modes import evaluating

aten = torch.ops.aten


def parameters(model: nn.Module, trainable: bool = False) -> int:
    """Number of parameters of a model, each counted once.

    Args:
        model: any module.
        trainable: count those alone that ask for gradients.

    >>> parameters(nn.Linear(3, 4))
    16
    """
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


def _convolution(output: Any, x: Any, weight: Any, *rest: Any) -> int:
    transposed = len(rest) > 4 and rest[4]  # bias, stride, padding, dilation, transposed, …
    return (x if transposed else output).numel() * math.prod(weight.shape[1:])


MULTIPLY_ADDS: dict[Any, Callable[..., int]] = {
    aten.convolution.default: _convolution,
    aten.mm.default: lambda output, a, b: output.numel() * a.shape[-1],
    aten.addmm.default: lambda output, bias, a, b: output.numel() * a.shape[-1],
    aten.bmm.default: lambda output, a, b: output.numel() * a.shape[-1],
    aten.baddbmm.default: lambda output, bias, a, b: output.numel() * a.shape[-1],
}


class _Counter(TorchDispatchMode):
    """Adds up the multiply-adds of the operations that run under it."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in MULTIPLY_ADDS:
            self.total += MULTIPLY_ADDS[func](output, *args)
        return output


def multiply_adds(model: nn.Module, *shape: int) -> int:
    """Multiply-adds of the convolutions and matrix products of one forward pass, from shapes alone.

    The model is run in evaluation mode on tensors without data, so nothing is computed and nothing of it changes.
    Weights that a layer holds at zero are counted, because they are multiplied. One multiply-add is one multiplication
    and one addition (twice as many FLOPs).

    Args:
        model: any module that takes one tensor.
        shape: of that tensor without the batch, such as 3, 224, 224; the batch is 1.

    Raises:
        ArgumentError: when the model does not accept that shape.

    >>> multiply_adds(nn.Conv2d(3, 8, 5), 3, 32, 32) == 28 * 28 * 8 * 75
    True
    """
    tensors = [*model.parameters(), *model.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    with evaluating(model), torch.no_grad():  # batch norm would otherwise note that it was run
        try:
            with FakeTensorMode(allow_non_fake_inputs=True), _Counter() as counter:
                model(torch.empty(1, *shape, device=device))
        except RuntimeError as error:
            what = f"{type(model).__name__} does not take an input of shape (1, {shape})"
            raise ArgumentError(f"{what}: {error}") from error
    return counter.total


def connections(
    size: Sequence[int], channels: int, width: int, kernel: int, stride: int = 1, padding: int = 0
) -> dict[str, dict[str, int]]:
    """Parameters of a layer that is fully connected, locally connected, or a convolution (weights shared).

    All three map an input `(channels, *size)` to the same outputs `(width, *positions)`.

    Args:
        size: of the input: (L,), (H, W) or (D, H, W).
        channels: of the input.
        width: channels of the output, the number of filters.
        kernel, stride, padding: of the window, equal along all axes.

    Returns:
        for "fully connected", "locally connected" and "shared" the number of "weights" and of "biases".

    Raises:
        ArgumentError: when the window does not fit.

    >>> connections((28, 28), channels=1, width=1, kernel=5)["fully connected"]["weights"]
    451584
    """
    positions = math.prod(output_size(side, kernel, stride, padding) for side in size)
    window = kernel ** len(size) * channels
    return {
        "fully connected": {"weights": math.prod(size) * channels * positions * width, "biases": positions * width},
        "locally connected": {"weights": window * positions * width, "biases": positions * width},
        "shared": {"weights": window * width, "biases": width},
    }
