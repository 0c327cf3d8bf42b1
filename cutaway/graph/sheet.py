"""Everything a picture shows, box by box: texts, numbers, marks; the drawing only places it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import torch

from cutaway.errors import ArgumentError, nearest
from cutaway.graph.cost import NUMBERS, Cost
from cutaway.graph.labels import kind_of, number, short, size, value_lines, variables
from cutaway.graph.layout import Grid, Net, arrange
from cutaway.graph.marks import box_marks, kept_values
from cutaway.graph.nodes import Node
from cutaway.graph.outline import Box, outline
from cutaway.graph.walks import local_jacobian, sources_of

if TYPE_CHECKING:
    from cutaway.graph.graph import Graph
    from cutaway.graph.measure import Timing
    from cutaway.graph.program import Program
    from cutaway.graph.trace import Trace

SUMMED = {
    *NUMBERS,
    "forward time",
    "backward time",
    "kept bytes",
}  # add up over a module; of others it shows the largest
UNITS = {"activation_bytes": "B", "kept bytes": "B", "forward time": "ms", "backward time": "ms"}
TINY = 40  # up to so many nodes, parameters are boxes of their own when values are shown
LONGEST_SLOPE = 10  # letters of a derivative that is written beside an arrow
MARGIN = 9  # pixels between a box's edge and its text
WIDTHS = {"name": 7.9, "label": 6.7, "facts": 6.1, "badge": 6.6, "value": 6.1}  # pixels of a letter in wide fonts
LINE = 14  # pixels of a line


@dataclass(frozen=True)
class Card:
    """What one box says.

    Attributes:
        lines: (style, text); styles are "name", "label", "facts", "value", "adjoint".
        kind: decides the colour.
        mark: what a backward program does with it: "rule", "replaced", "fallback", "forward only", "pruned" or "".
        title: all about it, for a pointer that rests on it.
        width, height: pixels of the closed box.
    """

    lines: tuple[tuple[str, str], ...]
    kind: str
    mark: str
    title: str
    width: float
    height: float


@dataclass(frozen=True)
class Plan:
    """How the inside of a container is arranged: entering signals, then children, then leaving signals, in a table."""

    entering: tuple[Box, ...]
    leaving: tuple[Box, ...]
    signals: tuple[Box, ...]
    nets: tuple[Net, ...]
    grid: Grid


@dataclass(frozen=True)
class Sheet:
    """The tree of boxes with everything that is said about them.

    Attributes:
        title, subtitle: over the picture.
        root: the tree.
        cards: by box.
        plans: by container.
        numbers: for each statistic the value of every box that has one.
        marks: what a backward program does with each box; empty without one.
        slopes: the local derivative along the connection from one leaf to another, written in numbers.
    """

    title: str
    subtitle: str
    root: Box
    cards: Mapping[Box, Card]
    plans: Mapping[Box, Plan]
    numbers: Mapping[str, Mapping[Box, float]]
    marks: Mapping[Box, str] = field(default_factory=dict)
    slopes: Mapping[tuple[Box, Box], str] = field(default_factory=dict)


def sheet(
    graph: "Graph",
    trace: "Trace | None" = None,
    adjoints: bool = True,
    program: "Program | None" = None,
    timing: "Timing | None" = None,
    numbers: Mapping[str, Mapping[Any, float]] | None = None,
    fold: bool = True,
) -> Sheet:
    """Collect what a picture of a graph shows; the arguments are those of `draw`."""
    if trace is not None and trace.graph.nodes is not graph.nodes:
        raise ArgumentError("the trace belongs to another graph; run this one: graph.draw(values=graph.run(x))")
    root = outline(graph, leaves_too=trace is not None and len(graph.nodes) <= TINY, fold=fold)
    cost = graph.cost() if program is None else graph.cost(program.value_keys[0], program.wrt_keys)
    by_node = _numbers(graph, cost, trace, timing, numbers)
    if program is not None:
        kept = kept_values(program)
        by_node["kept bytes"] = {node: float(sum(size or 0 for _, size in read)) for node, read in kept.items()}
    found = {name: _sum_up(root, values, name) for name, values in by_node.items()}
    marks = {} if program is None else box_marks(root, program)
    names = variables(graph.nodes) if trace is not None else {}
    writer = _Writer(graph, found, trace, adjoints, names, marks)
    cards = {box: writer.card(box) for box in root.walk()}
    plans = {box: plan(box) for box in root.walk() if box.children}
    total = cost.total
    tiny = trace is not None and adjoints and bool(trace.adjoints) and len(graph.nodes) <= TINY
    slopes = _slopes(root, trace) if trace is not None and tiny else {}
    work = f"{short(total.multiply_adds)} multiply-adds" + (" per example" if cost.batch == 1 else "")
    counts = [f"{short(total.parameters)} parameters"] * bool(total.parameters) + [work] * bool(total.multiply_adds)
    return Sheet(root.label, " · ".join(counts), root, cards, plans, found, marks, slopes)


def plan(box: Box) -> Plan:
    """Arrange the inside of a container."""
    entering, leaving = tuple(box.entering), tuple(box.leaving)
    first, last = len(entering), len(entering) + len(box.children)
    place: dict[Box, int] = {}
    for position, child in enumerate(box.children):
        place[child] = first + position
        for leaf in child.leaves():
            place[leaf] = first + position
    nets = []
    for signal, targets in box.nets.items():
        source = place[signal] if signal in place else entering.index(signal)
        ends = [last + leaving.index(signal) if target is None else place[target] for target in targets]
        nets.append(Net(source, tuple(sorted(ends))))
    anchors = [place[child] for child in box.children if child.kind == "input"][:1]
    grid = arrange(last + len(leaving), nets, range(first), range(last, last + len(leaving)), anchors)
    return Plan(entering, leaving, tuple(box.nets), tuple(nets), grid)


def _numbers(
    graph: "Graph", cost: Cost, trace: "Trace | None", timing: "Timing | None", more: Mapping | None
) -> dict[str, dict[Node, float]]:
    """Every statistic by node."""
    nodes = graph.by_name
    found: dict[str, dict[Node, float]] = {
        name: {nodes[row.name]: float(getattr(row, name)) for row in cost.rows if row.name in nodes} for name in NUMBERS
    }
    if timing is not None:
        for name, way in (("forward time", "forward"), ("backward time", "backward")):
            found[name] = {nodes[row.name]: 1e3 * getattr(row, way) for row in timing.rows}
    if trace is not None:
        real = [node for node in graph.nodes if node.differentiable and node.shape is not None]
        found["value size"] = {node: _rms(trace[node].value) for node in real}
        if trace.adjoints:
            found["adjoint size"] = {node: _rms(trace[node].adjoint) for node in real}
    for name, values in (more or {}).items():
        found[name] = {}
        for key, value in values.items():
            node = graph[key]
            found[name][node] = max(float(value), found[name].get(node, -math.inf))
    return {name: values for name, values in found.items() if any(values.values()) or name in (more or {})}


def _rms(value: torch.Tensor | None) -> float:
    """The root of the mean square, a size that does not grow with the number of entries."""
    return float(value.detach().double().square().mean().sqrt()) if value is not None and value.numel() else 0.0


def _sum_up(root: Box, values: Mapping[Node, float], name: str) -> dict[Box, float]:
    """From nodes to boxes: sums of what adds up, the largest of anything else; a fold shows its largest copy."""
    found: dict[Box, float] = {}

    def visit(box: Box) -> float | None:
        inner = [visit(child) for child in box.children]
        known = [value for value in inner if value is not None]
        if not box.children and box.node is not None and box.kind != "output":
            parts = [box.node, *(user for user in box.node.users if user.op_name == "getitem")]
            if name not in NUMBERS:
                parts += [
                    source for source in box.node.inputs if source.kind == "parameter" and box.kind != "parameter"
                ]
            known = [values[node] for node in parts if node in values]
        if not known:
            return None
        adds = name in SUMMED and box.kind != "fold"
        found[box] = sum(known) if adds else max(known, key=lambda value: value if value == value else math.inf)
        return sum(known) if name in SUMMED else found[box]

    visit(root)
    return found


def _slopes(root: Box, trace: "Trace") -> dict[tuple[Box, Box], str]:
    """The local derivatives of numbers and short vectors by what they are computed from."""
    boxes = {box.node: box for box in root.leaves() if box.node is not None and box.kind != "output"}
    found = {}
    for node, box in boxes.items():
        for source in sources_of(node) if node.op is not None and node.shape is not None else ():
            ends = [trace.values[each.identifier] for each in (node, source)]
            if source in boxes and source.differentiable and node.differentiable and prod(e.numel() for e in ends) <= 3:
                entries = [number(entry) for entry in local_jacobian(trace, node, source).flatten().tolist()]
                text = entries[0] if len(entries) == 1 else f"[{', '.join(entries)}]"
                if len(text) <= LONGEST_SLOPE:
                    found[box, boxes[source]] = text
    return found


class _Writer:
    """Writes the cards."""

    def __init__(
        self,
        graph: "Graph",
        numbers: Mapping[str, Mapping[Box, float]],
        trace: "Trace | None",
        adjoints: bool,
        names: Mapping[Node, tuple[str, str]],
        marks: Mapping[Box, str],
    ) -> None:
        self.graph, self.numbers, self.trace, self.marks = graph, numbers, trace, marks
        self.adjoints = adjoints and trace is not None and bool(trace.adjoints)
        self.names = names
        self.of = self._differentiated() if self.adjoints else ""

    def card(self, box: Box) -> Card:
        """Write one card."""
        lines = [("name", self.name(box)), *self.about(box)]
        if self.trace is not None and not box.children and box.kind != "output":
            lines += self.values(box)
        lines = [(style, _clip(text, 60 if style in ("value", "adjoint") else 30)) for style, text in lines if text]
        wide = max(len(text) * WIDTHS.get(style, 6.1) for style, text in lines)
        badge = WIDTHS["badge"] * len(box.badge) + 8 if box.badge else 0
        width = max(wide, len(lines[0][1]) * WIDTHS["name"] + badge) + 2 * MARGIN
        height = LINE * len(lines) + 10
        least = 44 if box.kind in ("input", "output", "parameter", "constant") else 64
        return Card(tuple(lines), kind_of(box), self.marks.get(box, ""), self.title(box), max(width, least), height)

    def name(self, box: Box) -> str:
        """What the box is called: a variable of the user's source where one is known."""
        known = self.names.get(box.node) if box.node is not None and box.kind == "operation" else None
        return known[0] if known and known[0] else box.name

    def about(self, box: Box) -> list[tuple[str, str]]:
        """Class or operation with the shape; parameters and multiply-adds."""
        if box.kind in ("output", "parameter", "constant") or (box.kind == "input" and self.trace is not None):
            return []
        known = self.names.get(box.node) if box.node is not None and box.kind == "operation" else None
        word = known[1] if known and known[1] else box.label
        word = "" if word == self.name(box) or box.kind == "input" else word
        lines = [("label", "  ".join(part for part in (word, size(box)) if part))]
        if self.trace is not None and not box.children and size(box) in ("", "N"):
            lines = [("label", word)]
        parameters, work = self.number("parameters", box), self.number("multiply_adds", box)
        facts = [f"{short(parameters)} param." if parameters else "", f"{short(work)} mult-adds" if work else ""]
        if self.trace is None or box.children:
            lines.append(("facts", " · ".join(fact for fact in facts if fact)))
        return lines

    def values(self, box: Box) -> list[tuple[str, str]]:
        """The value and the adjoint of a leaf in numbers."""
        node = box.node
        if node is None or self.trace is None or node.shape is None:
            return []
        reading = self.trace[node]
        first, *rest = value_lines(reading.value)
        lines = [("value", f"= {first}"), *(("value", f"  {text}") for text in rest)]
        if self.adjoints and reading.adjoint is not None:
            name = self.name(box)
            if name == node.name and node in self.graph.outputs:
                name = "output"
            first, *rest = value_lines(reading.adjoint)
            label = f"∂{self.of}/∂{name} ="
            written = [f"{label} {first}"] if not rest else [label, *(f"  {text}" for text in (first, *rest))]
            lines += [("adjoint", text) for text in written]
        return lines

    def number(self, name: str, box: Box) -> float:
        """A statistic of a box; of a fold that of its first copy."""
        shown = box.children[0] if box.kind == "fold" else box
        return self.numbers.get(name, {}).get(shown, 0.0)

    def title(self, box: Box) -> str:
        """Everything about a box, line by line."""
        rows = [f"{box.path or box.label} {box.badge}".strip(), f"{box.label} {size(box)}".strip()]
        for name in ("parameters", "multiply_adds"):
            if value := self.number(name, box):
                rows.append(f"{int(value):,} {name.replace('_', '-')}")
        if box.node is not None and box.node.source:
            rows.append(box.node.source)
        if mark := self.marks.get(box, ""):
            rows.append(f"backward: {mark}")
        return "\n".join(rows)

    def _differentiated(self) -> str:
        """What the trace's adjoints are derivatives of: the last node that has one which is not zero."""
        adjoints = self.trace.adjoints if self.trace is not None else {}
        of = next((node for node in reversed(self.graph.nodes) if node in adjoints and adjoints[node].any()), None)
        if of is None:
            return "·"
        return (self.names.get(of) or ("", ""))[0] or ("output" if of in self.graph.outputs else of.name)


def _clip(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def check_number(name: str, known: Sequence[str]) -> str:
    """Return a statistic's name if it is one."""
    if name not in known:
        raise nearest(name, known, "number to colour by")
    return name
