"""Attacks on image classifiers, in pixel units, and an honest evaluation of how a model stands against them."""

from cutaway.attack.iterative import bim, momentum, pgd
from cutaway.attack.norms import NORMS
from cutaway.attack.oracle import MaskedGradientWarning
from cutaway.attack.problem import ModelModeWarning
from cutaway.attack.result import Attack, load
from cutaway.attack.square import square
from cutaway.attack.steps import fgsm, random_noise

__all__ = [
    "NORMS",
    "Attack",
    "MaskedGradientWarning",
    "ModelModeWarning",
    "bim",
    "fgsm",
    "load",
    "momentum",
    "pgd",
    "random_noise",
    "square",
]
