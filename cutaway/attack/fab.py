"""Fast adaptive boundary attack: the smallest perturbation, by steps to the linearised boundary drawn to the image."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.attack.losses import Goal, without
from cutaway.attack.norms import DUALS, spread
from cutaway.attack.oracle import Model
from cutaway.attack.problem import Problem, survey
from cutaway.attack.result import Attack, settle
from cutaway.attack.search import Keeper, contenders, firm, linearized
from cutaway.attack.walk import at_least
from cutaway.progress import Tick, bar

BIAS = 0.1  # the largest weight of the step from the clean image
OVERSHOOT = 1.05
BACK = 0.9  # how far a solved point keeps from the clean image when it is drawn back


def onto_plane(x: Tensor, normal: Tensor, need: Tensor, norm: str) -> Tensor:
    """The smallest change (N, D) in the norm, inside the box, with ⟨normal, change⟩ = need; as near as the box lets.

    Args:
        x, normal: points and normals (N, D).
        need: (N,) what the scalar product has to grow by.
        norm: "linf", "l2" or "l1".
    """
    x, w, goal = x.double(), normal.double(), need.double()
    sign = w.sign() * goal.sign()[:, None]
    size, room, goal = w.abs(), torch.where(sign > 0, 1 - x, x), goal.abs()[:, None]  # (N, D), (N, 1)
    if norm == "l1":  # the steepest pixels first, each as far as it can go
        order = size.argsort(dim=1, descending=True, stable=True)
        gains = (size * room).gather(1, order)
        left = (goal - (gains.cumsum(1) - gains)).clamp(min=0)
        used = torch.minimum(left / size.gather(1, order).clamp(min=1e-300), room.gather(1, order))
        return sign * torch.zeros_like(size).scatter(1, order, used)
    rate = torch.ones_like(size) if norm == "linf" else size  # how fast each pixel moves
    ends, order = torch.where(rate > 0, room / rate.clamp(min=1e-300), float("inf")).sort(1)  # when it meets the box
    slopes = (size * rate).gather(1, order)
    slope = slopes.sum(1, keepdim=True) - (slopes.cumsum(1) - slopes)  # of the gain, before each end
    spans = torch.diff(ends.nan_to_num(posinf=0.0), dim=1, prepend=torch.zeros_like(goal)).clamp(min=0)
    gained = (slope * spans).cumsum(1)
    at = torch.searchsorted(gained, goal).clamp(max=size.shape[1] - 1)
    slow = slope.gather(1, at).clamp(min=1e-300)
    time = ends.gather(1, at) - (gained.gather(1, at) - goal).clamp(min=0) / slow
    time = torch.where(gained[:, -1:] < goal, ends.nan_to_num(posinf=0.0).amax(1, keepdim=True), time)
    return sign * torch.minimum(time * rate, room)


def _step(part: Problem, point: Tensor, pivots: Tensor, rivals: Tensor) -> Tensor:
    """The next point: beyond the nearest linearised boundary, a little towards its nearest point to the image."""
    _, gaps, normals = linearized(part, point, pivots, rivals)  # (N, R), positive beyond the boundary; (N, R, D)
    lengths = torch.linalg.vector_norm(normals, DUALS[part.norm], dim=2)
    best = (gaps.abs() / (lengths + 1e-12)).argmin(1)
    every = torch.arange(len(point), device=point.device)
    normal, gap = normals[every, best], gaps[every, best]
    clean, here = part.x.flatten(1), point.flatten(1)
    from_here = onto_plane(here, normal, -gap, part.norm).view_as(point)
    need = -gap.double() + ((here - clean).double() * normal.double()).sum(1)
    from_clean = onto_plane(clean, normal, need, part.norm).view_as(point)
    near, far = (part.geometry.lengths(change).clamp(min=1e-8) for change in (from_here, from_clean))
    share = spread((near / (near + far)).clamp(max=BIAS), from_here)
    moved = (point + OVERSHOOT * from_here) * (1 - share) + (part.x + OVERSHOOT * from_clean) * share
    return moved.to(point.dtype).clamp(0, 1)


def _pivots(goal: Goal, logits: Tensor) -> Int[Tensor, "n 1"]:
    """The class to get away from: the label, or whatever leads when a target is wanted."""
    return (goal.label if goal.target is None else without(logits, goal.target).argmax(1))[:, None]


def search(problem: Problem, rivals: Tensor, steps: int, tick: Tick, bounded: bool = False) -> Keeper:
    """Go to the boundary, fall back towards the image, and again; with `bounded` stop inside the ball.

    Args:
        problem: the images; its radii end the search of an example when `bounded`.
        rivals: (N, R) the classes whose boundaries are looked at.
        steps: how many.
        tick: called after each step.
        bounded: whether a result inside the radius is good enough.
    """
    keeper = Keeper(problem, solved_score=0.0)
    rows = keeper.open()
    part, rivals, point, logits = problem.keep(rows), rivals[rows], problem.x[rows], problem.clean[rows]
    for _ in range(steps):
        if not len(rows):
            break
        point = _step(part, point, _pivots(part.goal, logits), rivals)
        logits = part.oracle.look(point)
        distance = part.geometry.lengths(point - part.x)
        won = firm(part.goal, logits)
        keeper.offer(rows, point, won, -distance)
        keeper.note(rows, distance)
        tick(keeper.words())
        point = torch.where(spread(won, point).bool(), part.x + BACK * (point - part.x), point)
        if bounded and (won & (distance <= part.radii)).any():
            stay = (~(won & (distance <= part.radii))).nonzero()[:, 0]
            rows, part, rivals, point, logits = rows[stay], part.keep(stay), rivals[stay], point[stay], logits[stay]
    keeper.give_back(problem, problem.geometry.lengths(keeper.x - problem.x) > problem.radii if bounded else None)
    return keeper


def fab(
    model: Model,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, "n"],
    *,
    norm: str = "linf",
    target: int | Int[Tensor, "n"] | None = None,
    steps: int = 100,
    candidates: int = 9,
    seed: int = 0,
    control: bool = True,
    batch_size: int = 256,
    progress: bool = True,
) -> Attack:
    """Find a small perturbation: step onto the linearised boundary, drawn towards the image, fall back, repeat.

    Args:
        model: module or function from images (N, C, H, W) to logits (N, K), differentiable.
        x: images (N, C, H, W) in [0, 1].
        y: their labels (N,).
        norm: "linf", "l2" or "l1": the distance to be made small.
        target: the class wanted, one for all or one each; None takes the nearest of the candidates.
        steps: how many.
        candidates: how many other classes, the likeliest first, are looked at.
        seed, control, batch_size, progress: see `pgd`.

    Raises:
        ArgumentError: see `pgd`.

    Where the attack fails the image is given back as it was. The trace holds the distance after each step.

    Source: Croce, Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", 2020,
    algorithm 1.

    >>> import torch
    >>> found = fab(lambda x: x.flatten(1), torch.tensor([[[[0.6, 0.4]]]]), torch.tensor([0]), steps=20)
    >>> found.success, round(float(found.distance), 2)  # the boundary is at 0.1
    (tensor([True]), 0.1)
    """
    at_least(1, steps=steps, candidates=candidates)
    problem = survey(model, x, y, eps=None, norm=norm, target=target, seed=seed, batch_size=batch_size)
    with bar("fab", steps, progress) as tick:
        keeper = search(problem, contenders(problem, candidates), steps, tick)
    settings = {"steps": steps, "candidates": candidates}
    return settle(problem, "fab", keeper.x, keeper.lines(), settings, control, seed, None)
