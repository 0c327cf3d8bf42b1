"""Pictures of attributions: maps beside or over their inputs, on colour-blind-safe scales."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cutaway.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cutaway.explain.attribution import Attribution

ORANGE = "#9c3a00"  # of what to beware of
SIGNED, UNSIGNED = "RdBu_r", "inferno"  # both are read alike with and without colour vision deficiency
COLOURED = ("guided_backprop", "deconvnet", "guided_grad_cam")  # drawn in colour on grey, as in their papers
# rates of change, not shares of the output
SENSITIVITIES = ("gradient", "smooth_grad", "guided_backprop", "deconvnet", "neuron_attribution")
SPELLED = {
    "gradient_x_input": "gradient × input",
    "smooth_grad": "SmoothGrad",
    "grad_cam": "Grad-CAM",
    "guided_grad_cam": "guided Grad-CAM",
    "lrp": "LRP",
    "deep_lift": "DeepLIFT",
    "rise": "RISE",
    "cam": "CAM",
    "grad_cam_plus_plus": "Grad-CAM++",
    "layer_cam": "LayerCAM",
    "score_cam": "Score-CAM",
    "var_grad": "VarGrad",
}


def spelled(method: str) -> str:
    """A method's name as it is written in text.

    >>> spelled("grad_cam")
    'Grad-CAM'
    """
    return SPELLED.get(method, method.replace("_", " "))


def draw(
    attribution: "Attribution",
    x: Float[Tensor, "n c h w"] | None = None,
    *,
    style: str = "auto",
    overlay: float = 0.8,
    shared: bool | None = None,
    limit: int = 8,
    columns: int = 4,
    names: Sequence[str] | None = None,
) -> "Figure":
    """Draw an attribution, one cell for each example.

    Args:
        attribution: what to draw.
        x: the inputs (N, C, H, W) in [0, 1]. With them, each cell shows the input and the map; a map of a layer is laid
            over the input.
        style: "signed" (red above 0, blue below, scale symmetric about 0), "magnitude" (regardless of sign), "colour"
            (three channels about grey), or "auto".
        overlay: how strongly a layer's map is laid over the input, from 0 to 1.
        shared: one scale for all examples, so that maps can be compared, or each its own, with its upper end written
            above it; None shares the scale of signed maps only.
        limit: draw at most so many examples.
        columns: examples in one row.
        names: class names, by index.

    Returns:
        A matplotlib figure; nothing is shown or written.

    Raises:
        ArgumentError: the values are no maps, the style is unknown, or x does not fit.
    """
    values = attribution.values.detach().cpu().float()
    if values.dim() not in (2, 3, 4):
        raise ArgumentError(f"cannot draw values of shape {tuple(values.shape)}; take them as numbers from `.values`")
    if not 0 <= overlay <= 1:
        raise ArgumentError(f"overlay goes from 0 (the input) to 1 (the map), got {overlay}")
    style = style_of(attribution, style, values)
    if values.dim() < 4:
        return _draw_lines(attribution, values[:limit], names)
    images = None if x is None else _checked_images(x, values)[:limit]
    maps = collapse(values[:limit], style)
    shared = style == "signed" if shared is None else shared
    cells = [
        Cell(
            each,
            scale,
            None if images is None else images[index],
            _class_of(attribution, index, names),
            _score_of(attribution, index) + ("" if shared or style == "colour" else f"  up to {scale:.2g}"),
        )
        for index, (each, scale) in enumerate(zip(maps, scales(maps, shared), strict=True))
    ]
    return _grid(cells, attribution, style, overlay, shared, columns)


@dataclass(frozen=True)
class Cell:
    """One example's part of the picture."""

    map: Tensor
    scale: float
    image: Tensor | None
    heading: str
    score: str


def scales(maps: Tensor, shared: bool) -> list[float]:
    """The upper end of each map's scale: the 99.5 % quantile of its magnitudes, or of all maps'."""
    magnitudes = maps.abs().flatten(1)
    if shared:
        magnitudes = magnitudes.flatten()[None].expand(len(maps), -1)[:1]
    ends = [float(np.quantile(row.numpy(), 0.995)) or float(row.max()) or 1.0 for row in magnitudes]
    return ends * len(maps) if shared else ends


def _grid(
    cells: list[Cell], attribution: "Attribution", style: str, overlay: float, shared: bool, columns: int
) -> "Figure":
    from matplotlib.figure import Figure

    wide = 1 if cells[0].image is None else 2
    columns = max(1, min(columns, len(cells)))
    rows = -(-len(cells) // columns)
    bar = style != "colour" and shared
    width = max(1.6 * columns * wide + bar, 5.0)
    warning = textwrap.fill(f"Beware: {attribution.warning}", int(width * 13)) if attribution.warning else ""
    height = 1.85 * rows + 0.35 + 0.2 * (warning.count("\n") + 1 if warning else 0)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns * wide, squeeze=False).reshape(-1, wide)
    for axis in axes.ravel():
        axis.set_axis_off()
    drawn = [show(list(row), cell, style, overlay) for row, cell in zip(axes, cells, strict=False)]
    if bar:
        colours = figure.colorbar(drawn[0], ax=axes.ravel().tolist(), fraction=0.03, pad=0.01, aspect=25)
        colours.ax.tick_params(labelsize=7)
        colours.set_label(_meaning(attribution, style), fontsize=7)
    figure.suptitle(title(attribution), fontsize=10)
    if warning:
        figure.supxlabel(warning, fontsize=8, color=ORANGE)
    return figure


def show(axes: "Sequence[Axes]", cell: Cell, style: str, overlay: float) -> Any:
    """Draw a map on the last of the axes, and its image on the first where there are two."""
    if cell.image is not None and len(axes) > 1:
        show_image(axes[0], cell.image)
        axes[0].set_title(cell.heading, fontsize=8)
        axes[-1].set_title(cell.score, fontsize=8)
    else:
        axes[-1].set_title(f"{cell.heading}\n{cell.score}".strip(), fontsize=8)
    if style == "colour":
        return axes[-1].imshow((0.5 + cell.map / (2 * cell.scale)).clamp(0, 1).permute(1, 2, 0).numpy())
    low, colours = (-cell.scale, SIGNED) if style == "signed" else (0.0, UNSIGNED)
    if cell.image is None or cell.map.shape == cell.image.shape[1:]:
        return axes[-1].imshow(cell.map.numpy(), cmap=colours, vmin=low, vmax=cell.scale)
    finer = max(1, 160 // max(cell.image.shape[1:]))  # small images get a smooth map too
    size, height, width = [finer * side for side in cell.image.shape[1:]], *cell.image.shape[1:]
    smooth = F.interpolate(cell.map[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    strength = overlay * (smooth.abs() / cell.scale).clamp(0, 1)  # nothing is laid over where the map is zero
    axes[-1].imshow(cell.image.mean(0).clamp(0, 1).numpy(), cmap="gray", vmin=-0.3, vmax=1.3)
    place = (-0.5, width - 0.5, height - 0.5, -0.5)
    shown = {"cmap": colours, "vmin": low, "vmax": cell.scale, "alpha": strength.numpy(), "extent": place}
    return axes[-1].imshow(smooth.numpy(), **shown)


def collapse(values: Float[Tensor, "n c h w"], style: str) -> Tensor:
    """Sum a map over its channels, with or without sign; leave the channels for the style "colour"."""
    if style == "colour":
        return values
    return values.sum(1) if style == "signed" else values.abs().sum(1)


def title(attribution: "Attribution") -> str:
    """One line that says what a picture shows."""
    of = "a function of the output" if callable(attribution.of) else f"the {attribution.of.replace('_', ' ')}"
    words = f"{spelled(attribution.method)} of {of}"
    words += f" at {attribution.layer}" if attribution.layer else ""
    return words if attribution.score is None else f"{words}, sanity score {attribution.score:.2f}"


def _meaning(attribution: "Attribution", style: str) -> str:
    if style == "magnitude":
        return "how much it counts"
    if attribution.method in SENSITIVITIES:
        return "brighter lowers ← → raises it"
    return "speaks against ← → for it"


def show_image(axis: "Axes", image: Float[Tensor, "c h w"], grey: str = "gray") -> None:
    """Draw an image in colour, or its channels' mean on the scale `grey`."""
    if len(image) == 3:
        axis.imshow(image.clamp(0, 1).permute(1, 2, 0).numpy())
    else:
        axis.imshow(image.mean(0).numpy(), cmap=grey, vmin=0, vmax=1)


def _draw_lines(attribution: "Attribution", values: Tensor, names: Sequence[str] | None) -> "Figure":
    """Draw values over a signal (N, C, L) or a table's columns (N, F)."""
    from matplotlib.figure import Figure

    lines = values.sum(1) if values.dim() == 3 else values  # (N, L)
    figure = Figure(figsize=(7, 1.1 * len(lines) + 1.0), layout="constrained")
    axes = figure.subplots(len(lines), 1, squeeze=False, sharex=True)[:, 0]
    places = np.arange(lines.shape[1])
    for cell, axis in enumerate(axes):
        line = lines[cell].numpy()
        axis.bar(places, line, width=0.9, color=np.where(line >= 0, "#b2182b", "#2166ac"))
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set_ylabel(_class_of(attribution, cell, names), fontsize=8)
        axis.tick_params(labelsize=7)
    axes[-1].set_xlabel("position" if values.dim() == 3 else "column", fontsize=8)
    figure.suptitle(title(attribution), fontsize=10)
    return figure


def style_of(attribution: "Attribution", style: str, values: Tensor) -> str:
    """The style that "auto" stands for; others as they are, if the values can be drawn so."""
    if style == "auto":
        if attribution.method in COLOURED and values.shape[1] == 3:
            return "colour"
        return "signed" if (values < 0).any() else "magnitude"
    if style not in ("signed", "magnitude", "colour"):
        raise ArgumentError(f"style {style!r} is none of 'auto', 'signed', 'magnitude', 'colour'")
    if style == "colour" and (values.dim() != 4 or values.shape[1] != 3):
        raise ArgumentError(f"style 'colour' needs values (N, 3, H, W), got shape {tuple(values.shape)}")
    return style


def _checked_images(x: Tensor, values: Tensor) -> Tensor:
    if x.dim() != 4 or len(x) != len(values):
        raise ArgumentError(f"x must hold the {len(values)} explained images (N, C, H, W), got shape {tuple(x.shape)}")
    return x.detach().cpu().float()


def _class_of(attribution: "Attribution", cell: int, names: Sequence[str] | None) -> str:
    if attribution.target is None:
        return ""
    index = int(attribution.target[cell])
    return names[index] if names and index < len(names) else f"class {index}"


def _score_of(attribution: "Attribution", cell: int) -> str:
    if attribution.scores is None or bool(attribution.scores[cell].isnan()):
        return ""
    return f"score {float(attribution.scores[cell]):.2f}"
