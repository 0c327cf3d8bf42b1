"""From tables to coordinates: sizes of columns and rows follow from the boxes in them, positions by summing up.

The page's script does the same sums when a module is opened; both are held together by a test.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cutaway.graph.layout import Grid
from cutaway.graph.outline import Box
from cutaway.graph.sheet import LINE, WIDTHS, Plan, Sheet

LANE = 10.0  # pixels of a column that holds nothing but lanes
ACROSS, DOWN = 12.0, 20.0  # pixels between columns and between rows
PAD, HEAD = 8.0, LINE + 8.0  # pixels inside an open module, at the sides and bottom, and for its name
SPREAD = 12.0  # pixels between connections that end at the same box


@dataclass(frozen=True)
class Frame:
    """The inside of an open module: where its items' centres, rows and columns are, from its own top left corner."""

    centres: tuple[float, ...]
    tops: tuple[float, ...]
    bottoms: tuple[float, ...]
    columns: tuple[float, ...]  # centres of the columns
    width: float
    height: float


@dataclass(eq=False)
class Placed:
    """A box at its place; `inner` are the boxes in it if it is open."""

    box: Box
    width: float
    height: float
    frame: Frame | None = None
    inner: list["Placed"] = field(default_factory=list)
    badge: str = ""
    x: float = 0.0  # of the left edge, absolute
    y: float = 0.0  # of the top edge

    def move(self, x: float, y: float, plans: Mapping[Box, Plan]) -> None:
        """Put it, and all in it, at an absolute position."""
        self.x, self.y = x, y
        if self.frame is None:
            return
        plan = plans[self.box]
        for position, child in enumerate(self.inner, start=len(plan.entering)):
            row = plan.grid.cells[position][0]
            child.move(x + self.frame.centres[position] - child.width / 2, y + self.frame.tops[row], plans)


def frame(grid: Grid, sizes: Sequence[tuple[float, float]], root: bool, ports: tuple[bool, bool]) -> Frame:
    """Sum up a table.

    Args:
        grid: the table.
        sizes: (width, height) of every item.
        root: without edge and name.
        ports: whether the first and the last row hold entering and leaving signals, which need less room.
    """
    widths = [LANE] * grid.columns
    for (width, _), (_, first, last) in zip(sizes, grid.cells):
        if first == last:
            widths[first] = max(widths[first], width)
    for (width, _), (_, first, last) in zip(sizes, grid.cells):
        missing = width - sum(widths[first : last + 1]) - ACROSS * (last - first)
        if missing > 0:
            for column in range(first, last + 1):
                widths[column] += missing / (last - first + 1)
    pad, head = (0.0, 0.0) if root else (PAD, HEAD)
    lefts, x = [], pad
    for width in widths:
        lefts.append(x)
        x += width + ACROSS
    heights = [0.0] * grid.rows
    for (_, height), (row, _, _) in zip(sizes, grid.cells):
        heights[row] = max(heights[row], height)
    tops, y = [], (head - DOWN + 6 if ports[0] else head)
    for row, height in enumerate(heights):
        tops.append(y)
        y += height + (DOWN if row < grid.rows - 2 or not ports[1] else PAD)
    centres = [(lefts[first] + lefts[last] + widths[last]) / 2 for _, first, last in grid.cells]
    bottoms = [top + height for top, height in zip(tops, heights)]
    columns = [left + width / 2 for left, width in zip(lefts, widths)]
    end = (bottoms[-1] if bottoms else head) + (0.0 if ports[1] else pad)
    return Frame(tuple(centres), tuple(tops), tuple(bottoms), tuple(columns), x - ACROSS + pad, end)


def place(sheet: Sheet, opened: Callable[[Box], bool], unfolded: Callable[[Box], bool]) -> Placed:
    """Place everything.

    Args:
        sheet: what is drawn.
        opened: which containers show what is in them.
        unfolded: which folds show all their copies.
    """

    def visit(box: Box) -> Placed:
        card = sheet.cards[box]
        if box.kind == "fold" and not unfolded(box):
            shown = visit(box.children[0])
            return _badged(shown, box.badge, sheet)
        if not box.children or not (opened(box) or box.kind in ("fold", "group")):
            return Placed(box, card.width, card.height)
        inner = [visit(child) for child in box.children]
        plan = sheet.plans[box]
        before, after = ([(0.0, 0.0)] * len(signals) for signals in (plan.entering, plan.leaving))
        sizes = [*before, *((each.width, each.height) for each in inner), *after]
        made = frame(plan.grid, sizes, box.parent is None, (bool(before), bool(after)))
        if box.parent is not None:
            made = widened(made, WIDTHS["name"] * len(card.lines[0][1]) + WIDTHS["label"] * len(box.label) + 24)
        return Placed(box, made.width, made.height, made, inner)

    root = visit(sheet.root)
    root.move(0.0, 0.0, sheet.plans)
    return root


def widened(made: Frame, least: float) -> Frame:
    """The same inside in a module at least so wide."""
    extra = max(0.0, least - made.width)
    centres, columns = (tuple(x + extra / 2 for x in xs) for xs in (made.centres, made.columns))
    return Frame(centres, made.tops, made.bottoms, columns, made.width + extra, made.height)


def _badged(shown: Placed, badge: str, sheet: Sheet) -> Placed:
    """The first copy with its fold's badge, wide enough for both."""
    name = WIDTHS["name"] * len(sheet.cards[shown.box].lines[0][1])
    label = WIDTHS["label"] * len(shown.box.label) if shown.frame else 0.0
    least = name + label + WIDTHS["badge"] * len(badge) + 36
    shown.badge = badge
    if shown.frame is not None:
        shown.frame = widened(shown.frame, least)
    shown.width = max(shown.width, least)
    return shown


@dataclass(frozen=True)
class Wire:
    """A connection.

    Attributes:
        path: an SVG path.
        skip: whether it passes others by.
        tip: where its arrow points; None where it goes on inside a module or leaves one.
        slope: what is written at the arrow, on its left or on its right.
    """

    path: str
    skip: bool
    tip: tuple[float, float] | None
    slope: str = ""
    left: bool = False


def wires(placed: Placed, sheet: Sheet) -> list[Wire]:
    """All connections inside an open container, and inside the open containers in it."""
    if placed.frame is None:
        return []
    found = _Wiring(placed, placed.frame, sheet).wires()
    for child in placed.inner:
        found += wires(child, sheet)
    return found


class _Wiring:
    """Draws the connections of one container."""

    def __init__(self, placed: Placed, inside: Frame, sheet: Sheet) -> None:
        self.placed, self.sheet, self.frame = placed, sheet, inside
        self.plan = sheet.plans[placed.box]
        self.first = len(self.plan.entering)
        self.last = self.first + len(placed.inner)
        self.arrivals = self._arrivals()

    def wires(self) -> list[Wire]:
        """Each net: a trunk along its lane, and a branch to every target."""
        found = []
        for number, net in enumerate(self.plan.nets):
            lane = self.plan.grid.lanes[number]
            start = self.leave(net.source, self.plan.signals[number])
            row = self.plan.grid.cells[net.source][0]
            trunk = {row: start}
            path = ""
            for passed in sorted(lane):
                x = self.placed.x + self.frame.columns[lane[passed]]
                path += self.step(trunk[passed - 1], passed - 1, (x, self.top(passed)), not path)
                path += f"V{_n(self.bottom(passed))}"
                trunk[passed] = (x, self.bottom(passed))
            if path:
                found.append(Wire(path, True, None))
            for target in net.targets:
                end, tip = self.arrive(target, number)
                above = self.plan.grid.cells[target][0] - 1
                origin = trunk.get(above, start)
                branch = self.step(origin, above if above in trunk else row, end, True)
                slope, left = self.slope(target, number)
                found.append(Wire(branch, above != row, end if tip else None, slope, left))
        return found

    def slope(self, target: int, net: int) -> tuple[str, bool]:
        """The local derivative along a connection, and whether it is written on the left of the arrow."""
        if target >= self.last:
            return "", False
        order = self.arrivals[target]
        text = self.sheet.slopes.get((self.placed.inner[target - self.first].box, self.plan.signals[net]), "")
        outer = len(order) == 1 or net in (order[0], order[-1])
        return text if outer else "", len(order) > 1 and net == order[0]

    def step(self, start: tuple[float, float], row: int, end: tuple[float, float], begins: bool) -> str:
        """From one row into the next: straight down to the row's end, then a curve."""
        edge = max(self.bottom(row), start[1])
        path = f"M{_n(start[0])} {_n(start[1])}" if begins else ""
        if edge > start[1]:
            path += f"V{_n(edge)}"
        if abs(start[0] - end[0]) < 0.5:
            return f"{path}V{_n(end[1])}"
        middle = (edge + end[1]) / 2
        return f"{path}C{_n(start[0])} {_n(middle)} {_n(end[0])} {_n(middle)} {_n(end[0])} {_n(end[1])}"

    def top(self, row: int) -> float:
        return self.placed.y + self.frame.tops[row]

    def bottom(self, row: int) -> float:
        return self.placed.y + self.frame.bottoms[row]

    def leave(self, item: int, signal: Box) -> tuple[float, float]:
        """Where a signal starts: at the bottom of a box, or where it comes in."""
        if item < self.first:
            return self.placed.x + self.frame.centres[item], self.placed.y
        child = self.placed.inner[item - self.first]
        return outlet(child, signal, self.sheet), child.y + child.height

    def arrive(self, item: int, net: int) -> tuple[tuple[float, float], bool]:
        """Where a net ends, and whether with an arrow (not where it goes on inside or leaves)."""
        if item >= self.last:
            return (self.placed.x + self.frame.centres[item], self.placed.y + self.placed.height), False
        child = self.placed.inner[item - self.first]
        if child.frame is not None:
            return (inlet(child, self.plan.signals[net], self.sheet), child.y), False
        order = self.arrivals[item]
        offset = (order.index(net) - (len(order) - 1) / 2) * min(SPREAD, 0.7 * child.width / len(order))
        return (child.x + child.width / 2 + offset, child.y), True

    def _arrivals(self) -> dict[int, list[int]]:
        """For each item the nets that end there, from left to right."""
        found: dict[int, list[tuple[float, int]]] = {}
        for number, net in enumerate(self.plan.nets):
            lane = self.plan.grid.lanes[number]
            for target in net.targets:
                above = self.plan.grid.cells[target][0] - 1
                x = self.frame.columns[lane[above]] if above in lane else self.frame.centres[net.source]
                found.setdefault(target, []).append((x, number))
        return {item: [number for _, number in sorted(order)] for item, order in found.items()}


def outlet(placed: Placed, signal: Box, sheet: Sheet) -> float:
    """The x at which a signal leaves a box: the middle, or its own port if the box is open."""
    box = placed.box
    if placed.frame is not None:
        if box.parent is not None and box.parent.kind == "fold" and signal not in box.leaving:
            signal = box.parent.twin(signal)
        plan = sheet.plans[box]
        if signal in plan.leaving:
            port = len(plan.entering) + len(placed.inner) + plan.leaving.index(signal)
            return placed.x + placed.frame.centres[port]
    return placed.x + placed.width / 2


def inlet(placed: Placed, signal: Box, sheet: Sheet) -> float:
    """The x at which a signal enters an open box."""
    plan = sheet.plans[placed.box]
    if placed.frame is not None and signal in plan.entering:
        return placed.x + placed.frame.centres[plan.entering.index(signal)]
    return placed.x + placed.width / 2


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
