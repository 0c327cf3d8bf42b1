"""Pictures of graphs: modules as boxes, values and adjoints in numbers, any statistic as colour."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.errors import ArgumentError
from cutaway.graph.outline import Box
from cutaway.graph.page import page
from cutaway.graph.picture import Shades, picture
from cutaway.graph.sheet import Sheet, check_number, sheet

if TYPE_CHECKING:
    from cutaway.graph.graph import Graph
    from cutaway.graph.measure import Timing
    from cutaway.graph.program import Program
    from cutaway.graph.trace import Trace


@dataclass(frozen=True, eq=False)
class Drawing:
    """A picture of a graph, as a still (`svg`) and as a page to explore (`html`).

    Attributes:
        sheet: what is shown.
        depth: how many levels of modules are open; None for all.
        color: the statistic the boxes are coloured by; None for the kind of operation.
        program: the backward pass it shows, if any.
    """

    sheet: Sheet
    depth: int | None
    color: str | None
    program: "Program | None" = None

    @cached_property
    def svg(self) -> str:
        """A self-contained SVG, light or dark as its surroundings."""
        shades = Shades(self.color, self.sheet.numbers[self.color]) if self.color else None
        return picture(self.sheet, lambda box: opened(box, self.depth), shades)

    @cached_property
    def html(self) -> str:
        """A page in one file: opens modules, zooms, colours by any statistic, shows the backward pass."""
        return page(self.sheet, lambda box: opened(box, self.depth), self.color, self.program)

    def save(self, path: str | Path) -> Path:
        """Write the picture to a file that ends in .svg or .html; returns its path."""
        path = Path(path)
        if path.suffix not in (".svg", ".html"):
            raise ArgumentError(f"cannot save a drawing as {path.name!r}: expected a name that ends in .svg or .html")
        path.write_text(self.svg if path.suffix == ".svg" else self.html, encoding="utf-8")
        return path

    def _repr_html_(self) -> str:
        return self.svg


def opened(box: Box, depth: int | None) -> bool:
    """Whether a container shows what is in it when so many levels of modules are open."""
    level = sum(around.kind == "module" for around in box.above()) - 1
    return depth is None or level < depth


def draw(
    graph: "Graph",
    path: str | Path | None = None,
    depth: int | None = 1,
    *,
    values: "Trace | None" = None,
    adjoints: bool = True,
    color: str | Mapping[Any, float] | None = None,
    numbers: Mapping[str, Mapping[Any, float]] | None = None,
    program: "Program | None" = None,
    timing: "Timing | None" = None,
    fold: bool = True,
) -> Drawing:
    """Draw a graph.

    Args:
        graph: a captured graph.
        path: where to save the drawing, a name that ends in .svg or .html; None to save nothing.
        depth: how many levels of modules are open at first; None for all, down to the operations.
        values: a trace whose values are written into the boxes of operations; parameters get boxes of their own in
            graphs of at most 40 nodes.
        adjoints: write the trace's adjoints too, where it has run backward.
        color: the statistic the boxes are coloured by: the name of one, or numbers by node, module or parameter. There
            are always "parameters", "multiply_adds", "elementwise", "backward" and "activation_bytes"; a trace adds
            "value size" and "adjoint size" (root of the mean square), a timing "forward time" and "backward time".
        numbers: further statistics by name, to choose from in the page.
        program: a gradient program whose use of each node is marked: replaced rules, fallbacks, what is pruned.
        timing: what `measure` returned.
        fold: show equal blocks in a row as one: "+2 more" says two more copies, "×3" the same weights used three times.

    A module shows the sum of what adds up over its operations, and the largest of any other statistic.

    >>> import torch, cutaway as ct
    >>> drawing = ct.capture(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()), torch.zeros(2, 4)).draw()
    >>> drawing.svg.count('class="box"')
    4
    """
    more = dict(numbers or {})
    if color is not None and not isinstance(color, str):
        more["color"] = color
        color = "color"
    made = sheet(graph, values, adjoints, program, timing, more, fold)
    if color is not None:
        check_number(color, list(made.numbers))
    drawing = Drawing(made, depth, color, program)
    if path is not None:
        drawing.save(path)
    return drawing
