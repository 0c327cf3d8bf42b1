"""`cutaway diagnose`: is its training healthy?"""

from pathlib import Path
from typing import Annotated

import typer

from cutaway import diagnose as diagnosing
from cutaway import report as reporting
from cutaway.cli.common import DataOption, ModelOption, app, open_subject, out, table, wrote
from cutaway.errors import ArgumentError


@app.command()
def diagnose(
    model: ModelOption,
    data: DataOption = None,
    to: Annotated[Path, typer.Option("--out", "-o", help="The picture to write (.png, .svg, .pdf).")] = Path(
        "diagnose.png"
    ),
) -> None:
    """Look for vanishing or exploding gradients and dead units: activations and gradients of every layer.

    Example: [bold]cutaway diagnose --model runs/demo[/bold]
    """
    reporting.picture_path(to)
    opened = open_subject(model, data)
    if opened.test is None:
        raise ArgumentError(f"{opened.about} brings no data; name a set to run it on, such as --data digits")
    x, y = opened.test.x[:512], opened.test.y[:512]
    found, deep = diagnosing.histograms(opened.model, x, y), diagnosing.depth(opened.model, x, y)
    rows = table("layer", "activation", right=("mean", "sd", "gradient", "dead"), then=("verdict",))
    for layer in found.layers:
        numbers = (f"{number:.3g}" for number in (layer.mean, layer.std, layer.gradient_norm))
        dead = "" if layer.dead is None else f"{100 * layer.dead:.0f} %"
        rows.add_row(layer.name, layer.activation, *numbers, dead, layer.verdict)
    out.print(rows)
    out.print(f"Layers: {found.verdict}", highlight=False)
    out.print(f"Depth: {deep.verdict}", highlight=False)
    wrote(reporting.save_figure(found.plot(), to))
