"""Geometry of a norm ball around an image, cut by the box [0, 1] of valid pixels.

A norm is a row of the table `NORMS`. All functions take images x (N, C, H, W) and work on each example by itself;
radii are tensors (N,). Ball and box are always met together, so that what is optimal is optimal for real images.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.attack.draws import Draws

Images = Float[Tensor, "n c h w"]
Radii = Float[Tensor, "n"]


def spread(values: Radii, like: Tensor) -> Tensor:
    """Shape (N,) numbers so that they multiply images: (N, 1, 1, 1)."""
    return values.to(like.dtype).view(-1, *[1] * (like.dim() - 1))


def chosen(which: Bool[Tensor, "n"], some: Tensor, others: Tensor) -> Tensor:
    """The examples of `some` where it says so, elsewhere those of `others`; copied only where they are mixed."""
    if which.all():
        return some
    return torch.where(which.view(-1, *[1] * (some.dim() - 1)), some, others) if which.any() else others


def _room(x: Tensor, sign: Tensor) -> Tensor:
    return torch.where(sign > 0, 1 - x, x)  # how far each pixel can go in the direction of the sign


def _added(x: Images, change: Tensor) -> Images:
    return (x + change.view_as(x).to(x.dtype)).clamp(0, 1)


def _fill_l2(x: Images, direction: Tensor, radii: Radii) -> Images:
    """The point clip(x + s·direction) at distance `radii`, or the corner of the box if the ball reaches beyond it."""
    x64, d = x.flatten(1).double(), direction.flatten(1).double()  # (N, D)
    room, size = _room(x64, d), d.abs()
    full = torch.zeros_like(size, dtype=torch.bool)  # pixels that have met the box
    budget = radii.double().square()[:, None]
    while True:  # each round only adds pixels to `full`, so it ends
        free = (size.masked_fill(full, 0).square()).sum(1, keepdim=True)
        left = (budget - (room.square() * full).sum(1, keepdim=True)).clamp(min=0)
        scale = torch.where(free > 0, (left / free.clamp(min=1e-300)).sqrt(), 0.0)  # (N, 1)
        met = full | (scale * size > room)
        if torch.equal(met, full):
            return _added(x, d.sign() * torch.where(full, room, scale * size))
        full = met


def _project_l2(x: Images, point: Images, radii: Radii) -> Images:
    change = point - x
    inside = (x + change).clamp(0, 1)
    far = lengths_l2(inside - x) > radii
    if not far.any():
        return inside
    # The nearest point of ball and box is clip(x + s·change) for the s that meets the radius (KKT conditions).
    return torch.where(spread(far, x).bool(), _fill_l2(x, change, radii), inside)


def _project_l1(x: Images, point: Images, radii: Radii) -> Images:
    x64, change = x.flatten(1).double(), (point - x).flatten(1).double()  # (N, D)
    room, size = _room(x64, change), change.abs()
    # The nearest point moves each pixel by min(max(size − λ, 0), room); the sum falls piecewise linearly in λ.
    knots, order = torch.cat([size, size - room], 1).clamp(min=0).sort(1, descending=True)  # (N, 2D)
    slopes = torch.cat([torch.ones_like(size), -torch.ones_like(size)], 1).gather(1, order).cumsum(1)
    lower = torch.cat([knots[:, 1:], torch.zeros_like(knots[:, :1])], 1)
    sums = (slopes * (knots - lower)).cumsum(1)  # the sum of movements when λ is at the next knot
    at = torch.searchsorted(sums.cummax(1).values, radii.double()[:, None]).clamp(max=sums.shape[1] - 1)
    excess = (sums.gather(1, at) - radii.double()[:, None]).clamp(min=0)
    threshold = lower.gather(1, at) + excess / slopes.gather(1, at).clamp(min=1)
    return _added(x, change.sign() * torch.minimum((size - threshold).clamp(min=0), room))


def _project_linf(x: Images, point: Images, radii: Radii) -> Images:
    r = spread(radii, x)
    return torch.clamp(point, (x - r).clamp_(min=0), (x + r).clamp_(max=1))


def _ascend_linf(x: Images, gradient: Images, radii: Radii) -> Images:
    return gradient.sign().mul_(spread(radii, x)).add_(x).clamp_(0, 1)


def _ascend_l1(x: Images, gradient: Images, radii: Radii) -> Images:
    g = gradient.flatten(1).double()
    room = _room(x.flatten(1).double(), g) * (g != 0)
    order = g.abs().argsort(dim=1, descending=True, stable=True)  # the steepest pixels are used up first
    sorted_room = room.gather(1, order)
    before = sorted_room.cumsum(1) - sorted_room
    used = torch.minimum((radii.double()[:, None] - before).clamp(min=0), sorted_room)
    return _added(x, g.sign() * torch.zeros_like(g).scatter(1, order, used))


def _step_linf(x: Images, gradient: Images, size: Radii) -> Images:
    return gradient.sign().mul_(spread(size, x)).add_(x)


def _step_l2(x: Images, gradient: Images, size: Radii) -> Images:
    length = lengths_l2(gradient)
    return x + gradient * spread(torch.where(length > 0, size / length.clamp(min=1e-300), 0.0), x)


SPARSITY = 0.05  # share of the pixels that one L1 step moves


def _step_l1(x: Images, gradient: Images, size: Radii) -> Images:
    g = gradient.flatten(1)
    usable = g.abs() * (_room(x.flatten(1), g) > 0)  # pixels at the box cannot go further
    count = max(1, round(SPARSITY * g.shape[1]))
    top = usable.topk(count, dim=1).indices
    chosen = torch.zeros_like(g).scatter(1, top, 1.0) * (usable > 0)
    share = chosen / chosen.sum(1, keepdim=True).clamp(min=1)
    return x + spread(size, x) * (g.sign() * share).view_as(x)


def _noise_linf(x: Images, radii: Radii, draws: Draws, *name: object) -> Images:
    return _ascend_linf(x, draws.sign(tuple(x.shape[1:]), *name).to(x.dtype), radii)


def _noise_l2(x: Images, radii: Radii, draws: Draws, *name: object) -> Images:
    return _fill_l2(x, draws.normal(tuple(x.shape[1:]), *name), radii)


def _noise_l1(x: Images, radii: Radii, draws: Draws, *name: object) -> Images:
    # As many whole pixels as the radius buys, in random order, each towards its farther end: small L1 balls are sparse.
    shape = tuple(x.shape[1:])
    rank = draws.uniform(shape, *name, "order") + 1e-9
    return _ascend_l1(x, torch.where(x < 0.5, rank, -rank), radii)


def _noise_l0(x: Images, radii: Radii, draws: Draws, *name: object) -> Images:
    """As many random pixels as the radius says, every channel at its farther end."""
    rank = draws.uniform(tuple(x.shape[2:]), *name).flatten(1).argsort(1).argsort(1)  # (N, H·W)
    chosen = (rank < radii[:, None]).view(-1, 1, *x.shape[2:])
    return torch.where(chosen, torch.where(x < 0.5, 1.0, 0.0).to(x.dtype), x)


def _inside_linf(x: Images, radii: Radii, draws: Draws, *name: object) -> Images:
    shift = (2 * draws.uniform(tuple(x.shape[1:]), *name) - 1).to(x.dtype)
    return (x + spread(radii, x) * shift).clamp(0, 1)


def _inside_l2(x: Images, radii: Radii, draws: Draws, *name: object) -> Images:
    direction = draws.normal(tuple(x.shape[1:]), *name)
    share = draws.uniform((), *name, "length") ** (1 / x[0].numel())  # uniform in the volume of the ball
    unit = direction / spread(lengths_l2(direction), direction)
    return (x + (spread(radii * share, unit) * unit).to(x.dtype)).clamp(0, 1)


def _inside_l1(x: Images, radii: Radii, draws: Draws, *name: object) -> Images:
    shape = tuple(x.shape[1:])
    laplace = -torch.log1p(-draws.uniform(shape, *name)) * draws.sign(shape, *name, "sign")
    share = draws.uniform((), *name, "length")
    unit = laplace / spread(lengths_l1(laplace), laplace)
    return (x + (spread(radii * share, unit) * unit).to(x.dtype)).clamp(0, 1)


def lengths_linf(change: Tensor) -> Radii:
    """The largest change of a pixel."""
    return torch.linalg.vector_norm(change.flatten(1), float("inf"), 1).double()


def lengths_l2(change: Tensor) -> Radii:
    """Root of the sum of squares."""
    return torch.linalg.vector_norm(change.flatten(1), 2, 1, dtype=torch.float64)


def lengths_l1(change: Tensor) -> Radii:
    """Sum of the absolute changes."""
    return torch.linalg.vector_norm(change.flatten(1), 1, 1, dtype=torch.float64)


def lengths_l0(change: Tensor) -> Radii:
    """Pixels changed: a pixel counts once, whatever its channels do."""
    return (change.abs().amax(1) > 0).flatten(1).double().sum(1)


@dataclass(frozen=True)
class Norm:
    """One row of the table of norms.

    Attributes:
        lengths: sizes (N,) of changes (N, C, H, W), in float64.
        project: (x, point, radii) → the nearest point of ball and box.
        ascend: (x, gradient, radii) → the point of ball and box with the largest ⟨gradient, point − x⟩.
        step: (x, gradient, size) → x moved by `size` in the norm's steepest direction, not projected.
        noise: (x, radii, draws, name…) → random points on the ball's surface, inside the box.
        inside: (x, radii, draws, name…) → random points inside ball and box.
        largest: (D) → the radius beyond which the whole box lies in the ball.
    """

    lengths: Callable[[Tensor], Radii]
    project: Callable[[Images, Images, Radii], Images]
    ascend: Callable[[Images, Images, Radii], Images]
    step: Callable[[Images, Images, Radii], Images]
    noise: Callable[..., Images]
    inside: Callable[..., Images]
    largest: Callable[[int], float]


NORMS: dict[str, Norm] = {
    "linf": Norm(lengths_linf, _project_linf, _ascend_linf, _step_linf, _noise_linf, _inside_linf, lambda d: 1.0),
    "l2": Norm(lengths_l2, _project_l2, _fill_l2, _step_l2, _noise_l2, _inside_l2, lambda d: d**0.5),
    "l1": Norm(lengths_l1, _project_l1, _ascend_l1, _step_l1, _noise_l1, _inside_l1, lambda d: float(d)),
}
DUALS = {"linf": 1, "l2": 2, "l1": float("inf")}  # the order of the norm that measures gradients
LENGTHS: dict[str, Callable[[Tensor], Radii]] = {name: norm.lengths for name, norm in NORMS.items()} | {
    "l0": lengths_l0
}
NOISES: dict[str, Callable[..., Images]] = {name: norm.noise for name, norm in NORMS.items()} | {"l0": _noise_l0}
