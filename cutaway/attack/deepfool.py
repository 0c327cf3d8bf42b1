"""DeepFool: the nearest decision boundary of the linearised model, step by step."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.attack.norms import DUALS, NORMS, spread
from cutaway.attack.oracle import Model
from cutaway.attack.problem import Problem, measured_in, survey
from cutaway.attack.result import Attack, settle
from cutaway.attack.search import Keeper, contenders, firm, linearized
from cutaway.attack.walk import at_least
from cutaway.progress import Tick, bar


def _nearest(part: Problem, point: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Size (N,) and normal (N, C, H, W) of the step to the nearest linearised boundary."""
    _, gaps, normals = linearized(part, point, part.goal.label[:, None], others)  # (N, R), (N, R, D)
    lengths = torch.linalg.vector_norm(normals, DUALS[part.norm], dim=2)
    sizes = torch.where(lengths > 0, gaps.abs() / lengths.clamp(min=1e-30), float("inf"))
    best = sizes.argmin(1)
    every = torch.arange(len(point), device=point.device)
    return sizes[every, best], normals[every, best].view_as(point)


def search(problem: Problem, steps: int, overshoot: float, candidates: int, tick: Tick) -> Keeper:
    """Step to the nearest boundary until the goal is reached, a little beyond it."""
    keeper = Keeper(problem, solved_score=0.0)
    rows = keeper.open()
    part, others = problem.keep(rows), contenders(problem, candidates)[rows]
    total = torch.zeros_like(part.x)
    for _ in range(steps):
        if not len(rows):
            break
        point = (part.x + (1 + overshoot) * total).clamp(0, 1)
        size, normal = _nearest(part, point, others)
        size = torch.where(torch.isfinite(size), size, 0.0)
        unit = NORMS[part.norm].step(torch.zeros_like(normal), normal, torch.ones_like(size))
        total = total + unit * spread(size + 1e-7, unit)
        moved = (part.x + (1 + overshoot) * total).clamp(0, 1)
        logits = part.oracle.look(moved)
        reached = firm(part.goal, logits)
        keeper.offer(rows, moved, reached, -part.geometry.lengths(moved - part.x))
        keeper.note(rows, part.geometry.lengths(moved - part.x))
        tick(keeper.words())
        stay = (~reached).nonzero()[:, 0]
        rows, part, others, total = rows[stay], part.keep(stay), others[stay], total[stay]
    keeper.give_back(problem)
    return keeper


def deepfool(
    model: Model,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, "n"],
    *,
    norm: str = "l2",
    target: int | Int[Tensor, "n"] | None = None,
    steps: int = 50,
    overshoot: float = 0.02,
    candidates: int = 9,
    seed: int = 0,
    control: bool = True,
    batch_size: int = 256,
    progress: bool = True,
) -> Attack:
    """Find a small perturbation by stepping to the nearest boundary of the linearised model.

    Args:
        model: module or function from images (N, C, H, W) to logits (N, K), differentiable.
        x: images (N, C, H, W) in [0, 1].
        y: their labels (N,).
        norm: "l2" or "linf": the distance to be made small.
        target: the class wanted, one for all or one each; None takes the nearest.
        steps: linearisations at most; where they do not suffice the image is given back as it was, without success.
        overshoot: how far beyond the boundary to go, as a share of the whole perturbation.
        candidates: how many other classes, the likeliest first, are tried.
        seed, control, batch_size, progress: see `pgd`.

    Raises:
        ArgumentError: see `pgd`; also another norm.

    The trace holds the distance after each step. An image counts as fooled only when the new class leads by more than
    rounding, so that the result holds in any batch size.

    Source: Moosavi-Dezfooli, Fawzi, Frossard, "DeepFool", 2016, algorithm 2 and section 3.3.

    >>> import torch
    >>> found = deepfool(lambda x: x.flatten(1), torch.tensor([[[[0.6, 0.4]]]]), torch.tensor([0]), overshoot=0.01)
    >>> found.success, round(float(found.distance), 3)  # the boundary is at 0.2/√2 = 0.1414
    (tensor([True]), 0.143)
    """
    at_least(1, steps=steps, candidates=candidates)
    at_least(0, overshoot=overshoot)
    measured_in(("l2", "linf"), norm)
    problem = survey(model, x, y, eps=None, norm=norm, target=target, seed=seed, batch_size=batch_size)
    with bar("deepfool", steps, progress) as tick:
        keeper = search(problem, steps, overshoot, candidates, tick)
    settings = {"steps": steps, "overshoot": overshoot, "candidates": candidates}
    return settle(problem, "deepfool", keeper.x, keeper.lines(), settings, control, seed, None)
