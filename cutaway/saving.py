"""Saving results: pictures and numbers, by the ending of the name."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from cutaway.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = (".png", ".svg", ".pdf")


def save(path: str | Path, plot: "Callable[[], Figure]", numbers: Callable[[Path], object], ending: str) -> Path:
    """Write a result: numbers where the name ends in `ending`, else the picture, which is drawn only then.

    Args:
        path: where to.
        plot: draws the picture.
        numbers: writes the numbers to a path.
        ending: of a file of numbers, such as ".npz".

    Returns:
        The path.

    Raises:
        ArgumentError: the name ends neither so nor in .png, .svg or .pdf.
    """
    path = Path(path)
    if path.suffix.lower() == ending:
        numbers(path)
    elif path.suffix.lower() in PICTURES:
        plot().savefig(path, dpi=150)
    else:
        raise ArgumentError(f"cannot save {path.name!r}: the name must end in {ending}, {', '.join(PICTURES)}")
    return path


def save_json(path: str | Path, plot: "Callable[[], Figure]", numbers: Callable[[], Mapping[str, Any]]) -> Path:
    """Write a result's numbers as .json, or its picture; see `save`."""

    def write(path: Path) -> None:
        path.write_text(json.dumps(numbers(), indent=1, ensure_ascii=False), encoding="utf-8")

    return save(path, plot, write, ".json")


def save_arrays(path: str | Path, tensors: Mapping[str, Tensor | None], about: Mapping[str, Any]) -> Path:
    """Write tensors to .npz, with what they are as JSON under `about`."""
    arrays: dict[str, Any] = {name: each.detach().cpu().numpy() for name, each in tensors.items() if each is not None}
    np.savez_compressed(path, allow_pickle=False, about=np.array(json.dumps(dict(about), default=str)), **arrays)
    return Path(path)
