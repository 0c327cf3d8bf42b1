"""How long a computation takes, forward and backward, by node and by module."""

import csv
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cutaway.errors import ArgumentError
from cutaway.graph.backward import Line, Reverse, choose, forward_lines, shape_line
from cutaway.graph.cost import differentiated
from cutaway.graph.emit import interpret
from cutaway.graph.nodes import Node

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cutaway.graph.graph import Graph


@dataclass(frozen=True)
class TimingRow:
    """Seconds spent at one node (or module): in its operation, and in the adjoints of its arguments."""

    name: str
    module: str
    op: str
    forward: float = 0.0
    backward: float = 0.0


@dataclass(frozen=True)
class Timing:
    """Measured times, a row for each operation in order; every number is the median over the repeats.

    Attributes:
        rows: by node, each line of the computation timed on its own.
        forward_program: seconds of the whole forward pass, run as one program.
        gradient_program: seconds of the program that runs forward and backward.
        repeats, threads, device: how it was measured.
    """

    rows: tuple[TimingRow, ...]
    forward_program: float
    gradient_program: float
    repeats: int
    threads: int
    device: str

    @property
    def total(self) -> TimingRow:
        """The sums over all rows."""
        return _sum("", "", self.rows)

    @property
    def ratio(self) -> float:
        """Time of the backward pass over that of the forward pass."""
        total = self.total
        return total.backward / total.forward if total.forward else float("nan")

    def by_module(self, depth: int | None = None) -> tuple[TimingRow, ...]:
        """Add up the rows by module; `depth` is how many parts of a path to keep, None for the innermost modules."""
        groups: dict[str, list[TimingRow]] = {}
        for row in self.rows:
            groups.setdefault(".".join(row.module.split(".")[:depth]), []).append(row)
        return tuple(_sum(path, "", rows) for path, rows in groups.items())

    def save(self, path: str | Path) -> Path:
        """Write the rows by node as `.csv`; returns the path."""
        path = Path(path)
        if path.suffix != ".csv":
            raise ArgumentError(f"cannot save times as {path.name!r}: expected a name that ends in .csv")
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(TimingRow)])
            writer.writeheader()
            writer.writerows(asdict(row) for row in self.rows)
        return path

    def plot(self, depth: int | None = 1) -> "Figure":
        """Draw the milliseconds of each module, forward and backward, as bars."""
        from matplotlib.figure import Figure

        rows = [row for row in self.by_module(depth) if row.forward + row.backward]
        names, forward = [row.name or "(own)" for row in rows], [1e3 * row.forward for row in rows]
        figure = Figure(figsize=(6, 0.8 + 0.28 * max(len(rows), 1)), layout="constrained")
        axes = figure.add_subplot()
        axes.barh(names, forward, label="forward")
        axes.barh(names, [1e3 * row.backward for row in rows], left=forward, label="backward")
        axes.invert_yaxis()
        axes.set_xlabel("ms")
        axes.legend(frameon=False)
        return figure


class _Owned(Reverse):
    """A reverse walk that remembers which node's rule made each line."""

    def __init__(self, *arguments: Any) -> None:
        self.owners: list[Node | None] = []
        super().__init__(*arguments)
        self.owners += [None] * len(self.lines)

    def pull(self, node: Node) -> None:
        """Apply the node's row and note its lines."""
        before = len(self.lines)
        super().pull(node)
        self.owners += [node] * (len(self.lines) - before)


def measure(
    graph: "Graph",
    inputs: Sequence[Any],
    of: str | Node = "output",
    wrt: str | Node | Sequence[str | Node] | None = None,
    repeats: int = 10,
) -> Timing:
    """Measure the time of every operation and of its adjoints.

    Args:
        graph: a captured graph.
        inputs: the model's inputs.
        of: what is differentiated, seeded with ones.
        wrt: with respect to what; None for all parameters, as in training (the inputs where there are none).
        repeats: how often everything is run, at least 1; one more run before that is not counted.

    >>> import torch, cutaway as ct
    >>> graph = ct.capture(torch.nn.Linear(4, 3), torch.zeros(2, 4))
    >>> graph.measure(torch.zeros(2, 4), repeats=3).total.forward > 0
    True
    """
    if repeats < 1:
        raise ArgumentError(f"repeats={repeats!r}: expected at least 1")
    output, wanted = graph[of], differentiated(graph, wrt)
    leaves = graph.leaf_values(tuple(inputs), {})
    tensor = next((value for value in leaves.values() if isinstance(value, torch.Tensor)), torch.empty(0))
    clock = _clock(tensor.device)
    forward, backward = _plan(graph, output, wanted)
    gradient = graph.gradient(output, wanted)
    spent: dict[tuple[Node, str], list[float]] = {}
    whole: dict[str, list[float]] = {"forward": [], "gradient": []}
    with torch.no_grad():
        for repeat in range(repeats + 1):
            seconds = _run(forward, backward, {**leaves, "seed_0": None}, clock)
            start = clock()
            graph(*inputs)
            middle = clock()
            gradient(*inputs)
            whole["forward"] += [middle - start] * (repeat > 0)
            whole["gradient"] += [clock() - middle] * (repeat > 0)
            for key, value in seconds.items() if repeat else ():
                spent.setdefault(key, []).append(value)
    median = {key: statistics.median(values) for key, values in spent.items()}
    rows = [
        TimingRow(node.name, node.module, node.op_name, seconds, median.get((node, "backward"), 0.0))
        for (node, way), seconds in median.items()
        if way == "forward" and (node.shape is not None or node.parts is not None)
    ]
    programs = (statistics.median(whole["forward"]), statistics.median(whole["gradient"]))
    return Timing(tuple(rows), *programs, repeats, torch.get_num_threads(), str(tensor.device))


def _plan(graph: "Graph", output: Node, wanted: list[Node]) -> tuple[list, list]:
    """The lines of both passes, each with the node it belongs to."""
    choice = choose(graph.nodes, [output], wanted, None)
    walk = _Owned(choice, [output], wanted)
    walk.walk(graph.nodes)
    nodes = [node for node in graph.needed([output]) if node.op is not None]
    forward: list[tuple[Node | None, Line]] = [*zip(nodes, forward_lines(nodes, choice), strict=True)]
    shapes = [(None, shape_line(node)) for node in walk.shapes]
    return [*forward, *shapes], [*zip(walk.owners, walk.lines, strict=True)]


def _run(forward: Iterable, backward: Iterable, values: dict[str, Any], clock: Callable[[], float]) -> dict:
    """Run line by line; the seconds by node and direction."""
    spent: dict[tuple[Node, str], float] = {}
    for way, lines in (("forward", forward), ("backward", backward)):
        for node, line in lines:
            start = clock()
            interpret([line], values)
            if node is not None:
                spent[node, way] = spent.get((node, way), 0.0) + clock() - start
    return spent


def _clock(device: torch.device) -> Callable[[], float]:
    """A clock that waits for the device: kernels are only started, not finished, when a call to a GPU returns."""
    if device.type != "cuda":
        return time.perf_counter

    def clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock


def _sum(name: str, op: str, rows: Iterable[TimingRow]) -> TimingRow:
    rows = list(rows)
    return TimingRow(name, name, op, sum(row.forward for row in rows), sum(row.backward for row in rows))
