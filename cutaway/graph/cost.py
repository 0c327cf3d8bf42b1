"""What a computation costs: parameters, multiply-adds forward and backward, and memory, by node and by module."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cutaway.errors import ArgumentError
from cutaway.graph.backward import Choice, choose
from cutaway.graph.formulas import FORMULAS, MOVES
from cutaway.graph.nodes import Node, Size, bound_arguments, map_nodes, nodes_in, operation_name
from cutaway.graph.sizes import number_bytes, number_shape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cutaway.graph.graph import Graph


@dataclass(frozen=True)
class CostRow:
    """What one node or module costs, for one example where the batch size is free.

    Attributes:
        name: the node's name, or the module's path.
        module: the path of the module it is in.
        op: the operation's name, or the module's class.
        shape: of the output, a free batch size as "N"; None if it is no tensor.
        parameters: numbers in the parameters that are first used here; shared ones count once.
        multiply_adds: of matrix products and convolutions; one multiplication and one addition together are one.
        elementwise: values that other arithmetic (activations, normalisation, pooling, sums) computes or reads.
        backward: multiply-adds of the adjoints.
        activation_bytes: memory of the output; 0 for views, which have none of their own.
    """

    name: str
    module: str
    op: str
    shape: tuple[Size, ...] | None = None
    parameters: int = 0
    multiply_adds: int = 0
    elementwise: int = 0
    backward: int = 0
    activation_bytes: int = 0


NUMBERS = ("parameters", "multiply_adds", "elementwise", "backward", "activation_bytes")


@dataclass(frozen=True)
class Cost:
    """The costs of a graph, a row for each operation in order (and for each parameter that no operation uses).

    Attributes:
        rows: by node.
        batch: the number of examples counted; None where the graph was captured for a fixed batch.
        of, wrt: what the backward pass differentiates, and with respect to what.
        classes, shapes: class and output shape by module path.
    """

    rows: tuple[CostRow, ...]
    batch: int | None
    of: str
    wrt: tuple[str, ...]
    classes: Mapping[str, str]
    shapes: Mapping[str, tuple[Size, ...] | None]

    @property
    def total(self) -> CostRow:
        """The sum of all rows."""
        return self._sum("", self.rows, shape=self.shapes.get(""))

    @property
    def ratio(self) -> float:
        """Multiply-adds of the backward pass over those of the forward pass (nan if there are none)."""
        total = self.total
        return total.backward / total.multiply_adds if total.multiply_adds else float("nan")

    def __getitem__(self, name: str) -> CostRow:
        """The row of a node, or the sum over a module."""
        for row in self.rows:
            if row.name == name:
                return row
        inside = [row for row in self.rows if row.module == name or row.module.startswith(f"{name}.")]
        if inside:
            return self._sum(name, inside, self.shapes.get(name))
        raise ArgumentError(f"no cost of {name!r}: it is neither an operation nor a module of this graph")

    def by_module(self, depth: int | None = None) -> tuple[CostRow, ...]:
        """Add up the rows by module.

        Args:
            depth: how many parts of a path to keep (1: "layer1"; 2: "layer1.0"); None for the innermost modules. What a
                module does itself, outside of the modules shown, stands under its own name ("" for the root).

        >>> import torch, cutaway as ct
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(72, 10))
        >>> for row in ct.capture(net, torch.zeros(2, 1, 8, 8)).cost().by_module(1):
        ...     print(row.name, row.op, row.parameters, row.multiply_adds)
        0 Conv2d 20 648
        1 Flatten 0 0
        2 Linear 730 720
        """
        groups: dict[str, list[CostRow]] = {}
        for row in self.rows:
            parts = row.module.split(".") if row.module else []
            groups.setdefault(".".join(parts[:depth]), []).append(row)
        return tuple(self._sum(path, rows, self.shapes.get(path)) for path, rows in groups.items())

    def _sum(self, path: str, rows: Iterable[CostRow], shape: tuple[Size, ...] | None = None) -> CostRow:
        rows = list(rows)
        sums = {number: sum(getattr(row, number) for row in rows) for number in NUMBERS}
        return CostRow(path, path, self.classes.get(path, ""), shape, **sums)

    def save(self, path: str | Path) -> Path:
        """Write the rows by node as `.csv`, or everything as `.json`; returns the path."""
        path = Path(path)
        if path.suffix == ".json":
            total = {"total": asdict(self.total), "ratio": self.ratio}
            path.write_text(json.dumps({**total, **asdict(self)}, indent=1, default=dict))
        elif path.suffix == ".csv":
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, [field.name for field in fields(CostRow)])
                writer.writeheader()
                writer.writerows(asdict(row) for row in self.rows)
        else:
            raise ArgumentError(f"cannot save a cost as {path.name!r}: expected a name that ends in .csv or .json")
        return path

    def plot(self, number: str = "multiply_adds", depth: int | None = 1) -> "Figure":
        """Draw one of the numbers by module as bars.

        Args:
            number: "parameters", "multiply_adds", "elementwise", "backward" or "activation_bytes".
            depth: see `by_module`.
        """
        if number not in NUMBERS:
            raise ArgumentError(f"number={number!r}: expected one of {', '.join(map(repr, NUMBERS))}")
        from matplotlib.figure import Figure

        rows = [row for row in self.by_module(depth) if getattr(row, number)]
        figure = Figure(figsize=(6, 0.6 + 0.28 * max(len(rows), 1)), layout="constrained")
        axes = figure.add_subplot()
        axes.barh([row.name or "(own)" for row in rows], [getattr(row, number) for row in rows])
        axes.invert_yaxis()
        axes.set_xlabel(number.replace("_", " "))
        return figure


def cost(
    graph: "Graph",
    of: str | Node = "output",
    wrt: str | Node | Sequence[str | Node] | None = None,
    batch: int = 1,
) -> Cost:
    """Count what a graph costs.

    Args:
        graph: a captured graph.
        of: what the backward pass differentiates.
        wrt: with respect to what; None for all parameters, as in training (the inputs where there are none).
        batch: the number of examples where the batch size is free, at least 1; other free sizes count as 1.

    Multiply-adds are those of `FORMULAS`; an operation that is not in it has none. What a backward pass computes
    again to save memory is not counted.

    >>> import torch, cutaway as ct
    >>> total = ct.capture(torch.nn.Linear(4, 3), torch.zeros(2, 4)).cost().total
    >>> total.parameters, total.multiply_adds
    (15, 12)
    """
    if batch < 1:
        raise ArgumentError(f"batch={batch!r}: expected at least 1 example")
    output = graph[of]
    wanted = differentiated(graph, wrt)
    choice = choose(graph.nodes, [output], wanted, None)
    reached = flowing(graph.nodes, output, choice)
    owners = _owners(graph)
    needed = {*wanted, *reached}
    rows = [
        _row(node, batch, owners.get(node, 0), choice.live[node] if node in reached else (), needed)
        for node in graph.nodes
        if node.op is not None and (node.shape is not None or node.parts is not None)
    ]
    rows += [
        CostRow(node.name, node.target.rpartition(".")[0], node.kind, node.shape, owners[node])
        for node in graph.parameters
        if node in owners
    ]
    classes = {path: kind for node in graph.nodes for path, _, kind in node.call}
    shapes = {path: node.shape for path, node in graph.by_module.items()}
    shapes[""] = output.shape
    names = tuple(node.name for node in wanted)
    return Cost(tuple(rows), batch if graph.dynamic else None, output.name, names, classes, shapes)


def differentiated(graph: "Graph", wrt: str | Node | Sequence[str | Node] | None) -> list[Node]:
    """The nodes a request names; None names all parameters, or all real inputs where there are none."""
    if wrt is None:
        leaves = graph.parameters or graph.inputs
        return [leaf for leaf in leaves if leaf.differentiable]
    return [graph[name] for name in ([wrt] if isinstance(wrt, str | Node) else wrt)]


def flowing(nodes: Sequence[Node], output: Node, choice: Choice) -> set[Node]:
    """The operations an adjoint of the output reaches."""
    reached = {output}
    for node in reversed(nodes):
        if node in reached:
            arguments = bound_arguments(node) if node.op is not None else {}
            reached.update(each for name in choice.live.get(node, ()) for each in nodes_in(arguments[name]))
    return {node for node in reached if node in choice.live}


def _owners(graph: "Graph") -> dict[Node, int]:
    """The number of parameters to each node that uses them first; those without use to themselves."""
    counts: dict[Node, int] = {}
    seen: set[int] = set()
    first: dict[Node, Node] = {}
    for node in graph.nodes:
        for leaf in node.inputs:
            if leaf.kind == "parameter":
                first.setdefault(leaf, node)
    ordered = sorted(graph.parameters, key=lambda leaf: first.get(leaf, leaf).index + (leaf not in first) * 10**9)
    for leaf in ordered:
        tensor = graph.module.get_parameter(leaf.target)
        if id(tensor) not in seen:
            seen.add(id(tensor))
            node = first.get(leaf, leaf)
            counts[node] = counts.get(node, 0) + tensor.numel()
    return counts


def _row(node: Node, batch: int, parameters: int, needs: tuple[str, ...], live: set[Node]) -> CostRow:
    sizes = _sizes(node, batch)
    sizes["live"] = [each in live for each in nodes_in(node.args)]
    formula = FORMULAS.get(operation_name(node.op).split(".")[1])
    if formula is not None and (node.op_name != "einsum" or "equation" in sizes):
        work, back, plain = formula.forward(sizes), formula.adjoints(sizes, needs) if needs else 0, 0
    else:
        work, back, plain = 0, 0, 0 if is_view(node) else _elementwise(node, sizes, batch)
    kept = 0 if is_view(node) else number_bytes(node, batch)
    return CostRow(node.name, node.module, node.op_name, node.shape, parameters, work, plain, back, kept)


def _sizes(node: Node, batch: int) -> dict[str, Any]:
    """The argument sizes a formula is handed."""
    arguments = map_nodes(lambda each: number_shape(each.shape, batch), bound_arguments(node))
    shapes = [node.shape] if node.parts is None else [shape for shape, _ in node.parts]
    return {**arguments, "result": number_shape(shapes[0], batch) or ()}


def is_view(node: Node) -> bool:
    """Whether the output only looks at memory of its arguments."""
    if not isinstance(node.op, torch._ops.OpOverload):
        return True  # one part of a tuple, or arithmetic on sizes
    returned = node.op._schema.returns
    return bool(returned) and all(each.alias_info is not None for each in returned)


def _elementwise(node: Node, sizes: Mapping[str, Any], batch: int) -> int:
    """Values computed, or read where that is more (reductions, pooling); 0 for what only moves or fills memory."""
    if operation_name(node.op).split(".")[1] in MOVES or (node.shape is None and node.parts is None):
        return 0
    result = prod(sizes["result"])
    if "kernel_size" in sizes:
        window = sizes["kernel_size"]
        return result * (prod(window) if len(window) > 1 else window[0] ** max(len(sizes["result"]) - 2, 1))
    return max([result, *(prod(number_shape(each.shape, batch) or ()) for each in node.inputs[:1])])
