"""Infidelity: how far a map is from telling by how much the output changes when parts of the input are replaced."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway import graph as G
from cutaway import rng
from cutaway.explain.curves import places
from cutaway.explain.frame import numbers, outputs, repeats
from cutaway.explain.objective import Objective
from cutaway.explain.picture import SENSITIVITIES

RATES = (*SENSITIVITIES, "guided_grad_cam")  # maps whose values are per unit of input, not shares of the output
LARGEST = 0.5  # of each side, the largest square


@dataclass(frozen=True, eq=False)
class Infidelity:
    """How well a map foretells what replacing parts of the input does to the output.

    Attributes:
        values: expected squared error of each example (N,), in squares of the explained number, the map multiplied by
            its best factor β; 0 is best.
        scale: that factor, E[p · Δ] / E[p²] (N,), for foretold changes p and true ones Δ; 0 where p is always 0.
        unscaled: the expected squared error of the map as it is, E[(p − Δ)²] (N,).
        changes: E[Δ²] (N,): the expected squared error of a map of zeros.
        shuffled: what `values` would be for the same map with its places in random order (N,).
    """

    values: Float[Tensor, " n"]
    scale: Float[Tensor, " n"]
    unscaled: Float[Tensor, " n"]
    changes: Float[Tensor, " n"]
    shuffled: Float[Tensor, " n"]

    @property
    def unexplained(self) -> Float[Tensor, " n"]:
        """The share of the squared changes that the map does not foretell, from 0 to 1 (N,)."""
        return self.values / self.changes.clamp(min=1e-300)


def infidelity(
    graph: G.Graph,
    x: Float[Tensor, "n c ..."],
    goal: Objective,
    weights: Float[Tensor, "n ..."],
    filled: Float[Tensor, "n c ..."],
    masks: Bool[Tensor, "s ..."],
    seed: int = 0,
) -> Infidelity:
    """Compute the infidelity of a map for given parts of the input.

    Args:
        graph: the model's graph.
        x: the inputs.
        goal: the objective, with its targets.
        weights: what each place adds to the foretold change when it is replaced, see `foretold`.
        filled: what replaced places hold.
        masks: the places replaced together, S times, the same for every example: (S, H, W), (S, L) or (S, F).
        seed: fixes the order of the shuffled map.

    Source: C.-K. Yeh et al., On the (In)fidelity and Sensitivity of Explanations, 2019, definition 2.1; the best factor
    as in its experiments, since a map's scale is arbitrary for most methods.
    """
    before = goal.value(outputs(graph.optimized(), x)).cpu().double()
    changes = [before - after for after in _replaced(graph, x, goal, filled, masks)]
    true = torch.stack(changes)  # (S, N)
    parts, flat = masks.flatten(1).double(), weights.flatten(1).cpu().double()
    order = torch.randperm(flat.shape[1], generator=rng.generator(seed, "infidelity", "shuffled"))
    foretelling, control = parts @ flat.T, parts @ flat[:, order].T  # (S, N)
    values, scale = _scaled(foretelling, true)
    unscaled = (foretelling - true).square().mean(0)
    return Infidelity(values, scale, unscaled, true.square().mean(0), _scaled(control, true)[0])


def foretold(
    method: str, values: Float[Tensor, "n ..."], x: Float[Tensor, "n c ..."], filled: Float[Tensor, "n c ..."]
) -> Float[Tensor, "n ..."]:
    """By how much a map says that the output falls when each place is replaced, (N, H, W), (N, L) or (N, F).

    A rate of change is multiplied by the change of the place; a share of the output goes as a whole.
    """
    if method in RATES and values.shape == x.shape:
        product = values * (x - filled)
        return product.sum(1) if product.dim() > 2 else product
    return places(values, x, signed=True)


def parts(x: Float[Tensor, "n c ..."], samples: int, seed: int) -> Bool[Tensor, "s ..."]:
    """Draw the parts to replace: rectangles of images, intervals of signals, sets of a table's columns.

    Each side is uniform between one place and half of the input's side, each position equally likely.

    Source: C.-K. Yeh et al., On the (In)fidelity and Sensitivity of Explanations, 2019, section 2.3 ("square removal").

    >>> parts(torch.zeros(1, 3, 4, 6), 5, 0).shape
    torch.Size([5, 4, 6])
    """
    generator = rng.generator(seed, "infidelity")
    if x.dim() == 2:
        chance = torch.rand(samples, x.shape[1], generator=generator)
        count = torch.randint(1, max(2, int(LARGEST * x.shape[1]) + 1), (samples, 1), generator=generator)
        return chance.argsort(1).argsort(1) < count
    found = torch.ones(samples, *x.shape[2:], dtype=torch.bool)
    for axis, side in enumerate(x.shape[2:]):
        length = torch.randint(1, max(2, int(LARGEST * side) + 1), (samples, 1), generator=generator)
        start = (torch.rand(samples, 1, generator=generator) * (side - length + 1)).long()
        place = torch.arange(side)
        inside = (place >= start) & (place < start + length)  # (S, side)
        found &= inside.view(samples, *[side if each == axis else 1 for each in range(x.dim() - 2)])
    return found


def _replaced(graph: G.Graph, x: Tensor, goal: Objective, filled: Tensor, masks: Tensor) -> list[Tensor]:
    """The explained number of every example (N,), after each of the parts was replaced."""
    found: list[Tensor] = []
    for chunk in repeats(graph, x, len(masks)):
        chosen = masks[chunk.start : chunk.stop].to(x.device)
        chosen = chosen[:, None] if x.dim() == 2 else chosen[:, None, None]  # (s, 1, 1, H, W)
        batch = torch.where(chosen, filled, x).flatten(0, 1)  # (s · N, C, H, W)
        found += numbers(graph, batch, goal, len(chunk)).cpu().double()
    return found


def _scaled(foretelling: Float[Tensor, "s n"], true: Float[Tensor, "s n"]) -> tuple[Tensor, Tensor]:
    """The mean squared error under the best factor, and that factor."""
    norm = foretelling.square().mean(0)
    scale = torch.where(norm > 0, (foretelling * true).mean(0) / norm.clamp(min=1e-300), 0.0)
    return (scale * foretelling - true).square().mean(0), scale
