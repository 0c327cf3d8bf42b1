"""What the parts of a network answer to: filters, examples, images optimised for them, dreams and styles."""

from cutaway.visualize.colour import colour_matrix, spectrum
from cutaway.visualize.filters import Filters, filters
from cutaway.visualize.objective import Objective, custom
from cutaway.visualize.optimize import Optimized, optimize
from cutaway.visualize.parametrize import MACO, PARAMETRIZATIONS, Fourier, Pixels
from cutaway.visualize.targets import (
    blur,
    channel,
    direction,
    diversity,
    guide,
    interpolation,
    l1,
    l2,
    layer,
    logit,
    total_variation,
    unit,
)
from cutaway.visualize.transform import ROBUST, Crop, Jitter, Rotate, Scale, transformed

__all__ = [
    "MACO",
    "PARAMETRIZATIONS",
    "ROBUST",
    "Crop",
    "Filters",
    "Fourier",
    "Jitter",
    "Objective",
    "Optimized",
    "Pixels",
    "Rotate",
    "Scale",
    "blur",
    "channel",
    "colour_matrix",
    "custom",
    "direction",
    "diversity",
    "filters",
    "guide",
    "interpolation",
    "l1",
    "l2",
    "layer",
    "logit",
    "optimize",
    "spectrum",
    "total_variation",
    "transformed",
    "unit",
]
