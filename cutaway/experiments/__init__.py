"""The sources' experiments, each one readable file with the published numbers on top."""

from collections.abc import Callable

from cutaway.experiments.adversarial_training import adversarial_training
from cutaway.experiments.augmentation import augmentation
from cutaway.experiments.batchnorm import batchnorm
from cutaway.experiments.depth import depth
from cutaway.experiments.feedback_alignment import feedback_alignment
from cutaway.experiments.imagenet_architectures import imagenet_architectures
from cutaway.experiments.initialization import initialization
from cutaway.experiments.lecun1989 import lecun1989
from cutaway.experiments.optimizers import optimizers
from cutaway.experiments.panda import panda
from cutaway.experiments.preprocessing import preprocessing
from cutaway.experiments.regularization import regularization
from cutaway.experiments.result import Result
from cutaway.experiments.schedules import schedules
from cutaway.experiments.surfaces import surfaces
from cutaway.experiments.transfer import transfer

EXPERIMENTS: dict[str, Callable[..., Result]] = {
    one.__name__: one
    for one in (
        lecun1989,
        imagenet_architectures,
        depth,
        batchnorm,
        transfer,
        optimizers,
        schedules,
        surfaces,
        initialization,
        regularization,
        preprocessing,
        feedback_alignment,
        augmentation,
        adversarial_training,
        panda,
    )
}

__all__ = [
    "EXPERIMENTS",
    "Result",
    "adversarial_training",
    "augmentation",
    "batchnorm",
    "depth",
    "feedback_alignment",
    "imagenet_architectures",
    "initialization",
    "lecun1989",
    "optimizers",
    "panda",
    "preprocessing",
    "regularization",
    "schedules",
    "surfaces",
    "transfer",
]
