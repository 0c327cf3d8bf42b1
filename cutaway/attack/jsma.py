"""The saliency-map attack: change as few pixels as possible, two at a time, each all the way."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.attack.losses import Goal, Logits, Values
from cutaway.attack.oracle import Model
from cutaway.attack.problem import Problem, measured_in, pose
from cutaway.attack.result import Attack, settle
from cutaway.attack.search import Keeper, firm
from cutaway.errors import ArgumentError, nearest
from cutaway.progress import Tick, bar

DIRECTIONS = {"up": (1.0,), "down": (-1.0,), "both": (1.0, -1.0)}


def _own(logits: Logits, goal: Goal) -> tuple[Values, Logits]:
    seed = torch.zeros_like(logits).scatter(1, goal.pivot[:, None], -float(goal.sign))  # the target up, the label down
    return (seed * logits).sum(1), seed


def _rest(logits: Logits, goal: Goal) -> tuple[Values, Logits]:
    seed = torch.full_like(logits, float(goal.sign)).scatter(1, goal.pivot[:, None], 0.0)
    return (seed * logits).sum(1), seed


def saliency(part: Problem, point: Tensor, signs: tuple[float, ...]) -> tuple[Tensor, Tensor, Bool[Tensor, "n s"]]:
    """What each possible change of an entry does to the pivot's logit and to the others, as far as that is wanted.

    Args:
        part: the images.
        point: where they are now (N, C, H, W).
        signs: the directions in which an entry may move.

    Returns:
        gain and loss (N, S·D) per unit of change, both positive when wanted, and which entries can still move.
    """
    own = part.oracle.ascent(point, _own, part.goal).gradient.flatten(1)  # (N, D)
    rest = part.oracle.ascent(point, _rest, part.goal).gradient.flatten(1)
    flat = point.flatten(1)
    clean = part.x.flatten(1)  # an entry goes on the way it went first, so that the search ends
    can = [(flat < 1) & (flat >= clean) if sign > 0 else (flat > 0) & (flat <= clean) for sign in signs]
    return torch.cat([s * own for s in signs], 1), torch.cat([s * rest for s in signs], 1), torch.cat(can, 1)


def best_single(gain: Tensor, loss: Tensor, can: Tensor) -> tuple[Int[Tensor, "n 1"], Bool[Tensor, "n"]]:
    """The change with the largest gain · loss of those where both are positive."""
    product = torch.where(can & (gain > 0) & (loss > 0), gain * loss, float("-inf"))
    best = product.max(1)
    return best.indices[:, None], best.values > 0


def best_pair(gain: Tensor, loss: Tensor, can: Tensor) -> tuple[Int[Tensor, "n 2"], Bool[Tensor, "n"]]:
    """The pair with the largest product of the summed gains and the summed losses, both positive.

    Of all pairs only few have to be tried: a change that two others beat in gain and in loss can be replaced by one of
    them, so that both members of the best pair are beaten by one other at most.
    """
    width = gain.shape[1]
    gain, loss = gain.masked_fill(~can, float("-inf")), loss.masked_fill(~can, float("-inf"))
    order = gain.argsort(dim=1, descending=True, stable=True)
    sorted_loss = loss.gather(1, order)
    most = sorted_loss.cummax(1).values
    before = torch.cat([torch.full_like(most[:, :1], float("-inf")), most[:, :-1]], 1)
    second = torch.minimum(sorted_loss, before).cummax(1).values  # running second largest
    second = torch.cat([torch.full_like(second[:, :1], float("-inf")), second[:, :-1]], 1)
    worth = (sorted_loss > second) & can.gather(1, order)  # beaten by one at most
    worth[:, :2] |= can.gather(1, order[:, :2])
    count = max(int(worth.sum(1).max()), 2)
    place = torch.where(worth, torch.arange(width, device=gain.device), width).sort(1).values[:, :count]  # (N, P)
    none = place >= width
    chosen = order.gather(1, place.clamp(max=width - 1))
    a, b = (values.gather(1, chosen).masked_fill(none, float("-inf")) for values in (gain, loss))
    sums, falls = a[:, :, None] + a[:, None], b[:, :, None] + b[:, None]  # (N, P, P)
    fits = (sums > 0) & (falls > 0) & ~torch.eye(count, dtype=torch.bool, device=gain.device)
    best = torch.where(fits, sums * falls, float("-inf")).flatten(1).max(1)
    pair = torch.stack([best.indices // count, best.indices % count], 1)
    return chosen.gather(1, pair), best.values > 0


def search(problem: Problem, theta: float, most: int, pairs: bool, signs: tuple[float, ...], tick: Tick) -> Keeper:
    """Move the most salient entries until the goal is reached or `most` entries have been touched."""
    keeper, choose = Keeper(problem, solved_score=0.0), best_pair if pairs else best_single
    rows = keeper.open()
    part = problem.keep(rows)
    point, touched = part.x, torch.zeros_like(part.x.flatten(1), dtype=torch.bool)
    while len(rows):
        chosen, found = choose(*saliency(part, point, signs))
        change = torch.zeros(len(rows), len(signs), touched.shape[1], dtype=point.dtype, device=point.device)
        change.view(len(rows), -1).scatter_(1, chosen, theta)
        change = (change * change.new_tensor(signs)[:, None]).sum(1)  # (N, D)
        touched = touched | (change != 0)
        found &= touched.sum(1) <= most
        point = torch.where(found[:, None, None, None], (point + change.view_as(point)).clamp(0, 1), point)
        won = firm(part.goal, part.oracle.logits(point)) & found
        distance = part.lengths(point - part.x)
        keeper.offer(rows, point, won, -distance)
        keeper.note(rows, distance)
        tick(keeper.words())
        stay = (found & ~won).nonzero()[:, 0]
        rows, part, point, touched = rows[stay], part.keep(stay), point[stay], touched[stay]
    keeper.give_back(problem)
    return keeper


def jsma(
    model: Model,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, "n"],
    *,
    norm: str = "l0",
    target: int | Int[Tensor, "n"] | None = None,
    theta: float = 1.0,
    share: float = 0.145,
    pairs: bool = True,
    direction: str = "up",
    seed: int = 0,
    control: bool = True,
    batch_size: int = 256,
    progress: bool = True,
) -> Attack:
    """Change few pixels: move the pair of entries that raises the target's logit and lowers the others' most.

    Without a target the label's logit is to fall and the others' sum to rise (a variant of the source's attack).

    Args:
        model: module or function from images (N, C, H, W) to logits (N, K), differentiable.
        x: images (N, C, H, W) in [0, 1].
        y: their labels (N,).
        norm: "l0", the norm of this attack: pixels that differ in any channel.
        target: the class wanted, one for all or one each; None wants any other class.
        theta: how far an entry moves at a time, in (0, 1]; at 1 it goes to the end of its range.
        share: of the C·H·W entries how many may be changed, in (0, 1]; an image that needs more is given back as it
            was, without success.
        pairs: choose two entries at a time; False chooses one, which needs both signs right in a single entry.
        direction: "up" (brighter), "down" or "both".
        seed, control, batch_size, progress: see `pgd`. The control sets as many random pixels to their farther ends.

    Raises:
        ArgumentError: see `pgd`; also another norm.
        LookupFailure: an unknown direction.

    The trace holds the number of pixels changed after each step.

    Source: Papernot et al., "The limitations of deep learning in adversarial settings", 2016, algorithms 2 and 3;
    untargeted and in both directions: Wiyatno, Xu, "Maximal Jacobian-based saliency map attack", 2018.

    >>> import torch
    >>> x, y = torch.tensor([[[[0.6, 0.1], [0.3, 0.3]]]]), torch.tensor([0])
    >>> found = jsma(lambda x: x.flatten(1) - x.mean(), x, y, share=0.5, pairs=False, target=1)
    >>> found.success, found.distance, found.x.flatten()
    (tensor([True]), tensor([1.], dtype=torch.float64), tensor([0.6000, 1.0000, 0.3000, 0.3000]))
    """
    if not 0 < theta <= 1 or not 0 < share <= 1:
        raise ArgumentError(f"theta={theta!r}, share={share!r}: expected both in (0, 1]")
    if direction not in DIRECTIONS:
        raise nearest(direction, DIRECTIONS, "direction")
    measured_in(("l0",), norm)
    problem = pose(model, x, y, eps=None, norm=norm, target=target, seed=seed, batch_size=batch_size)
    most = max(int(share * x[0].numel()), 2 if pairs else 1)
    with bar("jsma", None, progress) as tick:
        keeper = search(problem, theta, most, pairs, DIRECTIONS[direction], tick)
    settings = {"theta": theta, "share": share, "pairs": pairs, "direction": direction}
    return settle(problem, "jsma", keeper.x, keeper.lines(), settings, control, seed, None)
