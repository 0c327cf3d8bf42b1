"""What the verbs share: the application, its options, its tables and its last lines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from typer.core import TyperGroup

from cutaway import report as reporting
from cutaway.errors import CutawayError

FIRST = ("train", "report", "graph", "explain", "visualize", "dream", "style", "attack", "diagnose", "experiment")
out, err = Console(), Console(stderr=True)


class Guarded(TyperGroup):
    """Turns errors raised on purpose into one red paragraph and exit code 2, Ctrl-C into 130."""

    def list_commands(self, ctx: typer.Context) -> list[str]:
        """The verbs in the order one meets them."""
        return sorted(super().list_commands(ctx), key=lambda verb: FIRST.index(verb) if verb in FIRST else len(FIRST))

    def invoke(self, ctx: typer.Context) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except CutawayError as error:
            err.print(Text(f"Error: {error}", style="red"), soft_wrap=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            err.print(Text("stopped by Ctrl-C", style="red"))
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=Guarded,
    help="Train neural networks, open them up, and break them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="A network's name, a run folder, a weights file, or module.py:function.")
]
DataOption = Annotated[
    str | None, typer.Option("--data", "-d", help="A data set; by default the run folder's own, or digits.")
]


def open_subject(model: str, data: str | None) -> reporting.Opened:
    """Open a network, and say on stderr what to beware of."""
    opened = reporting.open_model(model, data)
    if opened.caution:
        err.print(opened.caution, style="yellow", highlight=False, soft_wrap=True)
    return opened


def table(*left: str, right: Sequence[str] = (), then: Sequence[str] = ()) -> Table:
    """A table without lines: text columns, numeric ones, and what follows them."""
    words = (Column(name, overflow="fold") for name in left)
    numeric = (Column(name, justify="right") for name in right)
    return Table(*words, *numeric, *then, box=None)


def by(shape: tuple | None) -> str:
    """A shape as 3×32×32."""
    return "×".join(map(str, shape or ()))


def wrote(path: Path) -> None:
    """Say where a file went."""
    out.print(f"wrote   {path}", highlight=False, soft_wrap=True)
