"""The gradient step of a small network as one flat program, without autograd and without Python between operations."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from cutaway.errors import CaptureError
from cutaway.train.gradients import Step, autograd_step, mean_loss
from cutaway.train.losses import Loss
from cutaway.train.state import copied, random_state, set_random_state
from cutaway.train.traced import Weights, close, trace

FEW = 30_000_000  # floating-point operations of a batch's forward pass up to which the program pays
_SHAPES = 2  # batches of a pass: the usual one and the last


def flat_step(
    model: nn.Module, loss: Loss, parameters: Mapping[str, Tensor], other: Step, compiled: bool = False
) -> Step:
    """Make the step as a program traced with the first batch, and kept if it answers as autograd does.

    Convolutions become copies of windows and matrix products. The program is tried on the batch and on its negative;
    where a network's path depends on values, or where layers draw random numbers in another order, `other` is taken.

    Args:
        model: from inputs to outputs, in training mode.
        loss: from outputs and targets to one value per example.
        parameters: what to differentiate by, by name.
        other: the step for networks that cannot be traced, and for further shapes of batches.
        compiled: write the program in C where possible; its next call overwrites the gradients.

    Returns:
        A function `(x, y) -> (loss, outputs, gradients)`.

    >>> net = nn.Linear(1, 1, bias=False)
    >>> step = flat_step(net, lambda z, t: (z - t).square().sum(1), dict(net.named_parameters()), lambda x, y: None)
    >>> value, outputs, (gradient,) = step(torch.ones(2, 1), torch.zeros(2, 1))
    >>> bool(torch.isclose(gradient, 2 * net.weight).all())
    True
    """
    saved = set(model.state_dict())
    buffers = dict(model.named_buffers())
    constants = {name: value for name, value in buffers.items() if name not in saved}
    trained = {name: weight.detach() for name, weight in parameters.items()}
    kept = {name: weight.detach() for name, weight in model.named_parameters() if name not in trained}
    kept |= {name: value for name, value in buffers.items() if name in saved}
    leaves = (*trained.values(), *kept.values())
    found: dict[tuple[Any, ...], Callable[..., Any] | None] = {}

    def whole(trained: Weights, kept: Weights, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        outputs = functional_call(model, {**trained, **kept, **constants}, (x,))
        return mean_loss(loss, outputs, y), outputs

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        key = (x.shape, x.dtype, y.shape, y.dtype)
        if key not in found:
            made = None
            if len(found) < _SHAPES:
                made = _believed(grad_and_value(whole, has_aux=True), trained, kept, constants, x, y, compiled)
            if made is not None and not _agrees(made, autograd_step(model, loss, parameters), leaves, kept, x, y):
                made = None
            found[key] = made
        program = found[key]
        if program is None:
            return other(x, y)
        with torch.no_grad():
            value, outputs, *gradients = program(*leaves, x, y)
        return value, outputs, gradients

    return step


def _believed(
    function: Callable[..., Any],
    trained: Weights,
    kept: Weights,
    constants: Weights,
    x: Tensor,
    y: Tensor,
    compiled: bool,
) -> Callable[..., Any] | None:
    """The program, or None for a network that cannot be traced."""
    try:
        return trace(function, trained, kept, constants, x, y, compiled=compiled)
    except CaptureError:
        return None


def _agrees(
    program: Callable[..., Any], expected: Step, leaves: tuple[Tensor, ...], kept: Weights, x: Tensor, y: Tensor
) -> bool:
    """Whether the program answers as autograd does, draws what it draws, and leaves the same running statistics."""
    before, random = copied(kept), random_state(x.device)
    answers: list[list[Tensor]] = []
    for inputs in (x, -x):
        for own in (False, True):
            set_random_state(random, x.device)
            if own:
                with torch.no_grad():
                    value, outputs, *gradients = program(*leaves, inputs, y)
            else:
                value, outputs, gradients = expected(inputs, y)
            numbers = [each.clone() for each in (value, outputs, *gradients, *kept.values())]
            answers.append([*numbers, torch.get_rng_state()])
            _put_back(kept, before)
    set_random_state(random, x.device)
    return all(close(theirs, mine) for theirs, mine in zip(answers[::2], answers[1::2], strict=True))


def _put_back(kept: Weights, before: Weights) -> None:
    with torch.no_grad():
        for name, value in before.items():
            kept[name].copy_(value)
