"""Singular values of the Jacobian between two nodes: all where it is small, else the largest and the mean."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway import rng

Pull = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Singular:
    """The singular values of each example's Jacobian J.

    Attributes:
        largest: the largest one (N,); where the Jacobian is large, from power iteration, which comes from below.
        gain: ‖J‖_F / sqrt(number of outputs) (N,): by how much J changes the length of a random adjoint on its way
            back, root mean square.
        values: all of them in descending order (N, R); None where the Jacobian is large.
    """

    largest: Float[Tensor, " n"]
    gain: Float[Tensor, " n"]
    values: Float[Tensor, "n r"] | None


@torch.no_grad()
def singular(pull: Pull, of: Tensor, wrt: Tensor, *, exact: int = 256, iterations: int = 20, seed: int = 0) -> Singular:
    """Compute singular values from the pullback alone.

    Args:
        pull: sends an adjoint shaped like `of` (N, …) to one shaped like `wrt` (N, …); linear, examples do not mix.
        of, wrt: the values of the two nodes.
        exact: all singular values are computed where one side of the Jacobian is at most this long.
        iterations: steps of power iteration elsewhere.
        seed: fixes the random probes.

    >>> matrix = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    >>> singular(lambda u: u @ matrix, torch.zeros(1, 2), torch.zeros(1, 2)).values
    tensor([[3., 1.]])
    """
    rows, columns = of[0].numel(), wrt[0].numel()
    if min(rows, columns) <= exact:
        jacobian = _by_rows(pull, of) if rows <= columns else _by_columns(pull, of, wrt)  # (N, rows, columns)
        values = torch.linalg.svdvals(jacobian)
        return Singular(values[:, 0], values.square().sum(1).div(rows).sqrt(), values)
    generator = rng.generator(seed, "singular")
    probes = [_unit(torch.randn(of.shape, generator=generator, dtype=of.dtype).to(of.device)) for _ in range(8)]
    gain = torch.stack([_norm(pull(probe)).square() for probe in probes]).mean(0).sqrt()
    push, adjoint = pushforward(pull, of), probes[0]
    for _ in range(iterations):
        adjoint = push(_unit(pull(adjoint)))
    return Singular(_norm(adjoint), gain, None)


def pushforward(pull: Pull, of: Tensor) -> Callable[[Tensor], Tensor]:
    """The Jacobian times a tangent, from the pullback: the derivative of u ↦ ⟨pull(u), tangent⟩."""
    with torch.enable_grad():
        adjoint = torch.zeros_like(of, requires_grad=True)
        pulled = pull(adjoint)

    def push(tangent: Tensor) -> Tensor:
        if not pulled.requires_grad:
            return torch.zeros_like(of)
        moved = torch.autograd.grad(pulled, adjoint, tangent, retain_graph=True, allow_unused=True)[0]
        return torch.zeros_like(of) if moved is None else moved

    return push


def _by_rows(pull: Pull, of: Tensor) -> Float[Tensor, "n r c"]:
    rows = []
    for place in range(of[0].numel()):
        seed = torch.zeros_like(of)
        seed.flatten(1)[:, place] = 1
        rows.append(pull(seed).flatten(1))
    return torch.stack(rows, 1)


def _by_columns(pull: Pull, of: Tensor, wrt: Tensor) -> Float[Tensor, "n r c"]:
    push, columns = pushforward(pull, of), []
    for place in range(wrt[0].numel()):
        tangent = torch.zeros_like(wrt)
        tangent.flatten(1)[:, place] = 1
        columns.append(push(tangent).flatten(1))
    return torch.stack(columns, 2)


def _norm(values: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    return values.flatten(1).norm(dim=1)


def _unit(values: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
    """Each example divided by its length; zeros stay zeros."""
    length = _norm(values).clamp(min=torch.finfo(values.dtype).tiny)
    return values / length.view(-1, *[1] * (values.dim() - 1))
