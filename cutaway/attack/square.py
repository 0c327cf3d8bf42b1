"""Square attack: random search with square-shaped changes, which asks for logits only."""

from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cutaway.attack.draws import Draws
from cutaway.attack.norms import spread
from cutaway.attack.oracle import Model
from cutaway.attack.problem import Problem, pose
from cutaway.attack.result import Attack, settle
from cutaway.attack.search import Keeper
from cutaway.attack.walk import at_least, named_loss
from cutaway.errors import ArgumentError
from cutaway.progress import Tick, bar

WORTH = 20  # forward passes after which a capture has paid
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries after which the square's area halves


def area(query: int, first: float, scale: float = 1.0) -> float:
    """The share of the image that the square of a query covers."""
    return first * 0.5 ** sum(query > step * scale for step in HALVINGS)


def _side(query: int, first: float, scale: float, height: int, width: int) -> int:
    side = round((area(query, first, scale) * height * width) ** 0.5)
    return min(max(side, 1), height - 1 if height > 1 else 1, width - 1 if width > 1 else 1)


def _window(shape: tuple[int, ...], side: int, draws: Draws, *name: object) -> tuple[Tensor, Tensor]:
    """For each example the place inside a random window: row and column (N, H, 1), (N, 1, W), outside it negative."""
    _, height, width = shape
    top = draws.integer(height - side + 1, *name, "top")[:, None, None]
    left = draws.integer(width - side + 1, *name, "left")[:, None, None]
    device = top.device
    rows = torch.arange(height, device=device)[None, :, None] - top
    columns = torch.arange(width, device=device)[None, None, :] - left
    rows = torch.where((rows >= 0) & (rows < side), rows, -1)
    columns = torch.where((columns >= 0) & (columns < side), columns, -1)
    return rows, columns


def _stripes(part: Problem) -> Tensor:
    channels, _, width = part.x.shape[1:]
    signs = part.draws.sign((channels, 1, width), "stripes").to(part.x.dtype)
    return (part.x + spread(part.radii, part.x) * signs).clamp(0, 1)


def _square_linf(part: Problem, best: Tensor, side: int, query: int) -> Tensor:
    shape = tuple(part.x.shape[1:])
    rows, columns = _window(shape, side, part.draws, "window", query)
    inside = ((rows >= 0) & (columns >= 0))[:, None]  # (N, 1, H, W)
    signs = part.draws.sign((shape[0], 1, 1), "colour", query).to(best.dtype)
    return torch.where(inside, (part.x + spread(part.radii, part.x) * signs).clamp(0, 1), best)


@cache
def _bump(side: int) -> Tensor:
    """Two heaps of opposite sign, one above the other, of length 1: the shape of an L2 change (side, side)."""

    def heap(height: int, width: int) -> Tensor:
        across = torch.minimum(torch.arange(height), torch.arange(height).flip(0))[:, None]
        along = torch.minimum(torch.arange(width), torch.arange(width).flip(0))[None]
        level = torch.minimum(across, along).double()
        rings = int(level.max()) + 1
        reach = torch.tensor([sum(1 / (rings - k) ** 2 for k in range(int(n) + 1)) for n in range(rings)])
        return reach.double()[level.long()]  # rises towards the middle

    half = max(side // 2, 1)
    made = torch.cat([heap(half, side), -heap(side - half, side)]) if side > 1 else torch.ones(1, 1).double()
    return made / made.norm()


def _turned(side: int, draws: Draws, *name: object) -> Tensor:
    """The bump of each example, turned or not (N, side, side)."""
    shape = _bump(side).to(draws.index.device)
    return torch.where(draws.sign((), *name)[:, None, None] > 0, shape, shape.T)


def _placed(pattern: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """A pattern (N, s, s) put into its window: (N, H, W), zero outside."""
    count, side, _ = pattern.shape
    flat = (rows.clamp(min=0) * side + columns.clamp(min=0)).view(count, -1)
    put = pattern.reshape(count, -1).gather(1, flat).view(count, rows.shape[1], columns.shape[2])
    return put * ((rows >= 0) & (columns >= 0))


def _tiles(part: Problem) -> Tensor:
    channels, height, width = part.x.shape[1:]
    side = max(min(height, width) // 5, 1)
    change = part.x.new_zeros(part.x.shape, dtype=torch.float64)
    for top in range(0, height - side + 1, side):
        for left in range(0, width - side + 1, side):
            bump = _turned(side, part.draws, "turn", top, left)[:, None]
            signs = part.draws.sign((channels, 1, 1), "tile", top, left)
            change[:, :, top : top + side, left : left + side] = bump * signs
    return _on_sphere(part, change)


def _on_sphere(part: Problem, change: Tensor) -> Tensor:
    """The change grown or shrunk to the radius, inside the box: for L1, projected."""
    if part.norm == "l2":
        return part.geometry.ascend(part.x, change.to(part.x.dtype), part.radii)
    total = change.abs().flatten(1).sum(1).clamp(min=1e-12)
    moved = part.x + change * spread(part.radii.double() / total, change)
    return part.geometry.project(part.x, moved.to(part.x.dtype), part.radii)


def _square_l2(part: Problem, best: Tensor, side: int, query: int) -> Tensor:
    """Take the budget of one window, and what is left over, for a bump in another."""
    channels = part.x.shape[1]
    change = (best - part.x).double()
    side = min(max(side, 3), *part.x.shape[2:])
    here = _window(tuple(part.x.shape[1:]), side, part.draws, "window", query)
    there = _window(tuple(part.x.shape[1:]), side, part.draws, "given up", query)
    inside, given = (((rows >= 0) & (columns >= 0))[:, None] for rows, columns in (here, there))  # (N, 1, H, W)
    size = torch.linalg.vector_norm if part.norm == "l2" else lambda v, **at: v.abs().sum(**at)
    power = 2 if part.norm == "l2" else 1
    budget = size(change * (inside | given), dim=(2, 3)) ** power  # (N, C)
    spare = (part.radii.double() ** power - part.geometry.lengths(change) ** power).clamp(min=0)
    wanted = (budget + spare[:, None] / channels) ** (1 / power)
    bump = _placed(_turned(side, part.draws, "turn", query), *here)[:, None]
    bump = bump * part.draws.sign((channels, 1, 1), "colour", query)
    old = change * inside
    bump = bump + old / size(old, dim=(2, 3)).clamp(min=1e-12)[:, :, None, None]
    bump = bump / size(bump, dim=(2, 3)).clamp(min=1e-12)[:, :, None, None]
    change = torch.where(inside, bump * wanted[:, :, None, None], change * ~(inside | given))
    return _on_sphere(part, change)


Propose = Callable[[Problem, Tensor, int, int], Tensor]
MOVES: dict[str, tuple[Callable[[Problem], Tensor], Propose]] = {
    "linf": (_stripes, _square_linf),
    "l2": (_tiles, _square_l2),
    "l1": (_tiles, _square_l2),
}


def search(problem: Problem, queries: int, first: float, scale: float, loss: str, tick: Tick) -> Keeper:
    """Keep a proposal when it raises the loss; examples leave when they succeed."""
    keeper, value = Keeper(problem), named_loss(loss)
    begin, propose = MOVES[problem.norm]
    rows = keeper.open()
    part = problem.keep(rows)
    if queries > WORTH and isinstance(problem.oracle.model, nn.Module):  # any other function is a black box
        problem.oracle.follow(problem.x)
    for query in range(queries):
        if not len(rows):
            break
        side = _side(query - 1, first, scale, *part.x.shape[2:])
        point = begin(part) if query == 0 else propose(part, keeper.x[rows], side, query - 1)
        logits = problem.oracle.look(point)
        reached = part.goal.reached(logits)
        keeper.offer(rows, point, reached, value(logits, part.goal)[0])
        keeper.note(rows, keeper.score[rows])
        tick(keeper.words())
        if reached.any():
            rows = keeper.open()
            part = problem.keep(rows)
    return keeper


def square(
    model: Model,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, "n"],
    *,
    eps: float,
    norm: str = "linf",
    target: int | Int[Tensor, "n"] | None = None,
    queries: int = 5000,
    first: float = 0.8,
    rescaled: bool = False,
    loss: str = "margin",
    seed: int = 0,
    control: bool = True,
    batch_size: int = 256,
    progress: bool = True,
) -> Attack:
    """Search at random with squares of pixels, asking for logits only: no gradient can be hidden from it.

    Args:
        model: module or function from images (N, C, H, W) to logits (N, K); it need not be differentiable.
        x: images (N, C, H, W) in [0, 1].
        y: their labels (N,).
        eps: bound on the distance in `norm`, in pixel units.
        norm: "linf", "l2" or "l1".
        target: the class wanted, one for all or one each; None wants any other class.
        queries: forward passes per image at most.
        first: share of the image that the first squares cover, in (0, 1].
        rescaled: shrink the squares in proportion to `queries` (False: as if there were 10,000).
        loss: "margin", "cross_entropy" or "dlr".
        seed: what image i draws depends on the seed and on i only.
        control: measure random noise of the same distance beside it.
        batch_size: the most images given to the model at once.
        progress: show a bar when stderr is a terminal.

    Raises:
        ArgumentError: images outside [0, 1], labels or targets that are no classes, eps out of range, logits with NaN.

    Source: Andriushchenko, Croce, Flammarion, Hein, "Square Attack", 2020, algorithms 1–3.

    >>> import torch
    >>> model = lambda x: (x.flatten(1)[:, :2] * 4).round()
    >>> square(model, torch.tensor([[[[0.6, 0.5]]]]), torch.tensor([0]), eps=0.2, queries=9).success
    tensor([True])
    """
    at_least(1, queries=queries)
    if not 0 < first <= 1:
        raise ArgumentError(f"first={first!r}: expected a share of the image in (0, 1]")
    problem = pose(model, x, y, eps=eps, norm=norm, target=target, seed=seed, batch_size=batch_size)
    with bar("square", queries, progress) as tick:
        keeper = search(problem, queries, first, queries / 10_000 if rescaled else 1.0, loss, tick)
    settings = {"queries": queries, "first": first, "rescaled": rescaled, "loss": loss}
    return settle(problem, "square", keeper.x, keeper.lines(), settings, control, seed, eps)
