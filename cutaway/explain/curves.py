"""Insertion and deletion: does the output follow when the places a map calls important come or go?"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from cutaway import graph as G
from cutaway import rng
from cutaway.errors import ArgumentError, nearest
from cutaway.explain.frame import outputs, repeated, repeats
from cutaway.explain.objective import Objective
from cutaway.explain.similarity import magnitude

Fill = str | float | Tensor


@dataclass(frozen=True, eq=False)
class Curve:
    """How the output goes as places are deleted from, or inserted into, the input in a map's order.

    Attributes:
        kind: "deletion" or "insertion".
        shares: share of the places changed, from 0 to 1 (S,).
        values: probability of the target (or the user's function) at each share (N, S).
        random: the same for a random order of the places (N, S).
        area: area under each example's curve (N,); a good map has a small one for deletion, a large one for insertion.
        random_area: area under the curve of the random order (N,).
    """

    kind: str
    shares: Float[Tensor, " s"]
    values: Float[Tensor, "n s"]
    random: Float[Tensor, "n s"]

    @property
    def area(self) -> Float[Tensor, " n"]:
        return torch.trapezoid(self.values, self.shares)

    @property
    def random_area(self) -> Float[Tensor, " n"]:
        return torch.trapezoid(self.random, self.shares)

    @property
    def gain(self) -> float:
        """By how much the map's order does better than a random one: mean difference of the areas."""
        better = self.area - self.random_area if self.kind == "insertion" else self.random_area - self.area
        return float(better.mean())


def curve(
    kind: str,
    graph: G.Graph,
    x: Float[Tensor, "n c ..."],
    goal: Objective,
    importance: Float[Tensor, "n ..."],
    *,
    fill: Fill,
    steps: int,
    seed: int,
) -> Curve:
    """Compute an insertion or deletion curve and the one of a random order.

    Args:
        kind: "deletion" starts from x and fills in the most important places first; "insertion" starts from the filled
            input and puts them back.
        graph: the model's graph.
        x: the inputs.
        goal: the objective, with its targets.
        importance: how important each place is, (N, H, W) for images (N, C, H, W), (N, F) for tables.
        fill: what a deleted place holds: "mean" (of the image's channel), "blur", "zero", a number or a tensor.
        steps: number of equal shares.
        seed: fixes the random order and the order of equally important places.

    Source: V. Petsiuk, A. Das, K. Saenko, RISE: Randomized Input Sampling for Explanation, 2018, section 4.3.
    """
    generator = rng.generator(seed, "curve", kind)
    filled, flat = filling(x, fill), importance.flatten(1)
    chance = torch.rand(flat.shape, generator=generator).to(x.device)
    shares = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    start, end = (x, filled) if kind == "deletion" else (filled, x)
    found = [
        _walk(graph, start, end, goal, positions(order, chance), shares)
        for order in (flat, torch.rand(flat.shape, generator=generator).to(x.device))
    ]
    return Curve(kind, shares, found[0], found[1])


def positions(importance: Float[Tensor, "n p"], chance: Float[Tensor, "n p"]) -> Int[Tensor, "n p"]:
    """The place of each entry in descending order (0 for the largest); `chance` decides between equal ones.

    >>> import torch
    >>> positions(torch.tensor([[0.1, 0.9, 0.5]]), torch.rand(1, 3))
    tensor([[2, 0, 1]])
    """
    first = chance.argsort(dim=1)
    order = first.gather(1, importance.gather(1, first).argsort(dim=1, descending=True, stable=True))
    return torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )


def _walk(
    graph: G.Graph, start: Tensor, end: Tensor, goal: Objective, position: Tensor, shares: Tensor
) -> Float[Tensor, "n s"]:
    """The measured number along the way from `start` to `end`, places in the order of their position."""
    places = position.shape[1]
    shape = position.shape if start.dim() == 2 else (len(start), 1, *start.shape[2:])
    position, found = position.view(shape), []  # (N, 1, H, W)
    for chunk in repeats(graph, start, len(shares)):
        batch = [torch.where(position < round(float(shares[k]) * places), end, start) for k in chunk]
        value = measured(repeated(goal, len(chunk)), outputs(graph, torch.cat(batch)))  # (chunk · N,)
        found.append(value.unflatten(0, (len(chunk), len(start))))
    return torch.cat(found).T.cpu().double()


def measured(goal: Objective, output: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """What curves show: the target's probability, or the user's function."""
    if callable(goal.of):
        return goal.value(output)
    return output.softmax(1).gather(1, goal.classes(output)[:, None])[:, 0]


def places(values: Float[Tensor, "n c ..."], x: Float[Tensor, "n c ..."], signed: bool) -> Float[Tensor, "n ..."]:
    """How important each place of the input is: a layer's map is upsampled first, channels are summed.

    Args:
        values: a method's map.
        x: the inputs.
        signed: whether what speaks against the target counts as unimportant (else its magnitude counts).
    """
    if values.dim() > 2 and values.shape[2:] != x.shape[2:]:
        mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[values.dim()]
        values = F.interpolate(values, tuple(x.shape[2:]), mode=mode, align_corners=False)
    if not signed:
        return magnitude(values)
    return values.sum(1) if values.dim() > 2 else values


def _mean(x: Tensor) -> Tensor:
    return x.flatten(2).mean(2).view(*x.shape[:2], *[1] * (x.dim() - 2)).expand_as(x) if x.dim() > 2 else _zero(x)


def _zero(x: Tensor) -> Tensor:
    return torch.zeros_like(x)


def _blur(x: Tensor) -> Tensor:
    """Blur an image by a Gaussian whose standard deviation is 1/20 of the longer side (at least one pixel)."""
    if x.dim() != 4:
        return _mean(x)
    sigma = max(1.0, max(x.shape[2:]) / 20)
    for dim in (2, 3):
        reach = min(int(3 * sigma), x.shape[dim] - 1)
        line = torch.exp(-(torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device) ** 2) / (2 * sigma**2))
        kernel = (line / line.sum()).view(1, 1, -1, 1) if dim == 2 else (line / line.sum()).view(1, 1, 1, -1)
        padding = (0, 0, reach, reach) if dim == 2 else (reach, reach, 0, 0)
        x = F.conv2d(F.pad(x, padding, mode="reflect").flatten(0, 1)[:, None], kernel).view(x.shape)
    return x


FILLS: dict[str, Callable[[Tensor], Tensor]] = {"mean": _mean, "zero": _zero, "blur": _blur}


def filling(x: Float[Tensor, "n c ..."], fill: Fill) -> Float[Tensor, "n c ..."]:
    """What stands in the place of deleted parts of x.

    Raises:
        LookupFailure: the name is unknown.
        ArgumentError: a tensor does not broadcast to x.
    """
    if isinstance(fill, str):
        if fill not in FILLS:
            raise nearest(fill, FILLS, "fill")
        return FILLS[fill](x)
    given = torch.as_tensor(fill, dtype=x.dtype, device=x.device)
    try:
        return given.expand_as(x)
    except RuntimeError:
        raise ArgumentError(
            f"a fill of shape {tuple(given.shape)} does not broadcast to inputs of shape {tuple(x.shape)}"
        ) from None
