"""What is differentiated when a network is diagnosed: a loss, or a random direction of the outputs."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cutaway import rng
from cutaway.errors import ArgumentError, nearest

Loss = str | Callable[[Tensor, Tensor], Tensor] | None

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": lambda outputs, y: F.cross_entropy(outputs, y, reduction="sum"),
    "squared_error": lambda outputs, y: ((outputs - y) ** 2).sum(),
}


def adjoint_of_outputs(y: Tensor | None, loss: Loss, seed: int) -> Callable[[Float[Tensor, "n ..."]], Tensor]:
    """Make the function from outputs to their adjoints, summed (not averaged) over examples.

    Args:
        y: class indices (N,) or regression targets shaped like the outputs; None for a random direction of length 1 for
            each example, which shows how adjoints travel whatever the loss.
        loss: a name in `LOSSES` or a function (outputs, y) -> number; None takes cross-entropy for integers and the
            squared error for real numbers.
        seed: fixes the random direction.

    Raises:
        LookupFailure: the loss is unknown.
        ArgumentError: y does not fit the outputs.

    >>> adjoint_of_outputs(torch.tensor([0]), None, 0)(torch.zeros(1, 2))
    tensor([[-0.5000,  0.5000]])
    """
    if isinstance(loss, str) and loss not in LOSSES:
        raise nearest(loss, LOSSES, "loss")
    if y is None:
        if loss is not None:
            raise ArgumentError(f"the loss {loss!r} needs targets y")
        return lambda outputs: _direction(outputs, seed)
    chosen = ("squared_error" if y.is_floating_point() else "cross_entropy") if loss is None else loss
    function = LOSSES[chosen] if isinstance(chosen, str) else chosen

    def adjoint(outputs: Tensor) -> Tensor:
        if len(y) != len(outputs):
            raise ArgumentError(f"there are {len(outputs)} outputs, but {len(y)} targets")
        if chosen == "cross_entropy" and not 0 <= int(y.min()) <= int(y.max()) < outputs.shape[1]:
            raise ArgumentError(
                f"targets go from {int(y.min())} to {int(y.max())}, classes from 0 to {outputs.shape[1] - 1}"
            )
        if chosen == "squared_error" and y.shape != outputs.shape:
            raise ArgumentError(f"targets of shape {tuple(y.shape)} do not fit outputs of shape {tuple(outputs.shape)}")
        return torch.func.grad(lambda z: function(z, y))(outputs)

    return adjoint


def _direction(outputs: Tensor, seed: int) -> Tensor:
    drawn = torch.randn(outputs.shape, generator=rng.generator(seed, "direction"), dtype=outputs.dtype)
    length = drawn.flatten(1).norm(dim=1) if drawn.dim() > 1 else drawn.abs()
    return (drawn / length.view(-1, *[1] * (drawn.dim() - 1))).to(outputs.device)
