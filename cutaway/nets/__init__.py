"""Networks: constructors that read like the papers' tables, the layers torch lacks, and pretrained weights."""

from cutaway.nets.layers import ACTIVATIONS, POOLINGS, ScaledTanh, Subsample, TableConv2d, activation, pooling
from cutaway.nets.lenet import LeNet5, LeNet1989, lenet5, lenet1989
from cutaway.nets.mlp import mlp
from cutaway.nets.normalize import Normalized, normalized
from cutaway.nets.registry import NAMES, make

__all__ = [
    "ACTIVATIONS",
    "NAMES",
    "POOLINGS",
    "LeNet5",
    "LeNet1989",
    "Normalized",
    "ScaledTanh",
    "Subsample",
    "TableConv2d",
    "activation",
    "lenet5",
    "lenet1989",
    "make",
    "mlp",
    "normalized",
    "pooling",
]
