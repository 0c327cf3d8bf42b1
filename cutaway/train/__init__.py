"""Training: the loop, its settings by name, and the run folder it leaves."""

from cutaway.intervals import wilson_interval
from cutaway.train import adversaries
from cutaway.train.adversaries import ADVERSARIES
from cutaway.train.collapse import CatastrophicOverfittingWarning
from cutaway.train.few_labels import PseudoLabels, contrast, pretrain, pseudo_labels
from cutaway.train.gradients import autograd_step, engine_step, make_step
from cutaway.train.job import make_model, mean_and_sd, run
from cutaway.train.loop import fit
from cutaway.train.losses import LOSSES
from cutaway.train.many import fit_many
from cutaway.train.measure import Evaluation, evaluate, predict
from cutaway.train.metrics import METRICS
from cutaway.train.optimizers import OPTIMIZERS, RMSpropInside
from cutaway.train.processes import rank
from cutaway.train.range_test import RangeTest, range_test
from cutaway.train.recipes import NAMED, RECIPES, Recipe, recipe_for, recipe_named
from cutaway.train.replicates import Replicates
from cutaway.train.results import Run, load_initial, load_run
from cutaway.train.schedules import SCHEDULES
from cutaway.train.session import Epoch
from cutaway.train.settings import Settings
from cutaway.train.spread import Spread, spread
from cutaway.train.surfaces import (
    SURFACES,
    CriticalPoint,
    Descent,
    Surface,
    critical_point,
    descend,
    restarts,
)
from cutaway.train.tensorboard import tensorboard
from cutaway.train.trainer import Trainer

__all__ = [
    "ADVERSARIES",
    "LOSSES",
    "METRICS",
    "NAMED",
    "OPTIMIZERS",
    "RECIPES",
    "SCHEDULES",
    "SURFACES",
    "CatastrophicOverfittingWarning",
    "CriticalPoint",
    "Descent",
    "Epoch",
    "Evaluation",
    "PseudoLabels",
    "RMSpropInside",
    "RangeTest",
    "Recipe",
    "Replicates",
    "Run",
    "Settings",
    "Spread",
    "Surface",
    "Trainer",
    "adversaries",
    "autograd_step",
    "contrast",
    "critical_point",
    "descend",
    "engine_step",
    "evaluate",
    "fit",
    "fit_many",
    "load_initial",
    "load_run",
    "make_model",
    "make_step",
    "mean_and_sd",
    "predict",
    "pretrain",
    "pseudo_labels",
    "range_test",
    "rank",
    "recipe_for",
    "recipe_named",
    "restarts",
    "run",
    "spread",
    "tensorboard",
    "wilson_interval",
]
