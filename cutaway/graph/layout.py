"""A layered layout whose result is a table: every item has a row and a column, every long connection a lane of its own.

Opening a module in the page changes the sizes of boxes but not who is above or beside whom; so positions must follow
from the table and the sizes by a few sums, in the picture (here) and in the page's script alike. Ready-made layouts
give fixed coordinates for fixed sizes instead, and are a binary (graphviz), compiled (igraph, fast-sugiyama) or GPL
(grandalf). Ranks by longest path, order by barycentres, columns by aligned chains.
Source: Sugiyama, Tagawa, Toda, "Methods for visual understanding of hierarchical system structures", 1981; the
alignment follows Brandes, Köpf, "Fast and simple horizontal coordinate assignment", 2001.
"""

from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

SWEEPS = 8


@dataclass(frozen=True)
class Net:
    """One item's value and the items it goes to."""

    source: int
    targets: tuple[int, ...]


@dataclass(frozen=True)
class Grid:
    """The table.

    Attributes:
        cells: for each item (row, first column, last column); it is centred over its columns.
        lanes: for each net the column of its lane in each row it passes through.
        rows, columns: the size of the table.
    """

    cells: tuple[tuple[int, int, int], ...]
    lanes: tuple[dict[int, int], ...]
    rows: int
    columns: int


def arrange(
    count: int, nets: Sequence[Net], top: Iterable[int] = (), bottom: Iterable[int] = (), anchors: Iterable[int] = ()
) -> Grid:
    """Arrange items in rows and columns.

    Args:
        count: how many items there are, numbered in the order of computation.
        nets: who goes where.
        top, bottom: items that stand in a row of their own above and below all others.
        anchors: items that start at the top; what is not computed from them is placed just above its first use.

    >>> arrange(4, [Net(0, (1, 3)), Net(1, (2,)), Net(2, (3,))]).cells  # a chain with a shortcut
    ((0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0))
    """
    rank, floating = _ranks(count, nets, set(top), set(bottom), set(anchors))
    rows, edges = _layers(rank, nets, floating)
    _order(rows, edges)
    columns = _columns(rows, edges)
    cells = _spans(rows, columns, nets, rank, floating, _lengths(rows, _below(edges)))
    lanes: list[dict[int, int]] = [{} for _ in nets]
    for cell, column in columns.items():
        if isinstance(cell, tuple):
            net, row = cell
            lanes[net][row] = column
    width = 1 + max((last for _, _, last in cells), default=0)
    width = max([width, *(1 + column for column in columns.values())])
    return Grid(tuple(cells), tuple(lanes), len(rows), width)


Cell = int | tuple[int, int]  # an item, or (net, row) for a piece of a lane


def _ranks(
    count: int, nets: Sequence[Net], top: set[int], bottom: set[int], anchors: set[int]
) -> tuple[list[int], set[int]]:
    """The row of each item: one below the lowest of its sources, or (those in the set) just above its first use."""
    after: list[list[int]] = [[] for _ in range(count)]
    before: list[list[int]] = [[] for _ in range(count)]
    for net in nets:
        for target in net.targets:
            if net.source < target:  # what goes back up has no say
                after[net.source].append(target)
                before[target].append(net.source)
    rank = [0] * count
    anchored = [False] * count
    for item in range(count):
        inner = top and item not in top
        rank[item] = max((rank[source] + 1 for source in before[item]), default=1 if inner else 0)
        anchored[item] = item in anchors or item in top or any(anchored[source] for source in before[item])
    for item in reversed(range(count)):
        if any(anchored) and not anchored[item] and after[item]:
            rank[item] = max(rank[item], min(rank[target] for target in after[item]) - 1)
    last = max((rank[item] for item in range(count) if item not in bottom), default=0)
    for item in bottom:
        rank[item] = last + 1
    floating = {item for item in range(count) if not anchored[item]} if any(anchored) else set()
    return rank, floating


def _layers(
    rank: Sequence[int], nets: Sequence[Net], floating: set[int]
) -> tuple[list[list[Cell]], list[tuple[Cell, Cell]]]:
    """The cells of each row, pieces of lanes included, and the connections between neighbouring rows."""
    rows: list[list[Cell]] = [[] for _ in range(1 + max(rank, default=0))]
    for item in sorted(range(len(rank)), key=lambda item: item in floating):
        rows[rank[item]].append(item)
    edges: list[tuple[Cell, Cell]] = []
    for number, net in enumerate(nets):
        start = rank[net.source]
        end = max((rank[target] for target in net.targets), default=start)
        above: Cell = net.source
        for row in range(start + 1, end + 1):
            edges += [(above, target) for target in net.targets if rank[target] == row]
            if row < end:
                lane = (number, row)
                rows[row].append(lane)
                edges.append((above, lane))
                above = lane
    return rows, edges


def _order(rows: list[list[Cell]], edges: Sequence[tuple[Cell, Cell]]) -> None:
    """Order each row so that few connections cross: every cell near the mean position of its neighbours."""
    down = _below(edges)
    up = _below([(b, a) for a, b in edges])
    where = {cell: position for row in rows for position, cell in enumerate(row)}
    length = _lengths(rows, down)
    best, fewest = [list(row) for row in rows], _crossings(rows, down, where)
    for sweep in range(SWEEPS):
        neighbours = up if sweep % 2 == 0 else down
        for row in rows if sweep % 2 == 0 else reversed(rows):
            means = {
                cell: sum(where[other] for other in neighbours[cell]) / len(neighbours[cell])
                if neighbours.get(cell)
                else float(where[cell])
                for cell in row
            }
            longest = max(length[cell] for cell in row)
            keys = {cell: (means[cell], length[cell] < longest, isinstance(cell, tuple), where[cell]) for cell in row}
            row.sort(key=keys.__getitem__)  # where means are equal the longest branch goes left, lanes go right
            where.update((cell, position) for position, cell in enumerate(row))
        crossings = _crossings(rows, down, where)
        if crossings < fewest or sweep == 0:
            best, fewest = [list(row) for row in rows], crossings
    rows[:] = best


def _below(edges: Iterable[tuple[Cell, Cell]]) -> dict[Cell, list[Cell]]:
    """The cells that each cell is connected to in the next row."""
    found: dict[Cell, list[Cell]] = {}
    for a, b in edges:
        found.setdefault(a, []).append(b)
    return found


def _lengths(rows: Sequence[list[Cell]], down: dict[Cell, list[Cell]]) -> dict[Cell, int]:
    """How many rows each cell goes on from item to item, without a lane."""
    length: dict[Cell, int] = {}
    for row in reversed(rows):
        for cell in row:
            items = [length[other] for other in down.get(cell, ()) if not isinstance(other, tuple) and other in length]
            length[cell] = 0 if isinstance(cell, tuple) else 1 + max(items, default=0)
    return length


def _crossings(rows: Sequence[list[Cell]], down: dict[Cell, list[Cell]], where: dict[Cell, int]) -> int:
    total = 0
    for row in rows:
        ends: list[int] = []
        for cell in row:
            below = sorted(where[other] for other in down.get(cell, ()))
            total += sum(len(ends) - bisect_right(ends, end) for end in below)
            for end in below:
                insort(ends, end)
    return total


def _columns(rows: Sequence[list[Cell]], edges: Sequence[tuple[Cell, Cell]]) -> dict[Cell, int]:
    """A column for each cell: aligned cells share one, and each row keeps its order."""
    level = {cell: number for number, row in enumerate(rows) for cell in row}
    where = {cell: position for row in rows for position, cell in enumerate(row)}
    between: dict[int, list[tuple[Cell, Cell]]] = {}
    for a, b in edges:
        between.setdefault(level[a], []).append((a, b))
    outs = _below(edges)
    length = _lengths(rows, outs)
    block: dict[Cell, Cell] = {cell: cell for cell in level}  # the topmost cell of its aligned chain
    for number in range(len(rows) - 1):
        chosen: list[tuple[int, int]] = []
        for a, b in sorted(between.get(number, ()), key=lambda edge: _priority(*edge, length, where)):
            crosses = any((p - where[a]) * (q - where[b]) <= 0 for p, q in chosen)
            if not crosses:
                chosen.append((where[a], where[b]))
                block[b] = block[a]
    column: dict[Cell, int] = dict.fromkeys(block.values(), 0)
    changed = True
    while changed:
        changed = False
        for row in rows:
            for left, right in pairwise(row):
                if column[block[right]] <= column[block[left]]:
                    column[block[right]] = column[block[left]] + 1
                    changed = True
    return {cell: column[top] for cell, top in block.items()}


def _priority(a: Cell, b: Cell, length: dict[Cell, int], where: dict[Cell, int]) -> tuple:
    """Lanes are kept straight first, then connections of items; of several the one that goes on furthest."""
    lanes = isinstance(a, tuple) + isinstance(b, tuple)
    return ({2: 0, 0: 1, 1: 2}[lanes], -length[b], where[a], where[b])


def _spans(
    rows: Sequence[list[Cell]],
    columns: dict[Cell, int],
    nets: Sequence[Net],
    rank: Sequence[int],
    floating: set[int],
    length: dict[Cell, int],
) -> list[tuple[int, int, int]]:
    """Cells of the items; an item alone in its row is centred over the branches that fork or join there."""
    cells = [(row, columns[item], columns[item]) for item, row in enumerate(rank)]
    forks: dict[int, list[int]] = {}
    joins: dict[int, list[int]] = {}
    for number, net in enumerate(nets):
        for target in net.targets if net.source not in floating else ():
            above = rank[target] - 1
            if above == rank[net.source]:
                forks.setdefault(net.source, []).append(target)
            if columns.get((number, above), columns[net.source]) == columns[net.source]:  # straight down to the join
                joins.setdefault(target, []).append(net.source)
    run: list[int] = []
    for row in [*rows, []]:
        alone = row[0] if len(row) == 1 else None
        if isinstance(alone, int):
            run.append(alone)
            continue
        branches = [(item, found) for item in run for found in (forks.get(item, []), joins.get(item, []))]
        spans = [
            _branches(cells[item], [cells[other] for other in found], [length[other] for other in found])
            for item, found in branches
        ]
        first, last = max(spans, key=lambda span: span[1] - span[0], default=(0, 0))
        for item in run:
            if last > first:
                cells[item] = (cells[item][0], first, last)
        run = []
    return cells


def _branches(
    own: tuple[int, int, int], found: Sequence[tuple[int, int, int]], length: Sequence[int]
) -> tuple[int, int]:
    """The columns of the branches beside an item, if they are many or alike; else its own column."""
    rows = {row for row, _, _ in found}
    alike = len(rows) == 1 and (len(set(length)) == 1 or max(rows) < own[0])
    if len(found) < 2 or not (alike or len(found) > 2):
        return own[1], own[1]
    columns = [column for _, column, _ in found]
    return min(columns), max(columns)
