"""A drawing as a page to explore: one file that opens modules, zooms, colours, and needs no network."""

import json
import math
from collections.abc import Callable, Mapping
from html import escape
from importlib import resources
from string import Template
from typing import Any

from cutaway.graph import place
from cutaway.graph.cost import NUMBERS
from cutaway.graph.labels import size
from cutaway.graph.marks import kept_values
from cutaway.graph.nodes import Node
from cutaway.graph.outline import Box
from cutaway.graph.picture import Shades, style
from cutaway.graph.program import Program
from cutaway.graph.sheet import LINE, MARGIN, SUMMED, UNITS, WIDTHS, Sheet


def page(sheet: Sheet, opened: Callable[[Box], bool], color: str | None, program: Program | None) -> str:
    """Write the page.

    Args:
        sheet: what is shown.
        opened: which modules are open at first.
        color: the statistic the boxes are coloured by at first.
        program: the backward pass to show beside the forward pass.
    """
    data = json.dumps(payload(sheet, opened, color, program), separators=(",", ":"), allow_nan=False)
    return Template(_template("page.html")).substitute(
        title=escape(sheet.title),
        subtitle=escape(sheet.subtitle),
        style=_template("page.css") + style(),
        script=_template("page.js"),
        data=data.replace("<", "\\u003c"),
    )


def _template(name: str) -> str:
    return resources.files("cutaway.graph").joinpath(f"templates/{name}").read_text(encoding="utf-8")


def payload(sheet: Sheet, opened: Callable[[Box], bool], color: str | None, program: Program | None) -> dict[str, Any]:
    """What the page's script is given."""
    every = list(sheet.root.walk())
    kept = kept_values(program) if program is not None else {}
    names = ("LANE", "ACROSS", "DOWN", "PAD", "HEAD", "SPREAD")
    return {
        "boxes": [_box(sheet, box, kept) for box in every],
        "open": [box.number for box in every if box.children and opened(box)],
        "order": [leaf.number for leaf in sheet.root.leaves()],
        "color": color,
        "backward": program is not None,
        "statistics": {name: _statistic(name, values, every) for name, values in sheet.numbers.items()},
        "sizes": {**{name: getattr(place, name) for name in names}, "LINE": LINE, "MARGIN": MARGIN, **WIDTHS},
    }


def _statistic(name: str, values: Mapping[Box, float], every: list[Box]) -> dict[str, Any]:
    shades = Shades(name, values)
    return {
        "values": [_finite(values.get(box)) for box in every],
        "low": _finite(shades.low),
        "high": _finite(shades.high),
        "log": shades.log,
        "unit": UNITS.get(name, ""),
        "summed": name in SUMMED,
        "whole": name in NUMBERS,
    }


def _finite(value: float | None) -> float | str | None:
    """JSON knows neither infinity nor nan: they are written as words."""
    if value is None or not math.isfinite(value):
        return None if value is None else str(value)
    return int(value) if value == int(value) else value


def _box(sheet: Sheet, box: Box, kept: Mapping[Node, list[tuple[str, int | None]]]) -> dict[str, Any]:
    card = sheet.cards[box]
    made: dict[str, Any] = {
        "type": box.kind,
        "kind": card.kind,
        "mark": card.mark,
        "lines": card.lines,
        "width": round(card.width, 1),
        "height": card.height,
        "path": box.path if box.parent is not None else "",
        "label": box.label or box.kind,
        "badge": box.badge,
        "shape": size(box),
        "parent": box.parent.number if box.parent is not None else -1,
        "inner": [child.number for child in box.children],
        "source": box.node.source if box.node is not None else "",
    }
    if box.children:
        plan = sheet.plans[box]
        made |= {
            "entering": [signal.number for signal in plan.entering],
            "leaving": [signal.number for signal in plan.leaving],
            "signals": [signal.number for signal in plan.signals],
            "nets": [[net.source, net.targets] for net in plan.nets],
            "grid": {
                "cells": plan.grid.cells,
                "lanes": plan.grid.lanes,
                "rows": plan.grid.rows,
                "columns": plan.grid.columns,
            },
        }
    reads = [entry for leaf in box.leaves() if leaf.node is not None for entry in kept.get(leaf.node, ())]
    if reads:
        made["back"] = {"reads": [] if box.children else reads, "kept": sum(each or 0 for _, each in reads)}
    slopes = {source.number: text for (target, source), text in sheet.slopes.items() if target is box}
    if slopes:
        made["slopes"] = slopes
    work = sheet.numbers.get("backward", {}).get(box)
    if work and card.mark not in ("pruned", "forward only", ""):
        made.setdefault("back", {})["work"] = int(work)
    return made
