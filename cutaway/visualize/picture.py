"""Pictures of images: grids with words above, dead units crossed out, and images written as they are."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from cutaway.errors import ArgumentError
from cutaway.saving import PICTURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PHOTOGRAPHS = (".png", ".jpg", ".jpeg", ".webp")
ORANGE = "#9c3a00"  # of what to beware of


def pixels(image: Float[Tensor, "c h w"]) -> np.ndarray:
    """An image as (H, W, 3), or (H, W) where it is grey, in [0, 1]; other numbers of channels as their mean."""
    image = image.detach().cpu().float().clamp(0, 1)
    return (image.permute(1, 2, 0) if len(image) == 3 else image.mean(0)).numpy()


def show(axis: "Axes", image: Float[Tensor, "c ..."], title: str = "", size: float = 8) -> None:
    """Draw an image, or a signal (C, L) as lines."""
    if image.dim() == 3:
        axis.imshow(pixels(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_axis_off()
    else:
        axis.plot(image.detach().cpu().T.numpy(), linewidth=0.8)
        axis.tick_params(labelsize=6)
    axis.set_title(title, fontsize=size)


def show_dead(axis: "Axes", words: str, title: str = "") -> None:
    """Say in place of an image that there is none."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_aspect("equal")
    axis.plot([0, 1], [0, 1], [0, 1], [1, 0], color=ORANGE, linewidth=0.6, alpha=0.5)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 2}
    axis.text(0.5, 0.5, words, ha="center", va="center", fontsize=8, color=ORANGE, transform=axis.transAxes, bbox=box)
    axis.set_title(title, fontsize=8)


def grid(
    cells: int, columns: int, title: str = "", side: float = 1.7, extra: float = 0.0
) -> "tuple[Figure, list[Axes]]":
    """A figure with so many cells in rows; axes that are not needed are off."""
    from matplotlib.figure import Figure

    columns = max(1, min(columns, cells))
    rows = -(-cells // columns)
    figure = Figure(figsize=(max(side * columns, 3.2), (side + 0.25 + extra) * rows + 0.4), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axis in axes[cells:]:
        axis.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=10)
    return figure, axes[:cells]


def save_figure(path: str | Path, figure: "Figure") -> Path:
    """Write a figure as .png, .svg or .pdf.

    Raises:
        ArgumentError: the ending is none of these.
    """
    path = Path(path)
    if path.suffix.lower() not in PICTURES:
        raise ArgumentError(f"cannot save {path.name!r}: the name must end in {', '.join(PICTURES)} or .npz")
    figure.savefig(path, dpi=150)
    return path


def save_image(path: str | Path, image: Float[Tensor, "c h w"]) -> Path:
    """Write an image pixel by pixel (.png, .jpg, .webp).

    Raises:
        ArgumentError: the ending is none of these.
    """
    path = Path(path)
    if path.suffix.lower() not in PHOTOGRAPHS:
        raise ArgumentError(f"cannot save {path.name!r}: the name must end in {', '.join(PHOTOGRAPHS)} or .npz")
    array = (pixels(image) * 255).round().astype(np.uint8)
    Image.fromarray(array).save(path, quality=95)
    return path


def png(figure: "Figure") -> bytes:
    """A figure as the bytes of a PNG, for notebooks."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def shortened(words: str, limit: int = 70) -> str:
    """Words cut to a length."""
    return words if len(words) <= limit else words[: limit - 1] + "…"


def titles(words: Sequence[str] | None, count: int) -> list[str]:
    """So many titles, empty where none are given."""
    return [*(words or [])][:count] + [""] * (count - len(words or []))
