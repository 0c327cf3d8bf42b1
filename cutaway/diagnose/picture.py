"""Pictures of diagnoses."""

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cutaway.diagnose.dead import DeadUnits
    from cutaway.diagnose.depth import Depth
    from cutaway.diagnose.histograms import Histograms

# Okabe and Ito's colours, told apart by everybody
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#767676"


def ridges(result: "Histograms", before: "Histograms | None") -> "Figure":
    """Draw histograms layer under layer: values on the left, gradients on the right."""
    from matplotlib.figure import Figure

    count = len(result.layers)
    figure = Figure(figsize=(9.5, 0.55 * count + 1.7), layout="constrained")
    axes = figure.subplots(count, 2, squeeze=False)
    earlier = [None] * count if before is None else list(before.layers)
    for row, (layer, old) in enumerate(zip(result.layers, earlier, strict=True)):
        left, right = axes[row]
        _ridge(left, layer.values, layer.value_edges, BLUE, None if old is None else old.values)
        _ridge(right, layer.gradients, layer.gradient_edges, ORANGE, None if old is None else old.gradients)
        left.set_ylabel(_label(layer.name), rotation=0, ha="right", va="center", fontsize=8)
        healthy = layer.verdict == "healthy"
        right.text(
            1.01,
            0.5,
            _note(layer.verdict, layer.dead, layer.saturated),
            transform=right.transAxes,
            fontsize=8,
            va="center",
            color=GREY if healthy else ORANGE,
            fontweight="normal" if healthy else "bold",
        )
        right.set_xlim(*_decades(result, before))
        left.tick_params(labelbottom=row >= count - 2)  # the outputs have a scale of their own
        right.tick_params(labelbottom=row == count - 1)
    axes[0, 0].set_title("values", fontsize=9)
    axes[0, 1].set_title("gradients", fontsize=9)
    axes[-1, 0].set_xlabel("value (the last layer has a scale of its own)", fontsize=8)
    axes[-1, 1].set_xlabel("log10 |∂loss / ∂value|", fontsize=8)
    outline = "" if before is None else "   (outline: before)"
    figure.suptitle(_wrapped(result.verdict + outline, 95), fontsize=9)
    return figure


def depth(result: "Depth") -> "Figure":
    """Draw gradient norms (left) and singular values (right) from the first layer to the last."""
    from matplotlib.figure import Figure

    count = len(result.layers)
    figure = Figure(figsize=(max(9.5, 0.42 * count + 3), 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    places = np.arange(count)
    left.semilogy(places, _positive([layer.gradient_norm for layer in result.layers]), "o-", color=BLUE, markersize=4)
    weighted = [(place, layer) for place, layer in enumerate(result.layers) if layer.weight_gradient_norm is not None]
    norms = _positive([layer.weight_gradient_norm or 0.0 for _, layer in weighted])
    left.semilogy([place for place, _ in weighted], norms, "s--", color=ORANGE, markersize=4)
    left.legend(["of the loss by the layer's values", "by its weights"], fontsize=8, framealpha=0.9)
    left.set_title("gradient norm by layer", fontsize=9)
    _singular_values(right, result)
    for axis in (left, right):
        axis.set_xticks(places, [_label(layer.name) for layer in result.layers], rotation=60, ha="right", fontsize=7)
        axis.tick_params(axis="y", which="both", labelsize=8)
        axis.grid(axis="y", linewidth=0.3)
    figure.suptitle(_wrapped(result.verdict, 120), fontsize=9)
    return figure


def dead(result: "DeadUnits") -> "Figure":
    """Draw, for each layer, its units from the most to the least active, with the dead share."""
    from matplotlib.figure import Figure

    count = max(len(result.layers), 1)
    figure = Figure(figsize=(8, 0.42 * count + 1.3), layout="constrained")
    axes = figure.subplots(count, 1, squeeze=False, sharex=True)[:, 0]
    for axis, layer in zip(axes, result.layers, strict=False):
        shares = layer.active.sort(descending=True).values.numpy()
        axis.imshow(shares[None], aspect="auto", cmap="cividis", vmin=0, vmax=1, extent=(0, 100, 0, 1))
        axis.set_yticks([])
        axis.set_ylabel(_label(layer.name), rotation=0, ha="right", va="center", fontsize=8)
        words = f"{len(layer.dead)} of {len(layer.active)} dead"
        axis.text(101, 0.5, words, fontsize=8, va="center", color=ORANGE if layer.dead else GREY)
    axes[-1].set_xlabel("units, from the most to the least active, %   (bright: active for many examples)", fontsize=8)
    figure.suptitle(_wrapped(result.verdict, 95), fontsize=9)
    return figure


def _ridge(axis: "Axes", counts: Tensor, edges: Tensor, colour: str, earlier: Tensor | None) -> None:
    heights = np.sqrt(counts.numpy() / max(int(counts.max()), 1))  # the root keeps rare values visible
    axis.stairs(heights, edges.numpy(), fill=True, color=colour, alpha=0.75)
    if earlier is not None:
        axis.stairs(np.sqrt(earlier.numpy() / max(int(earlier.max()), 1)), edges.numpy(), color="black", linewidth=0.8)
    axis.set_yticks([])
    axis.set_ylim(0, 1.1)
    axis.tick_params(axis="x", labelsize=7)
    for side in ("top", "left", "right"):
        axis.spines[side].set_visible(False)


def _decades(result: "Histograms", before: "Histograms | None") -> tuple[float, float]:
    """The decades in which there are gradients."""
    total = sum(layer.gradients for each in (result, before) if each is not None for layer in each.layers)
    filled, edges = np.nonzero(np.asarray(total))[0], result.layers[0].gradient_edges
    if not len(filled):
        return -1.0, 1.0
    return float(edges[filled[0]]) - 0.3, float(edges[filled[-1] + 1]) + 0.3


def _singular_values(axis: "Axes", result: "Depth") -> None:
    known = [(place, layer.jacobian) for place, layer in enumerate(result.layers) if layer.jacobian is not None]
    for place, jacobian in known:
        if jacobian.values is not None:
            values = jacobian.values.mean(0).numpy()
            positive = values[values > 1e-6 * values.max()] if values.max() > 0 else values
            axis.plot([place, place], [positive.min(), positive.max()], color=GREY, linewidth=3, alpha=0.4)
    places = [place for place, _ in known]
    axis.plot(places, _positive([float(each.largest.mean()) for _, each in known]), "^", color=ORANGE, markersize=5)
    axis.plot(places, _positive([float(each.gain.mean()) for _, each in known]), "o-", color=BLUE, markersize=4)
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set_yscale("log")
    handles = axis.get_lines()[-3:-1]
    axis.legend(handles, ["largest", "change of a random adjoint's length"], fontsize=8, framealpha=0.9)
    axis.set_title("singular values of each layer's Jacobian\n(bar: all of them; below 1 shrinks)", fontsize=9)


def _positive(values: list[float]) -> np.ndarray:
    """Zeros cannot stand on a logarithmic axis: they are left out."""
    array = np.asarray(values, dtype=float)
    return np.where(array > 0, array, np.nan)


def _note(verdict: str, dead: float | None, saturated: float | None) -> str:
    parts = [verdict]
    if dead:
        parts.append(f"{dead:.0%} dead")
    if saturated:
        parts.append(f"{saturated:.0%} saturated")
    return "\n".join(parts)


def _label(name: str) -> str:
    return name if len(name) <= 22 else f"…{name[-21:]}"


def _wrapped(text: str, width: int) -> str:
    words, lines = text.split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)
