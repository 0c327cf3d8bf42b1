"""Inline SVG without a library: scales, axes, lines, bands. Colours are CSS classes, so they follow light and dark."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH = 360  # viewBox units; at phone width one unit is one CSS pixel
LEFT, RIGHT, TOP, BOTTOM = 42, 10, 28, 30
COLORS = ("blue", "orange", "green", "purple", "red", "grey")


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """Make an element; underscores in attribute names become hyphens, a trailing one is dropped (`class_`).

    >>> tag("text", "a < b", x=3, text_anchor="end")
    Markup('<text x="3" text-anchor="end">a &lt; b</text>')
    """
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    listed = "".join(f' {key}="{escape(number(value))}"' for key, value in given.items())
    return Markup(f"<{name}{listed}>{''.join(str(escape(child)) for child in children)}</{name}>")


def number(value: object) -> object:
    """Round coordinates to a tenth, which keeps the file small; anything else passes."""
    return f"{value:.1f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def canvas(height: float, *children: object, label: str, width: float = WIDTH, class_: str = "") -> Markup:
    """Make the outer element, scaled to the column it stands in, with a text for screen readers."""
    return tag(
        "svg",
        *children,
        viewBox=f"0 0 {number(width)} {number(height)}",
        role="img",
        aria_label=label,
        class_=class_,
    )


@dataclass(frozen=True)
class Scale:
    """A range of values on an axis, linear or logarithmic, labelled plainly, in per cent, or at whole numbers only.

    >>> Scale(1, 100, log=True)(10)
    0.5
    >>> Scale(0, 1).ticks()
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """

    low: float
    high: float
    log: bool = False
    percent: bool = False
    whole: bool = False

    def __call__(self, value: float) -> float:
        """Place a value between 0 (low) and 1 (high); what lies outside is put on the edge."""
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        at = math.log10(max(value, self.low)) if self.log else value
        return min(max((at - low) / ((high - low) or 1.0), 0.0), 1.0)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values to label, `most` at the utmost: multiples of 1, 2 or 5 times a power of ten."""
        if self.log:
            return self._decades(most)
        span = (self.high - self.low) or 1.0
        for step in _steps(span / most):
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            if last - first < most and (not self.whole or step >= 1):
                return [round(k * step, 12) for k in range(first, last + 1)]
        return []

    def _decades(self, most: int) -> list[float]:
        first, last = (
            math.ceil(math.log10(self.low) - 1e-9),
            math.floor(math.log10(self.high) + 1e-9),
        )
        fine = [m * 10.0**k for k in range(first - 1, last + 2) for m in (1, 2, 5)]
        inside = [value for value in fine if self.low <= value <= self.high]
        if len(inside) <= most + 2:
            return inside
        every = math.ceil((last - first + 1) / most)
        return [10.0**k for k in range(first, last + 1) if k % every == 0]

    def text(self, value: float) -> str:
        """Write a tick's label.

        >>> Scale(0, 1, percent=True).text(0.5), Scale(1e-6, 1, log=True).text(1e-4)
        ('50 %', '10⁻⁴')
        """
        if self.percent:
            return f"{100 * value:.6g} %"
        if self.log and value > 0 and not -2 <= math.log10(value) <= 3 and math.log10(value) % 1 == 0:
            return "10" + str(round(math.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"{value:,.6g}".replace("-", "−")


def _steps(about: float) -> Iterable[float]:
    """Yield growing round steps from somewhat below `about`."""
    power = math.floor(math.log10(about)) if about > 0 else 0
    return (m * 10.0**k for k in range(power, power + 4) for m in (1, 2, 5))


def around(
    values: Iterable[float],
    *,
    log: bool = False,
    percent: bool = False,
    pad: float = 0.05,
) -> Scale:
    """Make the scale that shows all finite values with a little room.

    >>> around([1.0, 3.0], pad=0.5)
    Scale(low=0.0, high=4.0, log=False, percent=False, whole=False)
    """
    kept = [float(v) for v in values if math.isfinite(v) and (v > 0 or not log)]
    if not kept:
        return Scale(0.1, 1.0, log, percent) if log else Scale(0.0, 1.0, log, percent)
    low, high = min(kept), max(kept)
    if log:
        room = max((high / low) ** pad, 1.1)
        return Scale(low / room, high * room, log, percent)
    room = (high - low) * pad if high > low else abs(high) * 0.1 or 0.5
    return Scale(low - room, high + room, log, percent)


@dataclass(frozen=True)
class Series:
    """One line of a chart: its name, points, colour class, and an optional band around it."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: str = "blue"
    dashed: bool = False
    dots: bool = False
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def chart(
    series: Sequence[Series],
    *,
    x: Scale,
    y: Scale,
    xlabel: str,
    ylabel: str,
    mark: tuple[float, str] | None = None,
    height: float = 220,
) -> Markup:
    """Draw lines over axes, with a legend above that wraps on narrow screens.

    Args:
        series: the lines, drawn in order.
        x, y: the ranges of the axes.
        xlabel, ylabel: what the axes measure, with units.
        mark: a place on the x axis and its label, drawn as a vertical line.
        height: in viewBox units; the width is 360.
    """
    right, bottom = WIDTH - RIGHT, height - BOTTOM

    def px(value: float) -> float:
        return LEFT + x(value) * (right - LEFT)

    def py(value: float) -> float:
        return bottom - y(value) * (bottom - TOP)

    parts = [_grid(x, y, px, py, height), *(_line(one, px, py) for one in series)]
    if mark:
        at = px(mark[0])
        side = "end" if at > WIDTH / 2 else "start"
        parts.append(tag("line", x1=at, x2=at, y1=TOP - 1, y2=bottom, class_="mark"))
        parts.append(tag("text", mark[1], x=at + (3 if side == "end" else -3), y=TOP - 4, text_anchor=side))
    parts.append(tag("text", ylabel, x=2, y=11, class_="axis"))
    parts.append(tag("text", xlabel, x=right, y=height - 3, text_anchor="end", class_="axis"))
    label = f"{ylabel} against {xlabel}: " + ", ".join(one.name for one in series)
    return legend([(one.name, one.color, one.dashed) for one in series]) + canvas(height, *parts, label=label)


def _grid(x: Scale, y: Scale, px, py, height: float) -> Markup:
    parts = []
    for value in y.ticks(6):
        parts.append(
            tag(
                "line",
                x1=LEFT,
                x2=WIDTH - RIGHT,
                y1=py(value),
                y2=py(value),
                class_="grid",
            )
        )
        parts.append(tag("text", y.text(value), x=LEFT - 5, y=py(value) + 3.5, text_anchor="end"))
    for value in x.ticks(6):
        parts.append(
            tag(
                "text",
                x.text(value),
                x=px(value),
                y=height - BOTTOM + 14,
                text_anchor="middle",
            )
        )
    return Markup("").join(parts)


def _line(one: Series, px, py) -> Markup:
    points = [(px(a), py(b)) for a, b in zip(one.x, one.y, strict=True) if math.isfinite(b)]
    parts = []
    if one.low is not None and one.high is not None:
        upper = [(px(a), py(b)) for a, b in zip(one.x, one.high, strict=True)]
        lower = [(px(a), py(b)) for a, b in zip(one.x, one.low, strict=True)]
        parts.append(tag("path", d=path(upper + lower[::-1]) + "Z", class_=f"band {one.color}"))
    parts.append(
        tag(
            "path",
            d=path(points),
            class_=f"line {one.color}" + (" dashed" if one.dashed else ""),
        )
    )
    if one.dots or len(points) == 1:
        parts += [tag("circle", cx=a, cy=b, r=2.6, class_=f"dot {one.color}") for a, b in points]
    return Markup("").join(parts)


def path(points: Sequence[tuple[float, float]]) -> str:
    """Write the `d` of a path through points.

    >>> path([(0.0, 1.0), (2.0, 3.04)])
    'M0 1L2 3'
    """
    return "".join(f"{'L' if i else 'M'}{number(float(a))} {number(float(b))}" for i, (a, b) in enumerate(points))


def legend(entries: Sequence[tuple[str, str, bool]]) -> Markup:
    """List names with a sample of their line; a single line needs none."""
    if len(entries) < 2:
        return Markup("")
    items = [
        tag(
            "li",
            tag("i", class_=f"swatch {color}" + (" dashed" if dashed else "")),
            name,
        )
        for name, color, dashed in entries
    ]
    return tag("ul", *items, class_="legend")
