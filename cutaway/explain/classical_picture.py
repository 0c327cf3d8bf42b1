"""The picture of classical models beside a network: a row for each class, a column for each model, the tree's rules."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from cutaway.errors import ArgumentError
from cutaway.explain.picture import SIGNED, show_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cutaway.explain.classical import Classical

HEADINGS = {
    "linear": "linear weights",
    "svm": "support vectors\n" + r"$w = \sum \alpha_i y_i x_i$",
    "tree": "what the tree asks",
    "network": "network:\nmean gradient",
}
INCH = 9  # lines of the rules in one inch


def draw(found: "Classical", chosen: Sequence[int] | None = None) -> "Figure":
    """Draw some classes (the first four by default); red raises the class's score, blue lowers it.

    Raises:
        ArgumentError: there is no such class.
    """
    from matplotlib.figure import Figure

    count = len(found.examples)
    rows = list(range(min(4, count))) if chosen is None else list(chosen)
    if not rows or not all(0 <= k < count for k in rows):
        raise ArgumentError(f"chosen={chosen}: the classes are 0 … {count - 1}")
    image = found.examples.dim() == 4
    wide = len(found.weights) + image
    figure = Figure(figsize=(1.75 * wide + 3.6, max(1.65 * len(rows) + 0.8, 4.2)), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[1.75 * wide, 3.6])[0]
    axes = left.subplots(len(rows), wide, squeeze=False)
    for row, k in zip(axes, rows, strict=True):
        name = found.classes[k] if found.classes else f"class {k}"
        if image:
            _image(row[0], found.examples[k])
        row[0].set_ylabel(name, fontsize=9)
        for axis, (model, weights) in zip(row[image:], found.weights.items(), strict=True):
            scale = float(weights[rows].abs().max()) or 1.0
            _signed(axis, weights[k], scale, found.columns if model == "linear" else ())
            if k == rows[0]:
                axis.set_title(f"{HEADINGS[model]}\n{100 * found.accuracy[model]:.1f} % right", fontsize=8)
    if image:
        axes[0, 0].set_title("example", fontsize=8)
    lines, room = found.rules.splitlines(), int(INCH * figure.get_figheight()) - 5
    shown = lines[:room] + ([f"… {len(lines) - room} more lines in .rules"] if len(lines) > room else [])
    right.text(0.02, 0.95, "the tree's rules", fontsize=8, va="top", weight="bold")
    right.text(0.02, 0.9, "\n".join(shown), fontsize=6, family="monospace", va="top")
    return figure


def _image(axis: "Axes", image: Tensor) -> None:
    show_image(axis, image, grey="gray_r")
    _bare(axis)


def _signed(axis: "Axes", weights: Tensor, scale: float, columns: Sequence[str]) -> None:
    if weights.dim() == 3:
        axis.imshow(weights.sum(0).numpy(), cmap=SIGNED, vmin=-scale, vmax=scale)
        _bare(axis)
        return
    values = weights.flatten().numpy()
    axis.barh(np.arange(len(values)), values, color=np.where(values >= 0, "#b2182b", "#2166ac"))
    axis.axvline(0, color="black", linewidth=0.6)
    axis.set_xlim(-1.05 * scale, 1.05 * scale)
    axis.invert_yaxis()
    axis.set_yticks(np.arange(len(columns)), list(columns), fontsize=6)
    axis.tick_params(labelsize=6)


def _bare(axis: "Axes") -> None:
    axis.set_xticks([])
    axis.set_yticks([])
