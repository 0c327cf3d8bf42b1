"""What the parts of a network answer to: filters, examples, images optimised for them, dreams and styles."""

from cutaway.visualize.classic import Panels, city, denoise, edges, lines, match, panels, smooth, sobel
from cutaway.visualize.colour import colour_matrix, spectrum
from cutaway.visualize.dream import Dream, dream
from cutaway.visualize.examples import Examples
from cutaway.visualize.field import Field, receptive_field
from cutaway.visualize.filters import Filters, filters
from cutaway.visualize.gallery import Gallery, Portrait, gallery, portrait
from cutaway.visualize.objective import Objective, custom
from cutaway.visualize.optimize import Optimized, optimize
from cutaway.visualize.parametrize import MACO, PARAMETRIZATIONS, Fourier, Pixels
from cutaway.visualize.priors import PRIORS, priors
from cutaway.visualize.search import dataset_examples
from cutaway.visualize.style import Styled, gram, style, style_nodes
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
    "PRIORS",
    "ROBUST",
    "Crop",
    "Dream",
    "Examples",
    "Field",
    "Filters",
    "Fourier",
    "Gallery",
    "Jitter",
    "Objective",
    "Optimized",
    "Panels",
    "Pixels",
    "Portrait",
    "Rotate",
    "Scale",
    "Styled",
    "blur",
    "channel",
    "city",
    "colour_matrix",
    "custom",
    "dataset_examples",
    "denoise",
    "direction",
    "diversity",
    "dream",
    "edges",
    "filters",
    "gallery",
    "gram",
    "guide",
    "interpolation",
    "l1",
    "l2",
    "layer",
    "lines",
    "logit",
    "match",
    "optimize",
    "panels",
    "portrait",
    "priors",
    "receptive_field",
    "smooth",
    "sobel",
    "spectrum",
    "style",
    "style_nodes",
    "total_variation",
    "transformed",
    "unit",
]
