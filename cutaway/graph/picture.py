"""A sheet as a self-contained SVG."""

import math
from collections.abc import Callable, Mapping
from importlib import resources
from xml.sax.saxutils import escape, quoteattr

from cutaway.graph.labels import short
from cutaway.graph.outline import Box
from cutaway.graph.place import HEAD, PAD, Placed, Wire, place, wires
from cutaway.graph.sheet import LINE, MARGIN, UNITS, Sheet

BORDER = 12.0  # pixels around everything
STEPS = 9  # shades of a colour scale


class Shades:
    """A colour scale for a statistic: nine shades, logarithmic where the values span more than two powers of ten."""

    def __init__(self, name: str, values: Mapping[Box, float]) -> None:
        self.name, self.values = name, values
        shown = [value for box, value in values.items() if box.parent is not None and math.isfinite(value)]
        positive = [value for value in shown if value > 0]
        self.high = max(shown, default=0.0)
        self.log = len(positive) > 0 and min(shown) >= 0 and self.high > 100 * min(positive)
        self.low = max(min(positive), self.high * 1e-6) if self.log else min(shown, default=0.0)

    def shade(self, box: Box) -> str:
        """The class of a box's shade."""
        value = self.values.get(box)
        return "q-none" if value is None else f"q{self.step(value)}"

    def step(self, value: float) -> int:
        """The shade of a value: 0 for the least (and zero), 8 for the largest (and what is no number)."""
        if not math.isfinite(value):
            return STEPS - 1
        return max(0, min(STEPS - 1, math.floor(STEPS * self.part(value))))

    def part(self, value: float) -> float:
        """Where on the scale a value stands, from 0 to 1."""
        if self.high <= self.low:
            return 1.0 if value >= self.high > 0 else 0.0
        if self.log:
            clipped = min(max(value, self.low), self.high)
            return math.log(clipped / self.low) / math.log(self.high / self.low)
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def legend(self) -> str:
        """The name of the statistic with its range."""
        unit = UNITS.get(self.name, "")
        return f"{self.name.replace('_', ' ')}: {short(self.low)}{unit} … {short(self.high)}{unit}"


def style() -> str:
    """The style sheet of a picture."""
    return resources.files("cutaway.graph").joinpath("templates/picture.css").read_text(encoding="utf-8")


def picture(sheet: Sheet, opened: Callable[[Box], bool], shades: Shades | None = None) -> str:
    """Draw a sheet.

    Args:
        sheet: what is drawn.
        opened: which modules show what is in them.
        shades: a statistic to colour the boxes by.
    """
    root = place(sheet, opened, lambda box: False)
    if root.frame is None:  # nothing but the module itself
        root.move(0.0, 0.0, sheet.plans)
    heading = [line for line in (sheet.title, sheet.subtitle) if line]
    top = BORDER + 18.0 * len(heading) + 4
    below = 64.0 if shades is not None else 0.0
    text_width = max(
        (len(line) * (8.2 if position == 0 else 5.6) for position, line in enumerate(heading)), default=0.0
    )
    legend = [shades.legend()] if shades else []
    text_width = max([text_width, *(len(line) * 5.6 for line in legend)])
    width = max(root.width, text_width) + 2 * BORDER
    height = top + root.height + BORDER + below
    shift = (width - root.width) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="cutaway-graph" role="img" width="{width:.0f}" '
        f'height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:100%;height:auto">',
        f"<title>{escape(' · '.join(heading))}</title>",
        f"<style>{style()}</style>",
    ]
    for position, line in enumerate(heading):
        kind = "title" if position == 0 else "facts"
        parts.append(
            f'<text class="{kind}" x="{BORDER:.0f}" y="{BORDER + 12 + 18 * position:.0f}">{escape(line)}</text>'
        )
    parts.append(f'<g transform="translate({shift:.1f} {top:.1f})">')
    parts += frames(root, sheet)
    connections = wires(root, sheet)
    parts += [_wire(wire) for wire in connections]
    parts += boxes(root, sheet, shades)
    parts += [_slope(wire) for wire in connections if wire.slope and wire.tip]
    parts.append("</g>")
    if shades is not None:
        parts += strip(sheet, shades, width - 2 * BORDER, top + root.height + BORDER)
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def frames(placed: Placed, sheet: Sheet) -> list[str]:
    """The edges of open modules, outer ones first."""
    if placed.frame is None:
        return []
    found = []
    if placed.box.parent is not None:
        if placed.badge:
            found.append(_rect(placed.x + 4, placed.y + 4, placed.width, placed.height, "frame"))
        found.append(_rect(placed.x, placed.y, placed.width, placed.height, "frame"))
    for child in placed.inner:
        found += frames(child, sheet)
    return found


def boxes(placed: Placed, sheet: Sheet, shades: Shades | None) -> list[str]:
    """The closed boxes, and the names of open ones."""
    card = sheet.cards[placed.box]
    if placed.frame is not None:
        found = []
        if placed.box.parent is not None:
            label = (
                ""
                if placed.box.label == card.lines[0][1]
                else f' <tspan class="label">{escape(placed.box.label)}</tspan>'
            )
            found.append(
                f'<text class="name head" x="{placed.x + PAD:.1f}" y="{placed.y + HEAD - 8:.1f}">'
                f"{escape(card.lines[0][1])}{label}</text>{_badge(placed)}"
            )
        for child in placed.inner:
            found += boxes(child, sheet, shades)
        return found
    classes = f"k-{card.kind}"
    if shades is not None and card.kind not in ("input", "output"):
        classes += f" {shades.shade(placed.box)}"
    mark = f" {card.mark.replace(' ', '-')}" if card.mark else ""
    parts = [f'<g class="box{mark}"><title>{escape(card.title)}</title>']
    if placed.badge:
        parts.append(_rect(placed.x + 4, placed.y + 4, placed.width, placed.height, classes))
    radius = 11 if card.kind in ("input", "output") else 5
    parts.append(_rect(placed.x, placed.y, placed.width, placed.height, classes, radius))
    for position, (kind, text) in enumerate(card.lines):
        y = placed.y + LINE * (position + 1) + 1
        parts.append(f'<text class="{kind}" x="{placed.x + MARGIN:.1f}" y="{y:.1f}">{escape(text)}</text>')
    parts.append(f"{_badge(placed)}</g>")
    return ["".join(parts)]


def strip(sheet: Sheet, shades: Shades, width: float, y: float) -> list[str]:
    """The statistic along the computation: a bar for each operation in order, with the scale's range."""
    known = [(leaf, shades.values[leaf]) for leaf in sheet.root.leaves() if leaf in shades.values]
    step = width / max(len(known), 1)
    leaves = Shades(shades.name, dict(known))  # bars are measured by the largest operation, shades by the largest box
    parts = [f'<text class="facts" x="{BORDER:.0f}" y="{y + 10:.1f}">{escape(shades.legend())}</text>']
    for position, (leaf, value) in enumerate(known):
        high = 2 + 34 * (leaves.part(value) if math.isfinite(value) else 1.0)
        bar = _rect(
            BORDER + position * step,
            y + 52 - high,
            max(step * 0.85, 0.5),
            high,
            f"bar q{max(3, shades.step(value))}",
            0,
        )
        parts.append(f"<g><title>{escape(leaf.path)}: {short(value)}</title>{bar}</g>")
    return parts


def _badge(placed: Placed) -> str:
    if not placed.badge:
        return ""
    x, y = placed.x + placed.width - MARGIN, placed.y + LINE + 1
    return f'<text class="badge" text-anchor="end" x="{x:.1f}" y="{y:.1f}">{escape(placed.badge)}</text>'


def _rect(x: float, y: float, width: float, height: float, classes: str, radius: int = 5) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect class={quoteattr(classes)} {place} rx="{radius}"/>'


def _wire(wire: Wire) -> str:
    skip = " skip" if wire.skip else ""
    text = f'<path class="wire{skip}" d="{wire.path}"/>'
    if wire.tip is not None:
        x, y = wire.tip
        text += f'<path class="tip{skip}" d="M{x:.1f} {y:.1f}l-3.5-6h7z"/>'
    return text


def _slope(wire: Wire) -> str:
    x, y = wire.tip or (0.0, 0.0)
    width = 5.8 * len(wire.slope) + 2
    start = x - 6 - width if wire.left else x + 6
    paper = _rect(start, y - 13, width, 11, "paper", 0)  # a line that passes behind must not look like a sign
    return f'{paper}<text class="slope" x="{start + 1:.1f}" y="{y - 4:.1f}">{escape(wire.slope)}</text>'
