"""One objective under several priors, side by side: what keeps an optimised image natural."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from cutaway.errors import ArgumentError, nearest
from cutaway.visualize.gallery import Gallery
from cutaway.visualize.objective import IMAGE, Objective
from cutaway.visualize.optimize import optimize
from cutaway.visualize.targets import blur, l2, logit, total_variation
from cutaway.visualize.transform import ROBUST, Crop

PENALTIES: dict[str, Callable[[], Objective]] = {"L2": l2, "TV": total_variation, "blur": blur}
# each prior: parametrisation, transformations, copies in one step
PRIORS: dict[str, tuple[str, tuple, int]] = {
    "none": ("pixels", (), 1),
    "L2": ("pixels", (), 1),
    "TV": ("pixels", (), 1),
    "blur": ("pixels", (), 1),
    "robust": ("pixels", ROBUST, 1),
    "Fourier": ("fourier", (), 1),
    "Fourier, robust": ("fourier", ROBUST, 1),
    "MACO": ("maco", (Crop(0.3, 0.8),), 4),
}


def priors(
    model: nn.Module | Callable,
    objective: Objective | int,
    *,
    names: Sequence[str] = tuple(PRIORS),
    share: float = 0.5,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> Gallery:
    """Make images for one objective, or one class, under several priors.

    Args:
        model: a module or function of images (N, C, H, W).
        objective: what to make larger; a class by its index.
        names: of the priors, as in `PRIORS`.
        share: how much the penalties (L2, TV, blur) count: each costs the image made without a prior this share of its
            objective, so that one number suits every network.
        seed: fixes all random numbers.
        progress: show bars on a terminal.
        options: of `optimize`: size, steps, ….

    Returns:
        one row for each prior; the scores include the penalty.

    Raises:
        LookupFailure: a prior is unknown.
        ArgumentError: share is negative, there is no prior, and as for `optimize`.

    Source: K. Simonyan, A. Vedaldi, A. Zisserman, Deep Inside Convolutional Networks, 2013; A. Nguyen, J. Yosinski,
    J. Clune, Understanding Neural Networks via Feature Visualization: A Survey, 2019, section 2.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> list(priors(net, 2, names=["none", "TV"], size=16, steps=2).rows)
    ['none', 'TV']
    """
    for name in names:
        if name not in PRIORS:
            raise nearest(name, PRIORS, "prior")
    if share < 0 or not names:
        raise ArgumentError(f"share={share}, names={list(names)}: expected share >= 0 and at least one prior")
    goal = logit([objective]) if isinstance(objective, int) else objective
    common = {"seed": seed, "progress": progress, **options}
    free = optimize(model, goal, parametrization="pixels", transformation=(), **common)
    rows = {}
    for name in names:
        made, moves, samples = PRIORS[name]
        wanted = goal
        if name in PENALTIES:
            penalty = PENALTIES[name]()
            cost = float(penalty.value({IMAGE: free.images}).mean())
            wanted = goal - (share * float(free.scores.abs().mean()) / max(cost, 1e-12)) * penalty
        settings = {"parametrization": made, "transformation": moves, "samples": samples, **common}
        rows[name] = free if name == "none" else optimize(model, wanted, **settings)
    return Gallery(rows)
