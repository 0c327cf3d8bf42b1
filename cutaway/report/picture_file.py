"""Pictures that a command writes: their names, refused before the work begins, and the files."""

from pathlib import Path
from typing import TYPE_CHECKING

from cutaway.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg", ".pdf")


def picture_path(path: Path) -> Path:
    """Check the name of a picture to be written, before the work begins.

    Raises:
        ArgumentError: the ending is none of .png, .svg, .pdf, or there is no such folder.

    >>> picture_path(Path("picture.gif"))
    Traceback (most recent call last):
    cutaway.errors.ArgumentError: cannot write picture.gif: the name must end in .png, .svg or .pdf
    """
    if path.suffix.lower() not in ENDINGS:
        raise ArgumentError(f"cannot write {path}: the name must end in .png, .svg or .pdf")
    if not path.parent.is_dir():
        raise ArgumentError(f"cannot write {path}: there is no folder {path.parent}")
    return path


def save_figure(figure: "Figure", path: Path) -> Path:
    """Write a figure; the name's ending decides the format.

    Raises:
        ArgumentError: the name is refused by `picture_path`, or the file cannot be written.

    >>> save_figure(None, Path("nowhere/picture.png"))
    Traceback (most recent call last):
    cutaway.errors.ArgumentError: cannot write nowhere/picture.png: there is no folder nowhere
    """
    picture_path(path)
    try:
        figure.savefig(path, dpi=150)
    except OSError as reason:
        raise ArgumentError(f"cannot write {path}: {reason}") from reason
    return path
