"""A function written down once as a flat program: traced, cleaned, run by TorchScript."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen

from cutaway.errors import CaptureError
from cutaway.train import foreach
from cutaway.train.bilinear import SmallConvolutions
from cutaway.train.cleaning import clean
from cutaway.train.native import native
from cutaway.train.state import random_state, set_random_state

Weights = dict[str, Tensor]
PAYS = 20_000  # steps from which on compiling pays, which takes about two seconds
_CLOSE = 1e-4


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
        compiled: write the program in C and compile it, where that is possible and answers alike.

    Returns:
        A function of all tensors to `(loss, outputs, *gradients)`; the gradients may be overwritten by its next call.

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
    example = (*trained.values(), *(value.clone() for value in kept.values()), x, y)
    quick = native(cleaned, example) if compiled else None
    slow = _script(cleaned, example)
    return slow if quick is None or not _alike(quick, slow, example) else quick


def _alike(one: Callable[..., Any], other: Callable[..., Any], example: tuple[Tensor, ...]) -> bool:
    """Whether two programs answer and draw alike, also for inputs of the other sign."""
    device = example[0].device
    before = random_state(device)
    answers: list[list[Tensor]] = []
    with torch.no_grad():
        for given in (example, (*example[:-2], -example[-2], example[-1])):
            for program in (one, other):
                set_random_state(before, device)
                answers.append([*(answer.clone() for answer in program(*given)), torch.get_rng_state()])
    set_random_state(before, device)
    return close(answers[1], answers[0]) and close(answers[3], answers[2])


def close(theirs: list[Tensor], mine: list[Tensor]) -> bool:
    """Whether numbers are the same as far as their precision goes, measured by the largest; the last are equal.

    >>> state = torch.zeros(1)
    >>> close([torch.tensor(2.0), state], [torch.tensor(2.00001), state])
    True
    """
    if any(a.shape != b.shape for a, b in zip(theirs, mine, strict=True)):
        return False
    largest = max(float(norm) for norm in foreach.norm([a.double() for a in theirs[:-1]], float("inf")))
    apart = [float((a.double() - b.double()).abs().max()) for a, b in zip(theirs, mine, strict=True) if a.numel()]
    return all(difference <= _CLOSE * largest for difference in apart[:-1]) and apart[-1] == 0


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
