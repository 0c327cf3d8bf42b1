"""`cutaway graph`: a network as a computation graph, with what flows through it and what that costs."""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table
from torch import Tensor

from cutaway import graph as graphs
from cutaway import report as reporting
from cutaway.cli.common import DataOption, app, by, out, table, wrote
from cutaway.errors import ArgumentError
from cutaway.graph import Graph, Node, Trace
from cutaway.rng import generator

FEW = 4  # entries up to which a value is printed whole
MOST = 20  # paths printed where there are many


@app.command()
def graph(
    model: Annotated[str, typer.Argument(help="A network's name, run folder, weights file, or file.py:function.")],
    data: DataOption = None,
    shape: Annotated[
        str | None,
        typer.Option("--input", help="The input's shape, such as 1,3,224,224, where no data are named: random pixels."),
    ] = None,
    depth: Annotated[int | None, typer.Option(help="Module levels to keep apart; by default all.")] = None,
    values: Annotated[bool, typer.Option("--values", help="The value of every node, at one example.")] = False,
    adjoints: Annotated[
        bool, typer.Option("--adjoints", help="Its adjoint too: the derivative of the likeliest class's score.")
    ] = False,
    paths: Annotated[
        tuple[str, str] | None, typer.Option(help="Two nodes: all paths between them, and what each contributes.")
    ] = None,
    orders: Annotated[
        bool, typer.Option("--orders", help="Costs of forward, reverse and the best elimination order.")
    ] = False,
    cost: Annotated[bool, typer.Option("--cost", help="Multiply-adds and time, forward and backward.")] = False,
    to: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write a drawing (.svg, .html) or the costs (.csv, .json).")
    ] = None,
) -> None:
    """Show a network's computation graph by module; on request what flows through it, and what that costs.

    Example: [bold]cutaway graph lenet5 --out lenet5.svg[/bold]
    """
    sizes = None if shape is None else _sizes(shape)
    opened = reporting.open_model(model, data, sizes and sizes[1:])
    batch = sizes[0] if sizes else 1
    captured = graphs.capture(opened.model, torch.zeros(max(batch, 2), *opened.shape))
    x = _example(opened, batch)
    ends = None if paths is None else (captured[paths[0]], captured[paths[1]])
    out.print(f"{opened.about}, input {by(('N', *opened.shape))}", highlight=False)
    trace = _trace(captured, x, adjoints) if values or adjoints else None
    if cost:
        _tell_costs(captured, x, depth)
    if trace is not None:
        _tell_trace(captured, trace, adjoints)
    if ends is not None:
        _tell_paths(captured, x, *ends)
    if orders:
        _tell_orders(captured.orders(batch=batch))
    if not (cost or values or adjoints or orders or ends):
        _tell_modules(captured, depth)
    if to is not None:
        if to.suffix in (".svg", ".html"):
            captured.draw(to, depth, values=trace, adjoints=adjoints)
        else:
            captured.cost().save(to)
        wrote(to)


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(size) for size in text.replace("x", ",").split(","))
    except ValueError:
        sizes = ()
    if len(sizes) < 2 or min(sizes) < 1:
        raise ArgumentError(f"--input {text}: expected the batch size and the sizes of one input, such as 1,3,224,224")
    return sizes


def _example(opened: reporting.Opened, batch: int) -> Tensor:
    """The first test examples, or random pixels where there are none."""
    if opened.test is not None:
        return opened.test.x[:batch]
    return torch.rand(batch, *opened.shape, generator=generator(0))


def _seed(value: Tensor) -> Tensor:
    """One at each example's largest score; ones where the output has one number for each example."""
    if value.dim() < 2 or value.shape[-1] == 1:
        return torch.ones_like(value)
    return torch.zeros_like(value).scatter(-1, value.argmax(-1, keepdim=True), 1.0)


def _trace(captured: Graph, x: Tensor, adjoints: bool) -> Trace:
    trace = captured.run(x)
    return trace.backward("output", _seed) if adjoints else trace


def _tell_modules(captured: Graph, depth: int | None) -> None:
    cost = captured.cost()
    rows = table("module", "kind", "output", right=("parameters", "multiply-adds", "activation bytes"))
    named = [(row.name or "(outside)", row) for row in cost.by_module(depth)]
    for name, row in [*named, ("total", cost.total)]:
        numbers = (row.parameters, row.multiply_adds, row.activation_bytes)
        rows.add_row(name, row.op, by(row.shape), *(f"{number:,}" for number in numbers))
    out.print(rows)


def _tell_costs(captured: Graph, x: Tensor, depth: int | None) -> None:
    """Multiply-adds of one example, and the time measured, forward and backward with respect to the parameters."""
    cost, timing = captured.cost(), captured.measure(x, repeats=5)
    times = {row.name: row for row in timing.by_module(depth)}
    heads = ("parameters", "multiply-adds", "backward", "activation bytes", "ms forward", "backward")
    rows = table("module", right=heads)
    named = [(row.name or "(outside)", row, times.get(row.name)) for row in cost.by_module(depth)]
    for name, row, time in [*named, ("total", cost.total, timing.total)]:
        counts = (row.parameters, row.multiply_adds, row.backward, row.activation_bytes)
        spent = ("", "") if time is None else (f"{1e3 * time.forward:.2f}", f"{1e3 * time.backward:.2f}")
        rows.add_row(name, *(f"{number:,}" for number in counts), *spent)
    out.print(rows)
    out.print(
        f"backward over forward: {cost.ratio:.2f} in multiply-adds, {timing.ratio:.2f} in time "
        f"(batch {len(x)}, median of {timing.repeats}, {timing.threads} threads)",
        highlight=False,
        soft_wrap=True,
    )


def _tell_trace(captured: Graph, trace: Trace, adjoints: bool) -> None:
    """Every node: the numbers themselves in a small graph, root mean square and range elsewhere."""
    tensors = [node for node in captured.nodes if isinstance(trace[node].value, Tensor)]
    small = all(trace[node].value.numel() <= FEW for node in tensors)
    kinds = ("value", "adjoint")[: 1 + adjoints]
    right = kinds if small else tuple(head for kind in kinds for head in (f"{kind} rms", "least", "largest"))
    rows = table("node", "operation" if small else "shape", right=right)
    for node in tensors:
        reading = trace[node]
        about = node.op_name if small else by(tuple(reading.value.shape))
        row = [node.name, about]
        for each in (reading.value, reading.adjoint)[: 1 + adjoints]:
            row += [_numbers(each)] if small else _range(each)
        rows.add_row(*row)
    out.print(rows)


def _numbers(value: Tensor | None) -> str:
    return "" if value is None else ", ".join(f"{number:.4g}" for number in value.flatten().tolist())


def _range(value: Tensor | None) -> list[str]:
    if value is None or not value.numel():
        return ["", "", ""]
    wide = value.detach().double()
    return [f"{float(number):.3g}" for number in (wide.pow(2).mean().sqrt(), wide.min(), wide.max())]


def _tell_paths(captured: Graph, x: Tensor, source: Node, target: Node) -> None:
    small = all(_entries(node, len(x)) <= FEW for node in captured.nodes if node.shape is not None)
    if small:
        found = captured.paths(source, target)(x)
        rows = table("path", "derivatives along its edges", "product")
        for path in found.paths:
            rows.add_row(str(path), "; ".join(map(_numbers, path.factors)), _numbers(path.product))
        rows.add_row("sum", "", _numbers(found.total))
    else:
        found = captured.paths(source, target)(x, seed=_seed)
        rows = table("path", right=("norm", "share of the sum"))
        whole = float(found.total.norm())
        ranked = sorted(found.paths, key=lambda path: -float(path.product.norm()))
        for path in ranked[:MOST]:
            share = float((path.product * found.total).sum()) / whole**2 if whole else 0.0
            rows.add_row(str(path), f"{float(path.product.norm()):.3g}", f"{100 * share:.1f} %")
        if len(ranked) > MOST:
            rows.add_row(f"and {len(ranked) - MOST} paths with smaller norms", "", "")
        rows.add_row("sum", f"{whole:.3g}", "")
    _say_paths(rows, len(found.paths), source, target, small)


def _say_paths(rows: Table, count: int, source: Node, target: Node, small: bool) -> None:
    what = f"{target.name} by {source.name}" if small else f"the largest entry of {target.name} by {source.name}"
    out.print(f"the derivative of {what} along {count} path{'s' * (count != 1)}:", highlight=False, soft_wrap=True)
    out.print(rows)


def _entries(node: Node, batch: int) -> int:
    return int(torch.Size(batch if isinstance(size, str) else size for size in node.shape or ()).numel())


def _tell_orders(found: Any) -> None:
    """What the elimination orders cost."""
    rows = table("order", right=("multiply-adds", "of reverse"))
    least = "best" if found.exact else "best found"
    for name, price in (("forward", found.forward), ("reverse", found.reverse), (least, found.best)):
        rows.add_row(name, f"{price:,}", f"{price / max(found.reverse, 1):.3g}")
    if not found.exact:
        rows.add_row("no order is below", f"{found.bound:,}", f"{found.bound / max(found.reverse, 1):.3g}")
    shape = "a chain" if found.chain else "no chain"
    out.print(f"{shape} from {found.source.name} to {found.target.name}; the full Jacobian costs:", highlight=False)
    out.print(rows)
    out.print(f"eliminate: {', '.join(found.order) or 'nothing'}", highlight=False, soft_wrap=True)
