"""HopSkipJump: the gradient at the decision boundary, estimated from decisions only."""

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

MOST_PROBES = 10_000
HALVINGS = 25  # of a jump, after which an example leaves
FIRST_RADIUS = 0.1  # of the probes about the first point


def _probe(part: Problem, point: Tensor, radius: Tensor, step: int, numbers: range) -> tuple[Tensor, Tensor]:
    """Directions (N, B, D) really taken, inside the box, and whether they end where it is wanted (N, B), ±1."""
    shape = tuple(point.shape[1:])
    random = part.draws.normal if part.norm == "l2" else lambda size, *name: 2 * part.draws.uniform(size, *name) - 1
    noise = torch.stack([random(shape, "probe", step, number) for number in numbers], 1)  # (N, B, C, H, W)
    noise = noise / noise.flatten(2).norm(dim=2).view(*noise.shape[:2], 1, 1, 1)
    probes = (point[:, None] + (spread(radius, noise) * noise).to(point.dtype)).clamp(0, 1)
    many = part.keep(torch.arange(len(point), device=point.device).repeat_interleave(len(numbers)))
    signs = decide(many, probes.flatten(0, 1)).view(len(point), -1).double() * 2 - 1
    return ((probes - point[:, None]).double() / spread(radius, noise)).flatten(2), signs


def _uphill(part: Problem, point: Tensor, radius: Tensor, step: int, probes: int) -> Tensor:
    """The direction in which the decision is as wanted: probes weighted by their decision, less its mean."""
    chunk = max(part.oracle.batch_size // len(point), 1)
    count = point[0].numel()
    plain, weighted = (torch.zeros(len(point), count, dtype=torch.float64, device=point.device) for _ in range(2))
    total = torch.zeros(len(point), dtype=torch.float64, device=point.device)
    for first in range(0, probes, chunk):
        taken, signs = _probe(part, point, radius, step, range(first, min(first + chunk, probes)))
        plain += taken.sum(1)
        weighted += (taken * signs[:, :, None]).sum(1)
        total += signs.sum(1)
    mean = (total / probes)[:, None]
    one_sided = mean.abs() == 1  # all probes on one side: they say no more than which
    direction = torch.where(one_sided, mean * plain, weighted - mean * plain)
    return direction.view_as(point).to(point.dtype)


def _jump(part: Problem, point: Tensor, direction: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Go as far as distance/√step uphill, half as far until the decision is as wanted; the point, and who got there."""
    size = part.lengths(point - part.x) / step**0.5
    there = torch.zeros(len(point), dtype=torch.bool, device=point.device)
    best = point
    for _ in range(HALVINGS):
        left = (~there).nonzero()[:, 0]
        if not len(left):
            break
        some = part.keep(left)
        moved = some.geometry.step(point[left], direction[left], size[left]).clamp(0, 1)
        won = decide(some, moved)
        best = best.index_put((left[won],), moved[won])
        there[left[won]] = True
        size = size / 2
    return best, there


def search(problem: Problem, keeper: Keeper, rows: Tensor, steps: int, probes: int, tick: Tick) -> None:
    """Bisect to the boundary, estimate its normal, jump along it, again."""
    part = problem.keep(rows)
    size = max(problem.x[0].numel(), 4)
    within = size**-1.5 if problem.norm == "l2" else size**-2.0  # how near the boundary, as a share of the distance
    halvings = min(int(-torch.tensor(within).log2().floor()), 40)
    root = size**0.5 if problem.norm == "l2" else float(size)
    point = to_boundary(part, keeper.x[rows], halvings) if len(rows) else keeper.x[rows]
    before = part.lengths(keeper.x[rows] - part.x)
    for step in range(1, steps + 1):
        if not len(rows):
            break
        distance = part.lengths(point - part.x)
        keeper.offer(rows, point, torch.ones_like(rows, dtype=torch.bool), -distance)
        radius = torch.full_like(before, FIRST_RADIUS) if step == 1 else root * within * before
        count = min(int(probes * step**0.5), MOST_PROBES)
        direction = _uphill(part, point, radius.clamp(min=1e-6), step, count)
        point, there = _jump(part, point, direction, step)
        before = part.lengths(point - part.x)
        point = to_boundary(part, point, halvings)
        distance = part.lengths(point - part.x)
        keeper.offer(rows, point, torch.ones_like(there), -distance)
        keeper.note(rows, distance)
        tick(f"median distance {float(distance.median()):.4g}")
        stay = (there & (lengths_l2(direction) > 0)).nonzero()[:, 0]
        if len(stay) < len(rows):
            rows, part, point, before = rows[stay], part.keep(stay), point[stay], before[stay]


def hop_skip_jump(
    model: Model,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, "n"],
    *,
    norm: str = "l2",
    target: int | Int[Tensor, "n"] | None = None,
    start: Float[Tensor, "n c h w"] | None = None,
    steps: int = 30,
    probes: int = 100,
    seed: int = 0,
    control: bool = True,
    batch_size: int = 256,
    progress: bool = True,
) -> Attack:
    """Estimate the boundary's normal from decisions at random points about it, jump along it, bisect back, repeat.

    Args:
        model: module or function from images (N, C, H, W) to logits (N, K); it need not be differentiable, and its
            logits may be 0 and 1 for the class decided.
        x: images (N, C, H, W) in [0, 1].
        y: their labels (N,).
        norm: "l2" or "linf": the distance to be made small.
        target: the class wanted, one for all or one each; it needs a start. None wants any other class.
        start: see `boundary`.
        steps: estimates of the normal; an example leaves when no jump along it succeeds.
        probes: images about the point for the first estimate, √t times as many for the t-th. All steps together ask
            for about ⅔·probes·steps^1.5 images.
        seed: what image i draws depends on the seed and on i only.
        control, batch_size, progress: see `pgd`.

    Raises:
        ArgumentError: see `boundary`.

    Where no start is found the image is given back as it was. The trace holds the distance after each step.

    Source: Chen, Jordan, Wainwright, "HopSkipJumpAttack: A query-efficient decision-based attack", 2020, algorithm 2.

    >>> import torch
    >>> decided = lambda x: torch.eye(2)[(x[:, 0, 0, 1] > x[:, 0, 0, 0]).long()]
    >>> found = hop_skip_jump(decided, torch.tensor([[[[0.6, 0.4]]]]), torch.tensor([0]), norm="linf", steps=5)
    >>> found.success, round(float(found.distance), 2), found.asked["gradients"]  # the boundary is at 0.1
    (tensor([True]), 0.1, 0)
    """
    at_least(1, steps=steps, probes=probes)
    measured_in(("l2", "linf"), norm)
    problem = pose(model, x, y, eps=None, norm=norm, target=target, seed=seed, batch_size=batch_size)
    keeper, rows = begin(problem, start)
    with bar("hop_skip_jump", steps, progress) as tick:
        search(problem, keeper, rows, steps, probes, tick)
    keeper.give_back(problem)
    settings = {"steps": steps, "probes": probes, "start": "given" if start is not None else "random"}
    return settle(problem, "hop_skip_jump", keeper.x, keeper.lines(), settings, control, seed, None)
