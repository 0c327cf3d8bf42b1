"""Max-sensitivity: by how much a map changes when the input changes a little."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway import graph as G
from cutaway import rng
from cutaway.explain.frame import Compute
from cutaway.explain.objective import Objective
from cutaway.progress import track

UNSTABLE = 1.0  # a change of the map as large as the map itself


def max_sensitivity(
    compute: Compute,
    graph: G.Graph,
    x: Float[Tensor, "n ..."],
    goal: Objective,
    values: Float[Tensor, "n ..."],
    settings: Mapping[str, Any],
    *,
    radius: float,
    samples: int,
    seed: int,
    progress: bool = False,
) -> Float[Tensor, " n"]:
    """The largest relative change of each map over inputs near its own: max ‖Φ(y) − Φ(x)‖ / ‖Φ(x)‖.

    Args:
        compute: the method on a graph.
        graph: the model's graph.
        x: the inputs.
        goal: the objective; the target classes are those of x throughout.
        values: the method's map for x.
        settings: the method's arguments.
        radius: neighbours y are uniform in the cube ‖y − x‖∞ ≤ radius.
        samples: how many are drawn; the same change for every example.
        seed: fixes them.
        progress: whether to show a progress bar on a terminal.

    Returns:
        (N,), NaN for a map of zeros; more samples can only find a larger one.

    Source: C.-K. Yeh et al., On the (In)fidelity and Sensitivity of Explanations, 2019, definition 3.1, by sampling.
    """
    trained = values.flatten(1).cpu().double()
    found = torch.zeros(len(x), dtype=torch.float64)
    for change in track(neighbours(x, radius, samples, seed), "moving the input", progress):
        moved = compute(graph, x + change.to(x.device), goal, **settings).values.flatten(1).cpu().double()
        found = torch.maximum(found, (moved - trained).norm(dim=1))
    size = trained.norm(dim=1)
    return torch.where(size > 0, found / size, torch.nan)


def neighbours(x: Float[Tensor, "n ..."], radius: float, samples: int, seed: int) -> list[Float[Tensor, "1 ..."]]:
    """Changes of the input, uniform in the cube of a radius.

    >>> len(neighbours(torch.zeros(2, 3), 0.1, 4, 0))
    4
    """
    generator = rng.generator(seed, "max_sensitivity")
    return [radius * (2 * torch.rand(x[:1].shape, generator=generator, dtype=x.dtype) - 1) for _ in range(samples)]
