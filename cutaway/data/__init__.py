"""Data: sources by name, splits fixed by a seed, checks that name what is broken."""

from cutaway.data.check import check
from cutaway.data.dataset import Dataset, Parts, statistics, stratified
from cutaway.data.images import read_image, read_images
from cutaway.data.load import NAMES, PREFIXES, load
from cutaway.data.sources import imagenet_classes

__all__ = [
    "NAMES",
    "PREFIXES",
    "Dataset",
    "Parts",
    "check",
    "imagenet_classes",
    "load",
    "read_image",
    "read_images",
    "statistics",
    "stratified",
]
