"""Pictures of an attack: image, what was added, what came out, and the same amount of noise beside it."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cutaway.attack.result import Attack

AMPLIFY = 10
TITLES = ("image", f"perturbation × {AMPLIFY}", "its sign", "adversarial image", "random noise, same size")


def pixels(image: Tensor) -> np.ndarray:
    """(C, H, W) in any range → (H, W, 3) or (H, W) in [0, 1], for matplotlib."""
    image = image.detach().cpu().float().clamp(0, 1)
    return (image[0] if image.shape[0] != 3 else image.permute(1, 2, 0)).numpy()


def radius(eps: float, norm: str = "linf") -> str:
    """A radius in words: in steps of 8-bit images if it is some of them.

    >>> radius(8 / 255), radius(0.5 / 255), radius(0.1), radius(8 / 255, "l2")
    ('8/255', '0.5/255', '0.1', '0.03137')
    """
    steps = 255 * eps
    near = round(steps) if steps > 1 else round(2 * steps) / 2  # half a step is a usual radius too
    return f"{near:g}/255" if norm == "linf" and 0 < near <= 64 and abs(steps - near) < 1e-4 else f"{eps:.4g}"


def short(name: str, most: int = 24) -> str:
    """A class's name, cut where it would run into its neighbour.

    >>> short("black-and-tan coonhound, with a long name"), short("pug")
    ('black-and-tan coonhound…', 'pug')
    """
    return name if len(name) <= most else f"{name[: most - 1].rstrip(' ,')}…"


def _said(classes: Tensor, confidence: Tensor, row: int, names: list[str] | None) -> str:
    return f"{_name(classes, row, names)}\n{100 * float(confidence[row]):.1f} %"


def choose(attack: "Attack", rows: int | list[int]) -> list[int]:
    """Which examples to draw: those whose prediction the attack changed first."""
    if isinstance(rows, list):
        return rows
    changed = attack.success & (attack.before != attack.after)
    order = torch.cat([changed.nonzero()[:, 0], (~changed).nonzero()[:, 0]])
    return order[:rows].tolist()


def draw(attack: "Attack", rows: int | list[int], names: list[str] | None) -> "Figure":
    """One row per example; see `Attack.plot`."""
    from matplotlib.figure import Figure

    chosen = choose(attack, rows)
    columns = len(TITLES) if attack.control is not None else len(TITLES) - 1
    figure = Figure(figsize=(2.0 * columns, 0.45 + 2.35 * len(chosen)), layout="constrained")
    axes = figure.subplots(len(chosen), columns, squeeze=False)
    for line, row in zip(axes, chosen, strict=True):
        _row(line, attack, row, names)
    for axis, title in zip(axes[0], TITLES, strict=False):
        axis.set_title(title, fontsize=9)
    bound = "" if attack.eps is None else f", ε = {radius(attack.eps, attack.norm)}"
    figure.suptitle(f"{attack.method} ({NORM_NAMES[attack.norm]}{bound})", fontsize=10)
    return figure


def strip(images: list[np.ndarray], texts: list[str], title: str) -> "Figure":
    """Images in a row with a text under each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(2.0 * len(images), 5.0), 2.75), layout="constrained")
    for axis, image, text in zip(figure.subplots(1, len(images), squeeze=False)[0], images, texts, strict=True):
        axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_xlabel(text, fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure


def grid(images: list[np.ndarray], texts: list[str], heads: list[str], title: str) -> "Figure":
    """Images in rows as long as the heads over the columns, with a text under each."""
    from matplotlib.figure import Figure

    columns = len(heads)
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.1 * columns, 0.45 + 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, image, text in zip(axes.flat, images, texts, strict=True):
        axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_xlabel(text, fontsize=9)
    for axis, head in zip(axes[0], heads, strict=True):
        axis.set_title(head, fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure


NORM_NAMES = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}


def _row(line: "list[Axes]", attack: "Attack", row: int, names: list[str] | None) -> None:
    change = attack.perturbation[row]
    shown = [
        attack.original[row],
        0.5 + AMPLIFY * change,
        0.5 + change.sign() / 2,
        attack.x[row],
        *([attack.control.x[row]] if attack.control is not None else []),
    ]
    target = "" if attack.target is None else f"wanted {_name(attack.target, row, names)}"
    said = [
        _said(attack.before, attack.confidence_before, row, names),
        f"distance {radius(float(attack.distance[row]), attack.norm)}\n",
        f"label {_name(attack.label, row, names)}\n{target}",
        _said(attack.after, attack.confidence_after, row, names),
    ]
    if attack.control is not None:
        said.append(_said(attack.control.after, attack.control.confidence_after, row, names))
    colours = ["black", "grey", "grey", _colour(attack, row)] + ["black"] * 1
    for axis, image, text, colour in zip(line, shown, said, colours, strict=False):
        axis.imshow(pixels(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_xlabel(text, fontsize=9, color=colour)


def _name(classes: Tensor, row: int, names: list[str] | None) -> str:
    index = int(classes[row])
    return short(names[index]) if names else str(index)


def _colour(attack: "Attack", row: int) -> str:
    return "#b3261e" if bool(attack.success[row]) else "black"
