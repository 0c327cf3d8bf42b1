"""The boundary attack: a random walk along the decision boundary towards the image, asking for decisions only."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.attack.decisions import begin, decide, to_boundary
from cutaway.attack.norms import lengths_l2, spread
from cutaway.attack.oracle import Model
from cutaway.attack.problem import Problem, measured_in, pose
from cutaway.attack.result import Attack, settle
from cutaway.attack.search import Keeper
from cutaway.attack.walk import at_least
from cutaway.progress import Tick, bar

EVERY = 5  # steps between looks at the sideways step by itself
SIDEWAYS, FORWARD = 0.5, 0.2  # shares of sideways steps and of whole steps that should stay beyond the boundary
LEAST = 1e-6  # of the step towards the image: below it nothing is gained


def _sideways(part: Problem, point: Tensor, size: Tensor, step: int) -> Tensor:
    """A random step across the line to the clean image, at the same distance from it."""
    away = (point - part.x).double()
    distance = lengths_l2(away)
    noise = part.draws.normal(tuple(point.shape[1:]), "sideways", step)
    along = (noise * away).flatten(1).sum(1) / distance.square().clamp(min=1e-30)
    noise = noise - spread(along, noise) * away
    moved = away + noise * spread(size * distance / lengths_l2(noise).clamp(min=1e-30), noise)
    moved = moved * spread(distance / lengths_l2(moved).clamp(min=1e-30), moved)
    return (part.x + moved.to(point.dtype)).clamp(0, 1)


def search(problem: Problem, keeper: Keeper, rows: Tensor, how: dict, tick: Tick) -> None:
    """Walk: a step sideways, a step towards the image; both sizes follow how often they stay beyond the boundary."""
    part = problem.keep(rows)
    point = to_boundary(part, keeper.x[rows], 10) if len(rows) else keeper.x[rows]
    size = torch.full((len(rows),), how["sideways"], dtype=torch.float64, device=rows.device)
    ahead = torch.full_like(size, how["forward"])
    for step in range(how["steps"]):
        if not len(rows):
            break
        round_ = _sideways(part, point, size, step)
        if step % EVERY == 0:
            stayed = decide(part, round_).double()
            factor = (EVERY * how["pace"] * (stayed - SIDEWAYS)).exp()
            size, ahead = size * factor, ahead * factor
        nearer = (round_ + spread(ahead, point) * (part.x - round_)).clamp(0, 1)
        won = decide(part, nearer) & (part.lengths(nearer - part.x) < part.lengths(point - part.x))
        point = torch.where(spread(won, point).bool(), nearer, point)
        ahead = (ahead * (how["pace"] * (won.double() - FORWARD)).exp()).clamp(max=0.5)
        distance = part.lengths(point - part.x)
        keeper.offer(rows, point, torch.ones_like(won), -distance)
        keeper.note(rows, distance)
        tick(f"median distance {float(distance.median()):.4g}")
        stay = (ahead > LEAST).nonzero()[:, 0]
        if len(stay) < len(rows):
            rows, part, point, size, ahead = rows[stay], part.keep(stay), point[stay], size[stay], ahead[stay]


def boundary(
    model: Model,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, "n"],
    *,
    norm: str = "l2",
    target: int | Int[Tensor, "n"] | None = None,
    start: Float[Tensor, "n c h w"] | None = None,
    steps: int = 5000,
    sideways: float = 0.1,
    forward: float = 0.1,
    pace: float = 0.1,
    seed: int = 0,
    control: bool = True,
    batch_size: int = 256,
    progress: bool = True,
) -> Attack:
    """Walk along the decision boundary towards the image: only the model's decisions are asked for.

    Args:
        model: module or function from images (N, C, H, W) to logits (N, K); it need not be differentiable, and its
            logits may be 0 and 1 for the class decided.
        x: images (N, C, H, W) in [0, 1].
        y: their labels (N,).
        norm: "l2", the norm of this attack.
        target: the class wanted, one for all or one each; it needs a start. None wants any other class.
        start: images (N, C, H, W) that the model takes for another class (for the target); None looks for some among
            random images, fine and coarse.
        steps: of the walk; an example leaves when its steps have become too small to gain anything.
        sideways, forward: first lengths of the step across and of the step towards the image, as shares of the
            distance; they follow how often such steps succeed (half and a fifth of the times is aimed at).
        pace: how fast they follow.
        seed: what image i draws depends on the seed and on i only.
        control, batch_size, progress: see `pgd`.

    Raises:
        ArgumentError: images outside [0, 1], labels or targets that are no classes, a start that is not classified as
            wanted, a target without a start, logits with NaN; also another norm.

    Where no start is found the image is given back as it was. The trace holds the distance after each step.

    Source: Brendel, Rauber, Bethge, "Decision-based adversarial attacks", 2018, algorithm 1.

    >>> import torch
    >>> decided = lambda x: torch.eye(2)[(x[:, 0, 0, 1] > x[:, 0, 0, 0]).long()]
    >>> found = boundary(decided, torch.tensor([[[[0.6, 0.4]]]]), torch.tensor([0]), steps=300)
    >>> found.success, round(float(found.distance), 2), found.asked["gradients"]  # the boundary is at 0.1414
    (tensor([True]), 0.14, 0)
    """
    at_least(1, steps=steps)
    at_least(0, sideways=sideways, forward=forward, pace=pace)
    measured_in(("l2",), norm)
    problem = pose(model, x, y, eps=None, norm=norm, target=target, seed=seed, batch_size=batch_size)
    how = {"steps": steps, "sideways": sideways, "forward": forward, "pace": pace}
    keeper, rows = begin(problem, start)
    with bar("boundary", steps, progress) as tick:
        search(problem, keeper, rows, how, tick)
    keeper.give_back(problem)
    settings = how | {"start": "given" if start is not None else "random"}
    return settle(problem, "boundary", keeper.x, keeper.lines(), settings, control, seed, None)
