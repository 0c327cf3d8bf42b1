"""Training: the loop, its settings by name, and the run folder it leaves."""

from cutaway.train.epoch import Epoch
from cutaway.train.gradients import autograd_step, engine_step, make_step
from cutaway.train.loop import fit
from cutaway.train.losses import LOSSES
from cutaway.train.measure import Evaluation, evaluate, predict
from cutaway.train.metrics import METRICS, wilson_interval
from cutaway.train.optimizers import OPTIMIZERS, RMSpropInside
from cutaway.train.results import Run, load_initial, load_run
from cutaway.train.schedules import SCHEDULES
from cutaway.train.settings import Settings

__all__ = [
    "LOSSES",
    "METRICS",
    "OPTIMIZERS",
    "SCHEDULES",
    "Epoch",
    "Evaluation",
    "RMSpropInside",
    "Run",
    "Settings",
    "autograd_step",
    "engine_step",
    "evaluate",
    "fit",
    "load_initial",
    "load_run",
    "make_step",
    "predict",
    "wilson_interval",
]
