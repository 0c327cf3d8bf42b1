"""What is explained: one number for each example, as a function of the model's outputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.errors import ArgumentError, nearest

Target = int | Sequence[int] | Tensor | None
Of = str | Callable[[Tensor], Tensor]


def _logit_adjoint(z: Tensor, target: Tensor) -> Tensor:
    return _one_hot(z, target)


def _log_probability_adjoint(z: Tensor, target: Tensor) -> Tensor:
    return _one_hot(z, target) - z.softmax(1)


def _logit(z: Tensor, target: Tensor) -> Tensor:
    return z.gather(1, target[:, None])[:, 0]


def _log_probability(z: Tensor, target: Tensor) -> Tensor:
    return z.log_softmax(1).gather(1, target[:, None])[:, 0]


# name: (the number for each example, its derivative by the logits z), both functions of (z, target)
OBJECTIVES: dict[str, tuple[Callable, Callable]] = {
    "logit": (_logit, _logit_adjoint),
    "log_probability": (_log_probability, _log_probability_adjoint),
}


@dataclass(frozen=True)
class Objective:
    """The number that is explained for each example.

    Attributes:
        of: "logit" or "log_probability" of the target class, or a function from the outputs (N, …) to numbers (N,).
        target: class indices (N,); None for the predicted classes, or where `of` is a function.
    """

    of: Of
    target: Int[Tensor, " n"] | None

    def value(self, outputs: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """The explained number of each example."""
        if callable(self.of):
            return _checked(self.of(outputs), len(outputs))
        return OBJECTIVES[self.of][0](outputs, self.classes(outputs))

    def adjoint(self, outputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """The derivative of each example's number by the outputs: the seed of the reverse pass."""
        if callable(self.of):
            return torch.func.grad(lambda z: self.value(z).sum())(outputs)
        return OBJECTIVES[self.of][1](outputs, self.classes(outputs))

    def classes(self, outputs: Float[Tensor, "n k"]) -> Int[Tensor, " n"]:
        """The target classes; the predicted ones where none were given.

        Raises:
            ArgumentError: the outputs are not logits (N, K), or a target is outside 0 … K − 1.
        """
        if outputs.dim() != 2:
            raise ArgumentError(
                f"the outputs have shape {tuple(outputs.shape)}, but a class is explained from logits (N, K); "
                "pass a function as `of` that makes one number of each example's output, shape (N,)"
            )
        if self.target is None:
            return outputs.argmax(1)
        low, high = int(self.target.min()), int(self.target.max())
        if low < 0 or high >= outputs.shape[1]:
            wrong = low if low < 0 else high
            raise ArgumentError(f"target {wrong} is not a class: the model has classes 0 … {outputs.shape[1] - 1}")
        return self.target


def objective(x: Float[Tensor, "n ..."], target: Target | Callable, of: Of) -> Objective:
    """Read what a user asked to have explained.

    Args:
        x: the inputs (N, …).
        target: a class index for all, indices (N,), None for the predicted classes, or a function like `of`.
        of: "logit", "log_probability", or a function from the outputs (N, …) to numbers (N,).

    Raises:
        ArgumentError: the targets are not integers, or not as many as inputs.
        LookupFailure: `of` is not a known name.

    >>> import torch
    >>> objective(torch.zeros(2, 3), 1, "logit").adjoint(torch.zeros(2, 4))
    tensor([[0., 1., 0., 0.],
            [0., 1., 0., 0.]])
    """
    if callable(target):
        target, of = None, target
    if callable(of):
        return Objective(of, None)
    if of not in OBJECTIVES:
        raise nearest(str(of), OBJECTIVES, "objective")
    if target is None:
        return Objective(of, None)
    indices = torch.as_tensor(target, device=x.device)
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise ArgumentError(f"targets are class indices (integers), got {indices.dtype}")
    if indices.dim() == 0:
        indices = indices.expand(len(x))
    if indices.shape != (len(x),):
        raise ArgumentError(f"{len(x)} inputs need one target for all or {len(x)}, got shape {tuple(indices.shape)}")
    return Objective(of, indices.long())


def _one_hot(z: Float[Tensor, "n k"], target: Int[Tensor, " n"]) -> Float[Tensor, "n k"]:
    return torch.zeros_like(z).scatter_(1, target[:, None], 1.0)


def _checked(values: Tensor, n: int) -> Tensor:
    if values.shape != (n,):
        raise ArgumentError(f"`of` must give one number for each of {n} examples, got shape {tuple(values.shape)}")
    return values
