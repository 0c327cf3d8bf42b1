"""One picture for several explanations of one image: the image and the maps side by side, each with its score."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import ArgumentError
from cutaway.explain import Attribution
from cutaway.report.images import HEAT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 5
SMOOTH = 128  # pixels that a layer's map is drawn with at least
ENDINGS = (".png", ".svg", ".pdf")


def panel(image: Float[Tensor, "c h w"], maps: Mapping[str, Attribution], title: str) -> "Figure":
    """Draw an image and its maps.

    Args:
        image: with values in [0, 1].
        maps: attributions of a batch of one, by the name to show.
        title: what is explained.

    >>> from cutaway.explain import gradient
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> len(panel(torch.ones(1, 2, 2), {"gradient": gradient(net, torch.ones(1, 1, 2, 2))}, "class 0").axes)
    2
    """
    from matplotlib.figure import Figure

    cells = len(maps) + 1
    columns = min(cells, COLUMNS)
    rows = -(-cells // columns)
    figure = Figure(figsize=(2.3 * columns, 2.75 * rows + 0.25), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    grey = image.detach().cpu().float().clamp(0, 1)
    shown = grey.permute(1, 2, 0).numpy() if len(grey) == 3 else grey.mean(0).numpy()
    axes[0].imshow(shown, cmap="gray", vmin=0, vmax=1)
    axes[0].set_title("image", fontsize=9)
    for axis, (name, one) in zip(axes[1:], maps.items(), strict=False):
        _draw(axis, one, grey)
        score = "" if one.score is None else f"\nsanity score {one.score:.2f}"
        axis.set_title(name.replace("_", " ") + score, fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure


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


def _draw(axis: "Axes", one: Attribution, image: Float[Tensor, "c h w"]) -> None:
    """A signed map in red and blue about zero; a layer's map as heat over the image in grey."""
    values = one.values.detach().cpu().float()[0]
    if one.layer is None or values.shape == image.shape:
        flat = values.sum(0)
        largest = float(torch.quantile(flat.abs().flatten(), 0.995)) or float(flat.abs().max()) or 1.0
        axis.imshow(flat.numpy(), cmap="RdBu_r", vmin=-largest, vmax=largest)
        return
    size = max(image.shape[1], SMOOTH), max(image.shape[2], SMOOTH)
    extent = (-0.5, image.shape[2] - 0.5, image.shape[1] - 0.5, -0.5)  # of the image's pixels
    heat = one.upsampled(size)[0, 0].detach().cpu().clamp(min=0)
    alpha = 0.85 * heat / (float(heat.max()) or 1.0)
    axis.imshow(image.mean(0).numpy(), cmap="gray", vmin=0, vmax=1)
    color = torch.tensor(HEAT).div(255).expand(*size, 3)
    axis.imshow(torch.cat([color, alpha[..., None]], -1).numpy(), extent=extent)
