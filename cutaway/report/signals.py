"""Signals by depth: activation and gradient histograms of every layer before and after training, with a verdict."""

import itertools
import re
from collections.abc import Sequence

from markupsafe import Markup
from torch import Tensor

from cutaway import diagnose
from cutaway.diagnose import Histograms, LayerHistogram
from cutaway.report.figures import Ridge, ridges
from cutaway.report.page import Figure, Section
from cutaway.report.subject import Subject
from cutaway.report.svg import Scale
from cutaway.report.words import listed

TITLE = "Signals by depth"
MOST_LAYERS = 16


def section(subject: Subject) -> Section:
    """Make the chapter from training examples, in evaluation mode, with the loss of the run."""
    y: Tensor | None = subject.train_y if subject.classes else None
    end = diagnose.histograms(subject.model, subject.train_x, y)
    start = None
    missing = []
    if subject.initial is not None:
        start = diagnose.histograms(subject.initial, subject.train_x, y, like=end)
    else:
        missing.append("The run folder holds no initial weights, so there is nothing to compare the end with.")
    shown = _thinned(end.layers)
    if len(shown) < len(end.layers):
        missing.append(f"Of {len(end.layers)} layers, {len(shown)} at equal distances are drawn.")
    return Section("signals", TITLE, [_reading(subject, start, end)], _figures(subject, start, end, shown), missing)


def _reading(subject: Subject, start: Histograms | None, end: Histograms) -> str:
    said = [] if start is None else [f"Before training, {start.verdict}"]
    said.append(f"After training, {end.verdict}")
    dead = [layer for layer in end.layers if layer.dead]
    if dead:
        worst = max(dead, key=lambda layer: layer.dead or 0)
        said.append(f"ReLUs that never fire are most frequent in {worst.name}: {worst.dead:.0%} of its units.")
    elif any(layer.dead is not None for layer in end.layers):
        said.append("No ReLU is dead: each fires for some example.")
    return re.sub(r"(?<=\d)%", " %", subject.plain(" ".join(said)))


def _thinned(layers: Sequence[LayerHistogram]) -> list[int]:
    """The places of the layers to draw: all, or as many as can be read, the first and last among them."""
    if len(layers) <= MOST_LAYERS:
        return list(range(len(layers)))
    return sorted({round(k * (len(layers) - 1) / (MOST_LAYERS - 1)) for k in range(MOST_LAYERS)})


def _figures(subject: Subject, start: Histograms | None, end: Histograms, shown: Sequence[int]) -> list[Figure]:
    values, gradients = [], []
    for k in shown:
        after, before = end.layers[k], None if start is None else start.layers[k]
        spread, norm = f"sd {after.std:.2g}", f"norm {after.gradient_norm:.2g}"
        if before is not None:
            spread, norm = f"sd {before.std:.2g} → {after.std:.2g}", f"norm {before.gradient_norm:.2g} → {norm[5:]}"
        name = subject.plain(after.name)
        values.append(_ridge(name, before, after, "values", after.value_edges, spread))
        gradients.append(_ridge(name, before, after, "gradients", 10 ** after.gradient_edges.double(), norm))
    signs = ["a layer that shrinks to a spike passes nothing on", "one that spreads ever wider explodes"]
    if any(layer.dead is not None for layer in end.layers):
        signs.append("a tall spike at zero after a ReLU is units that are silent")
    if any(layer.saturated is not None for layer in end.layers):
        signs.append("spikes at the ends of the range are units in saturation")
    caption = f"Look from top (input) to bottom (output): {listed(signs)}."
    first = Figure("Activations", caption, _by_axis(values))
    caption = (
        "Look whether the hills stay above one another: hills that wander left towards the input are vanishing "
        "gradients, to the right exploding ones."
    )
    edges = gradients[0].edges
    low, high = _occupied(start, end)
    scale = Scale(edges[low], edges[high], log=True)
    return [first, Figure("Gradients", caption, ridges(gradients, scale, "|∂loss/∂activation|"))]


def _by_axis(rows: Sequence[Ridge]) -> Markup:
    """Draw rows that share their edges on one axis; the outputs, which have their own, below."""
    drawn = Markup("")
    for edges, group in itertools.groupby(rows, key=lambda one: (one.edges[0], one.edges[-1])):
        label = "activation" if not drawn else "output"
        drawn += ridges(list(group), Scale(*edges), label, key=not drawn)
    return drawn


def _ridge(
    name: str, before: LayerHistogram | None, after: LayerHistogram, what: str, edges: Tensor, note: str
) -> Ridge:
    note = note if after.verdict == "healthy" else f"{after.verdict}, {note}"
    start = None if before is None else getattr(before, what).tolist()
    return Ridge(name, edges.tolist(), start, getattr(after, what).tolist(), note)


def _occupied(start: Histograms | None, end: Histograms) -> tuple[int, int]:
    """The first and last edge between which nearly all gradients lie."""
    total = sum(layer.gradients for each in (start, end) if each is not None for layer in each.layers)
    counts = total.tolist() if isinstance(total, Tensor) else []
    least = 0.0005 * max(counts, default=0)
    inside = [k for k, count in enumerate(counts) if count > least]
    return (inside[0], inside[-1] + 1) if inside else (0, len(end.layers[0].gradient_edges) - 1)
