"""The gradient step of many networks of one shape, as one program: traced once, cleaned, run at every step."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from cutaway.errors import ArgumentError, CaptureError
from cutaway.train.bilinear import SmallConvolutions
from cutaway.train.gradients import mean_loss, trainable
from cutaway.train.losses import Loss
from cutaway.train.traced import Weights, trace

StackedStep = Callable[[Weights, Weights, Tensor, Tensor], tuple[Tensor, Tensor, list[Tensor]]]


def stack(models: Sequence[nn.Module]) -> tuple[Weights, Weights, Weights]:
    """Stack the state of networks of one shape.

    Args:
        models: networks with the same names and shapes.

    Returns:
        Trainable parameters `(R, …)`, parameters and buffers that do not train `(R, …)`, and constants: buffers
        outside the state dict that all share.

    Raises:
        ArgumentError: the networks differ in names or shapes; the first difference is named.

    >>> trained, kept, constants = stack([nn.Linear(2, 3), nn.Linear(2, 3)])
    >>> trained["weight"].shape, list(kept), list(constants)
    (torch.Size([2, 3, 2]), [], [])
    """
    names = set(trainable(models[0]))
    states = [{**dict(model.named_parameters()), **dict(model.named_buffers())} for model in models]
    for number, state in enumerate(states):
        different = [
            name
            for name in sorted({*states[0], *state})
            if name not in state or name not in states[0] or state[name].shape != states[0][name].shape
        ]
        if different:
            raise ArgumentError(
                f"network {number} differs from network 0 in {different[0]!r}; networks that are trained at once "
                "must have the same layers and shapes (train others one by one with fit)"
            )
    saved = set(models[0].state_dict())
    constants = {
        name: value
        for name, value in states[0].items()
        if name not in saved and all(torch.equal(state[name], value) for state in states)
    }
    stacked = {
        name: torch.stack([state[name].detach() for state in states]) for name in states[0] if name not in constants
    }
    trained = {name: value for name, value in stacked.items() if name in names}
    return trained, {name: value for name, value in stacked.items() if name not in names}, constants


def unstack(models: Sequence[nn.Module], weights: Mapping[str, Tensor]) -> None:
    """Write stacked weights back into the networks.

    >>> nets = [nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)]
    >>> unstack(nets, {"weight": torch.tensor([[[1.0]], [[2.0]]])}); nets[1].weight.item()
    2.0
    """
    with torch.no_grad():
        for number, model in enumerate(models):
            own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
            for name, value in weights.items():
                own[name].copy_(value[number])


def stacked_outputs(model: nn.Module, weights: Weights, constants: Weights, x: Tensor) -> Tensor:
    """Outputs `(R, N, …)` of all replicates for the same inputs `(N, …)`, in the mode the network is in.

    >>> nets = [nn.Linear(2, 3), nn.Linear(2, 3)]
    >>> trained, kept, constants = stack(nets)
    >>> torch.allclose(stacked_outputs(nets[0], trained, constants, torch.ones(1, 2))[1], nets[1](torch.ones(1, 2)))
    True
    """

    def outputs(own: Weights) -> Tensor:
        return functional_call(model, {**own, **constants}, (x,))

    with torch.no_grad(), SmallConvolutions(len(next(iter(weights.values()))), constants.values()):
        return vmap(outputs, randomness="different")(weights)


def stacked_step(model: nn.Module, loss: Loss, constants: Weights, shared: bool, compiled: bool = False) -> StackedStep:
    """Make the step that computes loss, outputs and gradients of all replicates.

    Args:
        model: one of the networks, in training mode; only its code is used.
        loss: from outputs and targets to one value per example.
        constants: as `stack` gives them.
        shared: whether all replicates see the same examples, `(N, …)`, or each its own, `(R, N, …)`.
        compiled: write the program in C, where that is possible.

    Returns:
        A function `(trained, kept, x, y) -> (loss (R,), outputs (R, N, …), gradients)`; its next call may overwrite the
        gradients.

    Raises:
        ArgumentError: by the step, when the network cannot be vectorised.

    >>> nets = [nn.Linear(2, 3, bias=False), nn.Linear(2, 3, bias=False)]
    >>> trained, kept, constants = stack(nets)
    >>> step = stacked_step(nets[0], lambda z, t: z.sum(1), constants, shared=True)
    >>> value, outputs, (gradient,) = step(trained, kept, torch.ones(4, 2), torch.zeros(4))
    >>> outputs.shape, gradient.unique()
    (torch.Size([2, 4, 3]), tensor([1.]))
    """
    programs: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def whole(trained: Weights, kept: Weights, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        outputs = functional_call(model, {**trained, **kept, **constants}, (x,))
        return mean_loss(loss, outputs, y), outputs

    def step(trained: Weights, kept: Weights, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        key = (x.shape, x.dtype, y.shape, y.dtype)
        if key not in programs:
            apart = None if shared else 0
            function = vmap(grad_and_value(whole, has_aux=True), (0, 0, apart, apart), randomness="different")
            count = len(next(iter(trained.values())))
            try:
                programs[key] = trace(function, trained, kept, constants, x, y, count, compiled)
            except CaptureError as reason:
                raise ArgumentError(
                    f"this network cannot be trained as {count} replicates at once ({reason}); train them one by one "
                    "with fit"
                ) from reason
        with torch.no_grad():
            found = programs[key](*trained.values(), *kept.values(), x, y)
        return found[0], found[1], list(found[2:])

    return step
