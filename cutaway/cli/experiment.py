"""`cutaway experiment`: the sources' experiments, with what was published beside what is measured."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from cutaway import experiments
from cutaway.cli.common import app, out, table, wrote
from cutaway.cli.train import pairs
from cutaway.errors import ArgumentError, nearest


@app.command()
def experiment(
    name: Annotated[str, typer.Argument(help="The experiment's name; list shows them all.")] = "list",
    to: Annotated[
        Path | None, typer.Option("--out", "-o", help="The folder to write; runs/experiments/NAME by default.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Replicates of each row.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting of the experiment, as name=value; may be repeated.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="At the published size, where that takes hours.")] = False,
) -> None:
    """Run one of the sources' experiments: a table, a figure and a paragraph that reads them.

    Example: [bold]cutaway experiment imagenet_architectures[/bold]
    """
    if name == "list":
        rows = table("experiment", then=("what it shows",))
        for known, function in experiments.EXPERIMENTS.items():
            rows.add_row(known, (inspect.getdoc(function) or "").splitlines()[0])
        out.print(rows)
        return
    if name not in experiments.EXPERIMENTS:
        raise nearest(name, experiments.EXPERIMENTS, "experiment")
    function: Callable[..., experiments.Result] = experiments.EXPERIMENTS[name]
    asked = pairs(settings) | ({} if seeds is None else {"seeds": seeds}) | ({"full": True} if full else {})
    known = inspect.signature(function).parameters
    for given in asked:
        if given not in known:
            raise ArgumentError(f"{name} has no setting {given!r}; it has {', '.join(known)}")
    folder = Path("runs") / "experiments" / name if to is None else to
    if "out" in known:
        asked["out"] = folder
    if "workers" in known:
        asked.setdefault("workers", None)
    result = function(**asked)
    _tell(result)
    wrote(result.save(folder))


def _tell(result: experiments.Result) -> None:
    """Print the table and the paragraph under it."""
    columns = list(dict.fromkeys(column for row in result.rows for column in row))
    words = [column for column in columns if any(isinstance(row.get(column), str) for row in result.rows)]
    numbers = [column for column in columns if column not in words]
    rows = table(*words, right=numbers)
    for row in result.rows:
        rows.add_row(*(str(row.get(column, "")) for column in words), *(_short(row.get(column)) for column in numbers))
    out.print(rows)
    out.print(result.reading, highlight=False)


def _short(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
