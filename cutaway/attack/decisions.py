"""What attacks share that ask for decisions only: where to start, and the way back to the boundary."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from cutaway.attack.norms import spread
from cutaway.attack.problem import Problem
from cutaway.attack.search import Keeper, firm
from cutaway.errors import ArgumentError

TRIES = 60  # random images that are looked at to find one of another class


def decide(part: Problem, images: Float[Tensor, "n c h w"]) -> Bool[Tensor, "n"]:
    """Whether the model decides as wanted, by more than rounding; the one question these attacks ask."""
    return firm(part.goal, part.oracle.logits(images))


def begin(problem: Problem, start: Float[Tensor, "n c h w"] | None) -> tuple[Keeper, Int[Tensor, "m"]]:
    """Starts for the examples that need one, offered to a keeper; and the examples that have one.

    Args:
        problem: the images.
        start: images of another class (of the target class); None looks among random images.

    Raises:
        ArgumentError: a start of another shape, outside [0, 1] or without the class wanted; no start for a target.
    """
    keeper = Keeper(problem, solved_score=0.0)
    rows = keeper.open()
    if start is not None:
        _given(problem, keeper, rows, start)
    elif problem.goal.target is not None:
        raise ArgumentError(
            "a targeted attack that asks for decisions only has to start from images that the model takes for the "
            "target: give start=, images (N, C, H, W)"
        )
    else:
        for number in range(TRIES):
            left = keeper.open()
            if not len(left):
                break
            _offer(problem, keeper, left, _random_images(problem.keep(left), number))
    return keeper, rows[keeper.success[rows]]


def _offer(problem: Problem, keeper: Keeper, rows: Tensor, images: Tensor) -> None:
    part = problem.keep(rows)
    keeper.offer(rows, images, decide(part, images), -part.lengths(images - part.x))


def _given(problem: Problem, keeper: Keeper, rows: Tensor, start: Tensor) -> None:
    if not isinstance(start, Tensor) or start.shape != problem.x.shape or start.min() < 0 or start.max() > 1:
        got = tuple(start.shape) if isinstance(start, Tensor) else type(start).__name__
        raise ArgumentError(f"start is {got}; expected images in [0, 1] of the shape of x, {tuple(problem.x.shape)}")
    if len(rows):
        _offer(problem, keeper, rows, start.to(problem.x)[rows])
    bad = keeper.open()
    if len(bad):
        row = int(bad[0])
        goal = "the target" if problem.goal.target is not None else "another class than the label"
        raise ArgumentError(
            f"start[{row}] is not classified as {goal} (label {int(problem.goal.label[row])}); "
            "these attacks begin at an image that the model takes for what is wanted"
        )


def _random_images(part: Problem, number: int) -> Tensor:
    """Uniform noise, fine and coarse by turns: networks take fine noise for one class or two only."""
    height, width = part.x.shape[2:]
    grain = (1, 2, 4, 8, max(height, width))[number % 5]
    size = (part.x.shape[1], -(-height // grain), -(-width // grain))
    noise = part.draws.uniform(size, "start", number).to(part.x.dtype)
    return F.interpolate(noise, scale_factor=grain, mode="nearest")[..., :height, :width]


def blend(part: Problem, far: Tensor, share: Tensor) -> Tensor:
    """The image a share of the way from the clean one to another: along the line, or, for L∞, cut to that distance."""
    if part.norm == "linf":
        reach = spread(share * part.lengths(far - part.x), far)
        return torch.maximum(torch.minimum(far, part.x + reach), part.x - reach).clamp(0, 1)
    return (part.x + spread(share, far) * (far - part.x)).clamp(0, 1)


def to_boundary(part: Problem, far: Float[Tensor, "n c h w"], halvings: int) -> Float[Tensor, "n c h w"]:
    """Bisect between the clean images and images that are as wanted; the ends that are as wanted."""
    low = torch.zeros(len(far), dtype=torch.float64, device=far.device)
    high = torch.ones_like(low)
    best = far
    for _ in range(halvings):
        middle = (low + high) / 2
        point = blend(part, far, middle)
        won = decide(part, point)
        low, high = torch.where(won, low, middle), torch.where(won, middle, high)
        best = torch.where(spread(won, best).bool(), point, best)
    return best
