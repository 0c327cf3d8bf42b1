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

# beside all others, the methods of a thousand passes take fewer
QUICK = {"rise": {"samples": 300}, "score_cam": {"channels": 64}}


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

    A map that stays much the same when half of the network is random (sanity score below 0.5) fails. Among all methods,
    RISE takes 300 masks and Score-CAM 64 channels; asked for by name, they take as many as in Python.

    Example: [bold]cutaway explain 3 --model runs/demo[/bold]

    Example: [bold]cutaway explain photo.jpg --model squeezenet1_0.safetensors --class gibbon[/bold]
    """
    reporting.picture_path(to)
    opened = open_subject(model, data)
    x, true = opened.example(example)
    chosen = list(explaining.METHODS) if method == "all" else [name.strip() for name in method.split(",")]
    for name in chosen:
        if name not in explaining.METHODS:
            raise nearest(name, explaining.METHODS, "explanation method")
    index = None if target is None else opened.class_index(target)
    _tell_classes(opened, x, true)
    maps, rows = {}, table("method", right=("sanity score",), then=("beware",))
    for name in chosen:
        try:
            found = explaining.METHODS[name](opened.model, x, index, **(QUICK.get(name, {}) if method == "all" else {}))
        except ArgumentError as reason:
            rows.add_row(name, "", f"left out: {reason}")
            continue
        if found.values.dim() == x.dim():
            maps[name] = found
        rows.add_row(name, "" if found.score is None else f"{found.score:.2f}", found.warning)
    out.print(rows)
    if maps:
        first = next(iter(maps.values()))
        title = opened.class_name(int(first.target[0])) if first.target is not None else "the output"
        figure = explaining.panel(x[0], maps, f"what speaks for {title}") if x.dim() == 4 else first.plot()
        wrote(reporting.save_figure(figure, to))


def _tell_classes(opened: reporting.Opened, x: Tensor, true: int | None) -> None:
    """Print the five likeliest classes."""
    with torch.no_grad():
        sure = opened.model(x).softmax(1)[0]
    rows = table("class", right=("confidence",), then=("",))
    for index in sure.argsort(descending=True)[:5].tolist():
        mark = "true class" if index == true else ""
        rows.add_row(opened.class_name(index), f"{100 * float(sure[index]):.1f} %", mark)
    out.print(rows)
