"""A function written down once as a flat program: traced, cleaned, run by TorchScript."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen

from cutaway.errors import CaptureError
from cutaway.train.bilinear import SmallConvolutions
from cutaway.train.cleaning import clean
from cutaway.train.state import random_state, set_random_state

Weights = dict[str, Tensor]


def trace(
    function: Callable[..., Any],
    trained: Weights,
    kept: Weights,
    constants: Weights,
    x: Tensor,
    y: Tensor,
    count: int = 1,
    compiled: bool = False,
) -> Callable[..., Any]:
    """Write a function of weights and a batch down as one flat program for these shapes.

    Args:
        function: from trained and kept tensors by name, inputs and targets to `(gradients, (loss, outputs))`.
        trained, kept: the tensors by name; the program takes them one by one, then x and y.
        constants: tensors that the function knows.
        x, y: a batch.
        count: networks that are computed at once.
        compiled: compile the program with `torch.compile`.

    Returns:
        A function of all tensors to `(loss, outputs, *gradients)`.

    Raises:
        CaptureError: the function's path depends on values.
    """
    first, second = list(trained), list(kept)

    def flat(*values: Tensor) -> tuple[Tensor, ...]:
        weights = dict(zip(first, values, strict=False))
        others = dict(zip(second, values[len(first) :], strict=False))
        gradients, (value, outputs) = function(weights, others, *values[-2:])
        return (value, outputs, *(gradients[name] for name in first))

    copies = [value.clone() for value in kept.values()]  # tracing runs the step once, which may change them
    before = random_state(x.device)
    try:
        with torch.no_grad(), SmallConvolutions(count, constants.values()):
            traced = make_fx(flat)(*trained.values(), *copies, x, y)
    except Exception as reason:  # whatever a network that branches on its data raises
        raise CaptureError(f"{type(reason).__name__}: {reason}") from reason
    finally:
        set_random_state(before, x.device)
    cleaned = clean(traced)
    if compiled:
        return torch.compile(cleaned)
    return _script(cleaned, (*trained.values(), *(value.clone() for value in kept.values()), x, y))


def _script(program: fx.GraphModule, example: tuple[Tensor, ...]) -> Callable[..., Any]:
    """Let TorchScript run a flat program: a third of Python's time for each of its hundred small operations."""
    program.graph.set_codegen(CodeGen())  # plain arguments and a plain tuple
    program.recompile()
    before = random_state(example[0].device)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is called deprecated, and that shapes are fixed, which they are
            scripted: Any = torch.jit.trace(program, example, check_trace=False)
            return scripted
    except Exception:  # an operation that it does not know: Python runs the same program
        return program.forward
    finally:
        set_random_state(before, example[0].device)
