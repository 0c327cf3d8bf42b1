"""`cutaway explain`: why the network says what it says."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from cutaway import explain as explaining
from cutaway import report as reporting
from cutaway.cli.common import DataOption, ModelOption, app, open_subject, out, table, wrote
from cutaway.errors import ArgumentError, nearest


@app.command()
def explain(
    example: Annotated[str, typer.Argument(help="A picture's file, or the number of a test example.")],
    model: ModelOption,
    method: Annotated[str, typer.Option(help="A method's name, several with commas, or all.")] = "all",
    target: Annotated[
        str | None, typer.Option("--class", help="The class to explain; by default the predicted.")
    ] = None,
    data: DataOption = None,
    to: Annotated[Path, typer.Option("--out", "-o", help="The picture to write (.png, .svg, .pdf).")] = Path(
        "explain.png"
    ),
) -> None:
    """Show which parts of an input made the network say what it says, with a sanity score for each method.

    Example: [bold]cutaway explain 3 --model runs/demo[/bold]
    """
    reporting.picture_path(to)
    opened = open_subject(model, data)
    x, true = opened.example(example)
    chosen = list(explaining.METHODS) if method == "all" else method.split(",")
    for name in chosen:
        if name not in explaining.METHODS:
            raise nearest(name, explaining.METHODS, "explanation method")
    index = None if target is None else opened.class_index(target)
    _tell_classes(opened, x, true)
    maps, scores = {}, table("method", right=("sanity score",), then=("beware",))
    for name in chosen:
        try:
            maps[name] = found = explaining.METHODS[name](opened.model, x, index)
        except ArgumentError as reason:
            scores.add_row(name, "", str(reason))
            continue
        shown = "" if found.score is None else f"{found.score:.2f}"
        scores.add_row(name, shown, found.warning)
    out.print(scores)
    if maps:
        explained = next(iter(maps.values())).target
        title = opened.class_name(int(explained[0])) if explained is not None else "the output"
        wrote(reporting.save_figure(reporting.panel(x[0], maps, f"what speaks for {title}"), to))


def _tell_classes(opened: reporting.Opened, x: Tensor, true: int | None) -> None:
    """Print the five likeliest classes."""
    with torch.no_grad():
        sure = opened.model(x).softmax(1)[0]
    rows = table("class", right=("confidence",), then=("",))
    for index in sure.argsort(descending=True)[:5].tolist():
        mark = "true class" if index == true else ""
        rows.add_row(opened.class_name(index), f"{100 * float(sure[index]):.1f} %", mark)
    out.print(rows)
