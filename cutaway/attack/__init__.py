"""Attacks on image classifiers, in pixel units, and an honest evaluation of how a model stands against them."""

from cutaway.attack.apgd import apgd
from cutaway.attack.auto import Effort, auto_attack
from cutaway.attack.boundary import boundary
from cutaway.attack.carlini import carlini_wagner
from cutaway.attack.channel import Channel
from cutaway.attack.deepfool import deepfool
from cutaway.attack.elastic import elastic_net
from cutaway.attack.evaluate import evaluate
from cutaway.attack.fab import fab
from cutaway.attack.hop_skip_jump import hop_skip_jump
from cutaway.attack.iterative import bim, momentum, pgd
from cutaway.attack.jsma import jsma
from cutaway.attack.lbfgs import lbfgs
from cutaway.attack.mesh import Mesh, lathe, sphere
from cutaway.attack.norms import NORMS
from cutaway.attack.oracle import MaskedGradientWarning
from cutaway.attack.patch import Patch, Trials, patch
from cutaway.attack.physical import Physical, physical
from cutaway.attack.placing import Placing
from cutaway.attack.problem import ModelModeWarning
from cutaway.attack.render import Views
from cutaway.attack.result import Attack, load
from cutaway.attack.robustness import Check, Rate, RobustnessReport, wilson
from cutaway.attack.smoothing import Certificates, Smoothed, smoothed
from cutaway.attack.square import square
from cutaway.attack.steps import fgsm, random_noise
from cutaway.attack.texture import Textured, texture
from cutaway.attack.transfer import MeanLogits, transfer
from cutaway.attack.universal import Universal, universal

__all__ = [
    "NORMS",
    "Attack",
    "Certificates",
    "Channel",
    "Check",
    "Effort",
    "MaskedGradientWarning",
    "MeanLogits",
    "Mesh",
    "ModelModeWarning",
    "Patch",
    "Physical",
    "Placing",
    "Rate",
    "RobustnessReport",
    "Smoothed",
    "Textured",
    "Trials",
    "Universal",
    "Views",
    "apgd",
    "auto_attack",
    "bim",
    "boundary",
    "carlini_wagner",
    "deepfool",
    "elastic_net",
    "evaluate",
    "fab",
    "fgsm",
    "hop_skip_jump",
    "jsma",
    "lathe",
    "lbfgs",
    "load",
    "momentum",
    "patch",
    "pgd",
    "physical",
    "random_noise",
    "smoothed",
    "sphere",
    "square",
    "texture",
    "transfer",
    "universal",
    "wilson",
]
