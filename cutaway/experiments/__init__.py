"""The sources' experiments, each one readable file with the published numbers on top."""

from cutaway.experiments.lecun1989 import lecun1989
from cutaway.experiments.result import Result

EXPERIMENTS = {one.__name__: one for one in (lecun1989,)}

__all__ = ["EXPERIMENTS", "Result", "lecun1989"]
