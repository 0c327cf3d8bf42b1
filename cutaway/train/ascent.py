"""The bare loop that walks up the loss inside a ball, for adversaries that do it at every training step."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway import graph as engine
from cutaway.errors import ArgumentError, CaptureError
from cutaway.nets.modes import evaluating

Slope = Callable[[Tensor], Tensor]  # inputs -> gradient


@dataclass(frozen=True)
class Ball:
    """One row of the table of balls.

    Attributes:
        inside: (x, eps, generator) → a random point of ball and box.
        move: (point, gradient, length) → the point moved in the steepest direction.
        project: (x, point, eps) → the point brought back into the ball.
    """

    inside: Callable[[Tensor, float, torch.Generator], Tensor]
    move: Callable[[Tensor, Tensor, float], Tensor]
    project: Callable[[Tensor, Tensor, float], Tensor]


def _inside_linf(x: Tensor, eps: float, draw: torch.Generator) -> Tensor:
    uniform = torch.rand(x.shape, generator=draw, device=x.device, dtype=x.dtype)
    return (x + eps * (2 * uniform - 1)).clamp(0, 1)


def _inside_l2(x: Tensor, eps: float, draw: torch.Generator) -> Tensor:
    direction = torch.randn(x.shape, generator=draw, device=x.device, dtype=x.dtype)
    share = torch.rand(len(x), generator=draw, device=x.device, dtype=x.dtype) ** (1 / x[0].numel())
    return (x + direction * (eps * share / direction.flatten(1).norm(dim=1)).view(_rows(x))).clamp(0, 1)


def _move_l2(point: Tensor, gradient: Tensor, length: float) -> Tensor:
    norms = gradient.flatten(1).norm(dim=1).clamp_min(1e-30)  # a gradient that is zero moves nothing
    return point + gradient * (length / norms).view(_rows(point))


def _project_l2(x: Tensor, point: Tensor, eps: float) -> Tensor:
    change = point - x
    norms = change.flatten(1).norm(dim=1).clamp_min(1e-30)
    return x + change * (eps / norms).clamp_max(1).view(_rows(x))


def _rows(x: Tensor) -> tuple[int, ...]:
    return (-1, *[1] * (x.dim() - 1))


BALLS: dict[str, Ball] = {
    "linf": Ball(
        _inside_linf,
        lambda point, gradient, length: point + length * gradient.sign(),
        lambda x, point, eps: torch.minimum(torch.maximum(point, x - eps), x + eps),
    ),
    "l2": Ball(_inside_l2, _move_l2, _project_l2),
}


def ascend(
    model: nn.Module,
    x: Float[Tensor, "n ..."],
    begin: Float[Tensor, "n ..."],
    wanted: Float[Tensor, "n k"],
    eps: float,
    step_size: float,
    steps: int,
    norm: str = "linf",
) -> Float[Tensor, "n ..."]:
    """Walk up the cross-entropy between the network's answers and given probabilities, in evaluation mode.

    Args:
        model: from inputs to logits (N, K); it stays as it is.
        x: the ball's centres, in [0, 1].
        begin: where the walk begins.
        wanted: class probabilities to get away from.
        eps: the ball's radius.
        step_size: length of a step in the norm.
        steps: how many, each for one gradient.
        norm: "linf" or "l2".

    >>> net = nn.Linear(1, 2); net.weight.data = torch.tensor([[1.0], [-1.0]])
    >>> x = torch.tensor([[0.5]])
    >>> ascend(net, x, x, torch.tensor([[1.0, 0.0]]), eps=0.1, step_size=0.05, steps=5)
    tensor([[0.4000]])
    """
    row, slope, point = BALLS[norm], gradient_of(model, x, wanted), begin
    for _ in range(steps):
        point = row.move(point, slope(point), step_size)
        point = row.project(x, point, eps).clamp(0, 1)
    return point


def gradient_of(model: nn.Module, x: Tensor, wanted: Float[Tensor, "n k"]) -> Slope:
    """The gradient of the cross-entropy by the inputs, from the engine or, for what it cannot capture, autograd."""
    try:
        graph = engine.capture(model, x, train=False)
    except CaptureError:
        return lambda point: by_autograd(model, point, wanted)
    program = graph.optimized().gradient()  # kept with the graph; it reads the weights as they are now

    def slope(point: Tensor) -> Tensor:
        found = program(point, seed=lambda answers: answers.softmax(1) - wanted)
        return found if isinstance(found, Tensor) else found[0]

    return slope


def by_autograd(model: nn.Module, point: Tensor, wanted: Tensor) -> Tensor:
    """The gradient of the cross-entropy by the inputs, summed over the batch, in evaluation mode.

    >>> net = nn.Linear(1, 2); net.weight.data = torch.tensor([[1.0], [-1.0]]); net.bias.data *= 0
    >>> by_autograd(net, torch.zeros(1, 1), torch.tensor([[1.0, 0.0]]))
    tensor([[-1.]])
    """
    leaf = point.detach().requires_grad_(True)
    with evaluating(model), torch.enable_grad():
        answers = model(leaf)
        return torch.autograd.grad(answers, leaf, answers.detach().softmax(1) - wanted)[0]


@torch.no_grad()
def logits(model: nn.Module, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n k"]:
    """The network's answers in evaluation mode.

    Raises:
        ArgumentError: they are no logits (N, K).
    """
    with evaluating(model):
        found = model(x)
    if not isinstance(found, Tensor) or found.dim() != 2:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ArgumentError(f"the network gives {got}; this adversary needs logits of shape (N, K)")
    return found
