"""Write a run's page: read the run folder, make the chapters, render, and put the file beside the run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from cutaway.errors import RunFolderError
from cutaway.progress import track
from cutaway.report import adversarial, explanation, mistakes, network, overview, provenance, signals, training
from cutaway.report.page import Page, Section, render
from cutaway.report.subject import Subject, read_subject
from cutaway.train.checkpoint import write_atomically
from cutaway.train.record import REPORT

CHAPTERS: dict[str, Callable[[Subject], Section]] = {
    training.TITLE: training.section,
    mistakes.TITLE: mistakes.section,
    network.TITLE: network.section,
    signals.TITLE: signals.section,
    explanation.TITLE: explanation.section,
    adversarial.TITLE: adversarial.section,
    provenance.TITLE: provenance.section,
}


def write(folder: str | Path, *, data: Any = None, model: nn.Module | None = None, progress: bool = True) -> Path:
    """Write `report.html` from a run folder.

    Args:
        folder: a run folder, as `cutaway.train.run` and `cutaway.fit(…, out=folder)` leave it.
        data: the (train, validation, test) data sets of the run; loaded by their recorded name when not given.
        model: a network of the run's architecture; needed only if it is none of `cutaway.nets`.
        progress: show a bar on the terminal.

    Returns:
        The path of the page, one file that needs no network.

    Raises:
        RunFolderError: the folder holds no run, its data cannot be loaded by name, or the page cannot be written.

    >>> write("no such folder")
    Traceback (most recent call last):
    cutaway.errors.RunFolderError: no such folder holds no run: run.json is missing; give a run folder
    """
    subject = read_subject(Path(folder), data, model)
    chapters = track(CHAPTERS.items(), "writing the report", progress)
    sections = [chapter(title, make, subject) for title, make in chapters]
    page = Page(overview.title(subject), overview.lede(subject), overview.facts(subject), sections, footer(subject))
    path = Path(folder) / REPORT
    try:
        write_atomically(path, render(page).encode())
    except OSError as reason:
        raise RunFolderError(f"{path} cannot be written: {reason}") from reason
    return path


def chapter(title: str, make: Callable[[Subject], Section], subject: Subject) -> Section:
    """Make a chapter; when that fails, the page says so in its place and the other chapters are kept."""
    try:
        return make(subject)
    except Exception as error:  # a page without one chapter is worth more than none
        name = title.lower().replace(" ", "-")
        told = f"This chapter could not be made: {type(error).__name__}: {error}"
        return Section(name, title, missing=[told], failed=True)


def footer(subject: Subject) -> str:
    """The page's last line."""
    version = (subject.record.get("environment") or {}).get("cutaway") or ""
    return f"Written by Cutaway {version} from the run folder {subject.folder.name}; this file needs no network."
