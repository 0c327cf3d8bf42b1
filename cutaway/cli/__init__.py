"""The `cutaway` command: one verb per folder, the same words as in Python."""

from typing import Annotated

import typer

import cutaway
from cutaway.cli import (  # noqa: F401 - each registers its verb
    attack,
    diagnose,
    experiment,
    explain,
    graph,
    train,
    visualize,
)
from cutaway.cli.common import app, out

__all__ = ["app"]


@app.callback(invoke_without_command=True)
def _top(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        out.print(cutaway.__version__)
        raise typer.Exit
