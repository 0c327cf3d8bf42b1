"""The network: its computation graph with shapes and costs, and the filters of its first layer."""

import re
from collections.abc import Sequence

from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from cutaway import graph as G
from cutaway.graph.cost import Cost, CostRow
from cutaway.nets import Normalized
from cutaway.report.figures import Tile, tiles
from cutaway.report.images import picture, signed
from cutaway.report.page import Figure, Section, table
from cutaway.report.subject import Subject
from cutaway.report.svg import tag
from cutaway.report.words import count, percent, short

TITLE = "The network"

TALLEST = 1300.0  # of the drawing, in pixels
MOST_FILTERS = 64
MOST_ROWS = 40  # of the table of modules; a deeper network is folded


def section(subject: Subject) -> Section:
    """Make the chapter from the captured graph."""
    graph = subject.graph
    figures = [_drawing(subject), _costs(subject)]
    missing = []
    first = first_layer(graph)
    if first is None:
        missing.append("There are no first-layer filters: no convolution or linear layer reads the input directly.")
    elif (shown := _filters(subject, *first)) is not None:
        figures.append(shown)
    else:
        shape = "×".join(map(str, first[1].shape))
        missing.append(f"The first layer's weights ({shape}) are not shown: they do not have the form of images.")
    return Section("network", TITLE, [_words(subject)], figures, missing)


def folded(cost: Cost) -> Sequence[CostRow]:
    """The costs by module, as deep as the table has room for."""
    rows = cost.by_module()
    depth = max((row.name.count(".") + 1 for row in rows), default=1)
    while len(rows) > MOST_ROWS and depth > 1:
        depth -= 1
        rows = cost.by_module(depth)
    return rows


def _words(subject: Subject) -> str:
    cost, graph = subject.cost, subject.graph
    total, operations = cost.total, sum(node.op is not None for node in graph.nodes)
    said = [f"{count(operations, 'operation')} with {count(total.parameters, 'parameter')} in all."]
    rows = folded(cost)
    for number, what in (("parameters", "of the parameters are"), ("multiply_adds", "of the multiply-adds are done")):
        whole = getattr(total, number)
        if whole and len(rows) > 1:
            most = max(rows, key=lambda row: getattr(row, number))
            place = subject.plain(most.name) or "the network itself"
            said.append(f"{percent(getattr(most, number) / whole, 0)} {what} in {place}.")
    if total.multiply_adds:
        back = f"{cost.ratio:.2g} times that for the gradient of all parameters"
        said.append(f"One example costs {short(total.multiply_adds)} multiply-adds forward, and {back}.")
    return " ".join(said)


def _costs(subject: Subject) -> Figure:
    rows, total = folded(subject.cost), subject.cost.total
    body: list[list[object]] = []
    outside = "preprocessing" if isinstance(subject.model, Normalized) else "(outside)"
    parents = {part for row in rows for part in _above(row.name)}
    for row in rows:
        if not (row.parameters or row.multiply_adds or row.elementwise):
            continue  # only moves numbers about
        made = "" if row.name in parents else f" → {_shape(row)}"
        name = tag("code", subject.plain(row.name) or outside) + tag("small", f"{row.op}{made}")
        body.append([name, _amount(row.parameters, total.parameters), _amount(row.multiply_adds, total.multiply_adds)])
    body.append(["total", short(total.parameters), short(total.multiply_adds)])
    heads = ["Module → output", "Parameters", "Multiply-adds"]
    caption = (
        "Look at the bars: they show which module holds the parameters and which does the work, seldom the same one."
    )
    return Figure("Modules from input to output", caption, table(heads, body, numeric=(1, 2), total=True))


def _above(path: str) -> list[str]:
    """The modules that a module lies in.

    >>> _above("layer1.0.conv1")
    ['', 'layer1', 'layer1.0']
    """
    parts = path.split(".") if path else []
    return [".".join(parts[:depth]) for depth in range(len(parts))]


def _drawing(subject: Subject) -> Figure:
    """The graph by module, opened as far as the page has room for."""
    deepest = 4
    drawn = subject.graph.draw(depth=deepest).svg
    while _height(drawn) > TALLEST and deepest > 2:
        deepest -= 1
        drawn = subject.graph.draw(depth=deepest).svg
    drawn = drawn.replace(' xmlns="http://www.w3.org/2000/svg"', "")  # within HTML it is understood
    caption = (
        "Look how the shapes change from input (top) to output: "
        "how many channels there are, and how many places each has left."
    )
    if not subject.images:
        caption = "Look how the shapes change from input (top) to output: each box says what one example becomes."
    return Figure("Computation graph", caption, tag("div", Markup(drawn), class_="drawing"), tall=True)


def _height(drawn: str) -> float:
    found = re.search(r'viewBox="0 0 \S+ ([\d.]+)"', drawn)
    return float(found.group(1)) if found else 0.0


def _shape(row: CostRow) -> str:
    """The output's shape for one example."""
    return "×".join(map(str, (row.shape or ())[1:]))


def _amount(number: int, whole: int) -> Markup:
    if not number:
        return tag("span", "–")
    return tag("span", short(number)) + tag("i", class_="bar", style=f"width:{100 * number / whole:.1f}%")


def first_layer(graph: G.Graph) -> tuple[str, Float[Tensor, "k ..."]] | None:
    """The name and weight of the first convolution or linear layer."""
    for node in graph.nodes:
        if node.op is None or node.op_name not in ("conv1d", "conv2d", "conv3d", "linear", "addmm"):
            continue
        weights = [one for one in node.inputs if one.kind == "parameter" and len(one.shape or ()) > 1]
        if weights:
            return node.name, graph.module.get_parameter(weights[0].name).detach()
    return None


def _filters(subject: Subject, name: str, weight: Tensor) -> Figure | None:
    example = tuple(subject.test_x.shape[1:])
    if weight.dim() == 2 and subject.images and weight[0].numel() == subject.test_x[0].numel():
        weight = weight.reshape(-1, *example)  # a linear layer on the flattened image: one picture a unit
    if weight.dim() != 4 or weight.shape[2] < 2:
        return None
    shown, largest = weight[:MOST_FILTERS].cpu(), float(weight.abs().max()) or 1.0
    entries = []
    for k, one in enumerate(shown):
        alt = f"weights of unit {k}"
        image = picture(0.5 + one / (2 * largest), alt) if len(one) == 3 else signed(one.mean(0), alt, largest)
        entries.append(Tile(image, note=str(k)))
    more = f", the first {MOST_FILTERS} of {len(weight)}" if len(weight) > MOST_FILTERS else ""
    colors = "" if weight.shape[1] == 3 else " (orange is positive, blue negative)"
    caption = f"Look for edges, strokes and spots{colors}; a filter that still looks like noise has learned little."
    body = tiles(entries, "large" if len(shown) <= 32 else "")
    return Figure(f"What {subject.plain(name)} looks for{more}", caption, body)
