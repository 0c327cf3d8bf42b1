"""Attacks on image classifiers, in pixel units, and an honest evaluation of how a model stands against them."""

from cutaway.attack.apgd import apgd
from cutaway.attack.auto import Effort, auto_attack
from cutaway.attack.carlini import carlini_wagner
from cutaway.attack.deepfool import deepfool
from cutaway.attack.elastic import elastic_net
from cutaway.attack.evaluate import evaluate
from cutaway.attack.fab import fab
from cutaway.attack.iterative import bim, momentum, pgd
from cutaway.attack.jsma import jsma
from cutaway.attack.lbfgs import lbfgs
from cutaway.attack.norms import NORMS
from cutaway.attack.oracle import MaskedGradientWarning
from cutaway.attack.problem import ModelModeWarning
from cutaway.attack.result import Attack, load
from cutaway.attack.robustness import Check, Rate, RobustnessReport, wilson
from cutaway.attack.square import square
from cutaway.attack.steps import fgsm, random_noise

__all__ = [
    "NORMS",
    "Attack",
    "Check",
    "Effort",
    "MaskedGradientWarning",
    "ModelModeWarning",
    "Rate",
    "RobustnessReport",
    "apgd",
    "auto_attack",
    "bim",
    "carlini_wagner",
    "deepfool",
    "elastic_net",
    "evaluate",
    "fab",
    "fgsm",
    "jsma",
    "lbfgs",
    "load",
    "momentum",
    "pgd",
    "random_noise",
    "square",
    "wilson",
]
