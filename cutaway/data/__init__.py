"""Data: sources by name, splits fixed by a seed, checks that name what is broken, preprocessing and augmentation."""

from cutaway.data.arrays import from_arrays
from cutaway.data.augment import AUGMENTATIONS, KINDS, augmentation, mixup
from cutaway.data.check import check
from cutaway.data.dataset import Dataset, Parts, statistics, stratified
from cutaway.data.images import read_image, read_images
from cutaway.data.load import NAMES, PREFIXES, load, split
from cutaway.data.preprocess import PREPROCESSING, Project, Standardize, fit_preprocessing
from cutaway.data.sound import SOUND_AUGMENTATIONS, resample, stretch
from cutaway.data.sources import imagenet_classes
from cutaway.data.text import TEXT_AUGMENTATIONS

__all__ = [
    "AUGMENTATIONS",
    "KINDS",
    "NAMES",
    "PREFIXES",
    "PREPROCESSING",
    "SOUND_AUGMENTATIONS",
    "TEXT_AUGMENTATIONS",
    "Dataset",
    "Parts",
    "Project",
    "Standardize",
    "augmentation",
    "check",
    "fit_preprocessing",
    "from_arrays",
    "imagenet_classes",
    "load",
    "mixup",
    "read_image",
    "read_images",
    "resample",
    "split",
    "statistics",
    "stratified",
    "stretch",
]
