"""What is going on inside a network, and what is wrong with it, in numbers, pictures and words."""

from cutaway.diagnose.dead import DeadLayer, DeadUnits, dead_units
from cutaway.diagnose.depth import Depth, DepthLayer, depth
from cutaway.diagnose.histograms import Histograms, LayerHistogram, histograms
from cutaway.diagnose.layers import Layer, layers
from cutaway.diagnose.singular import Singular

__all__ = [
    "DeadLayer",
    "DeadUnits",
    "Depth",
    "DepthLayer",
    "Histograms",
    "Layer",
    "LayerHistogram",
    "Singular",
    "dead_units",
    "depth",
    "histograms",
    "layers",
]
