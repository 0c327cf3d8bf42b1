"""Saving results: pictures and numbers, by the ending of the name."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cutaway.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = (".png", ".svg", ".pdf")


def save(path: str | Path, plot: Callable[[], "Figure"], text: Callable[[], str]) -> Path:
    """Write a result's picture (.png, .svg, .pdf) or its numbers (.json) and return the path.

    Raises:
        ArgumentError: the ending is none of these.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        path.write_text(text(), encoding="utf-8")
    elif path.suffix.lower() in PICTURES:
        plot().savefig(path, dpi=150)
    else:
        raise ArgumentError(f"cannot save {path.name!r}: the name must end in .json, {', '.join(PICTURES)}")
    return path
