"""The report's larger figures: confusion matrix, histograms by depth, filters, rows of cases."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cutaway.report.svg import WIDTH, Scale, canvas, legend, number, path, tag


def matrix(counts: Sequence[Sequence[int]], names: Sequence[str]) -> Markup:
    """Draw a confusion matrix: rows are the true classes, columns the predicted ones.

    Args:
        counts: examples by true and predicted class, square.
        names: the classes, in order.
    """
    longest = min(max(map(len, names)), 12)
    left, top = 12 + 6.2 * longest, 16.0
    cell = (WIDTH - left - 2) / len(names)
    slanted = 6.2 * longest > cell
    below = top + cell * len(names)
    under = 5 * longest if slanted else 13.0  # room for the names under the columns
    worst = max((n for i, row in enumerate(counts) for j, n in enumerate(row) if i != j), default=0) or 1
    parts = [tag("text", "predicted →", x=0, y=below + under + 13, class_="axis")]
    parts.append(tag("text", "true ↓", x=0, y=top - 5, class_="axis"))
    for i, row in enumerate(counts):
        parts.append(tag("text", names[i][:12], x=left - 5, y=top + (i + 0.5) * cell + 4, text_anchor="end"))
        x, y = left + (i + 0.5) * cell, below + 13
        turn = f"rotate(-45 {number(x)} {number(y - 3)})" if slanted else None
        anchor = "end" if slanted else "middle"
        parts.append(tag("text", names[i][:12], x=x + 3 * slanted, y=y, text_anchor=anchor, transform=turn))
        parts += [_cell(n, i, j, left, top, cell, worst, sum(row), names) for j, n in enumerate(row)]
    return canvas(below + under + 17, *parts, label="confusion matrix", class_="matrix")


def _cell(
    n: int,
    i: int,
    j: int,
    left: float,
    top: float,
    cell: float,
    worst: float,
    total: int,
    names,
) -> Markup:
    right = i == j
    share = n / total if right and total else n / worst
    x, y = left + j * cell, top + i * cell
    hint = tag("title", f"{n} × true {names[i]}, predicted {names[j]}")
    parts = [
        tag(
            "rect",
            hint,
            x=x + 0.5,
            y=y + 0.5,
            width=cell - 1,
            height=cell - 1,
            class_="cell",
        )
    ]
    if n:
        parts.append(
            tag(
                "rect",
                x=x + 0.5,
                y=y + 0.5,
                width=cell - 1,
                height=cell - 1,
                class_="right" if right else "wrong",
                fill_opacity=f"{0.15 + 0.5 * share:.2f}",
                pointer_events="none",
            )
        )
        if cell >= 14:
            parts.append(tag("text", n, x=x + cell / 2, y=y + cell / 2 + 4, text_anchor="middle"))
    return Markup("").join(parts)


@dataclass(frozen=True)
class Ridge:
    """One layer's row: bin edges and counts at the start and at the end of training, and a note.

    `edges` are positions on the common axis (already logarithmic where the axis is).
    """

    name: str
    edges: Sequence[float]
    start: Sequence[float] | None
    end: Sequence[float]
    note: str = ""


def ridges(rows: Sequence[Ridge], x: Scale, xlabel: str, key: bool = True) -> Markup:
    """Draw the rows from input (top) to output (bottom): filled is the end of training, the line its start.

    Args:
        rows: the layers.
        x: the axis they share.
        xlabel: what it measures.
        key: whether the legend stands above.
    """
    row, top = 46.0, 4.0
    bottom = top + row * len(rows)
    parts = []
    for value in x.ticks(6):
        at = x(value) * (WIDTH - 8) + 4
        anchor = "start" if at < 20 else "end" if at > WIDTH - 20 else "middle"
        parts.append(tag("line", x1=at, x2=at, y1=top, y2=bottom, class_="grid"))
        parts.append(tag("text", x.text(value), x=at, y=bottom + 13, text_anchor=anchor))
    for index, one in enumerate(rows):
        floor = top + row * (index + 1)
        parts.append(_ridge(one, x, floor, row - 16))
        parts.append(tag("line", x1=0.0, x2=float(WIDTH), y1=floor, y2=floor, class_="floor"))
        parts.append(tag("text", one.name, x=4, y=floor - row + 13, class_="name"))
        parts.append(
            tag(
                "text",
                one.note,
                x=WIDTH - 4,
                y=floor - row + 13,
                text_anchor="end",
                class_="note",
            )
        )
    parts.append(tag("text", xlabel, x=WIDTH - 4, y=bottom + 27, text_anchor="end", class_="axis"))
    names = legend([("before training", "grey", True), ("after training", "blue", False)])
    return (names if key else Markup("")) + canvas(bottom + 32, *parts, label=f"{xlabel} by layer", class_="ridges")


def _ridge(one: Ridge, x: Scale, floor: float, height: float) -> Markup:
    parts = []
    for counts, kind in ((one.end, "area blue"), (one.start, "line grey dashed")):
        if counts is None or not (total := max(counts, default=0)):
            continue
        points = []
        for k, count in enumerate(counts):  # a staircase: both edges of each bin at its height
            level = floor - height * math.sqrt(count / total)
            points += [(x(edge) * (WIDTH - 8) + 4, level) for edge in (one.edges[k], one.edges[k + 1])]
        closed = [(points[0][0], floor), *points, (points[-1][0], floor)]
        parts.append(tag("path", d=path(closed), class_=kind))
    return Markup("").join(parts)


@dataclass(frozen=True)
class Tile:
    """A small image with a line or two under it; `tone` is "", "good" or "bad"."""

    image: Markup
    label: str = ""
    note: str = ""
    tone: str = ""


def tiles(entries: Sequence[Tile], size: str = "") -> Markup:
    """Lay tiles out in a grid that wraps; `size` is "" (small) or "large"."""
    return tag("div", *(_tile(one) for one in entries), class_=f"tiles {size}".strip())


def cases(heads: Sequence[str], rows: Sequence[Sequence[Tile]]) -> Markup:
    """Lay cases out: a row each on a phone, a column each on a wide screen; `heads` name the tiles of a case."""
    head = tag("div", *(tag("span", text) for text in heads), class_="case heads")
    body = [tag("div", *(_tile(one) for one in row), class_="case") for row in rows]
    return tag(
        "div",
        head,
        *body,
        class_="cases",
        style=f"--rows:{len(heads)};--cases:{len(rows)}",
    )


def _tile(one: Tile) -> Markup:
    parts = [one.image]
    parts += [tag("b", one.label, class_=one.tone or None)] if one.label else []
    parts += [tag("small", one.note)] if one.note else []
    return tag("div", *parts, class_="tile")
