"""`cutaway attack`: a change nobody sees, so that the network errs."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table
from torch import Tensor

from cutaway import attack as attacks
from cutaway import report as reporting
from cutaway.cli.common import DataOption, ModelOption, app, open_subject, out, table, wrote
from cutaway.errors import ArgumentError, nearest

ATTACKS = {
    one.__name__: one for one in (attacks.random_noise, attacks.fgsm, attacks.bim, attacks.pgd, attacks.momentum)
}


@app.command()
def attack(
    example: Annotated[str, typer.Argument(help="A picture's file, or the number of a test example.")],
    model: ModelOption,
    method: Annotated[str, typer.Option(help="The attack's name.")] = "pgd",
    eps: Annotated[str, typer.Option(help="Largest change of a pixel, such as 0.1 or 8/255.")] = "8/255",
    norm: Annotated[str, typer.Option(help="linf, l2 or l1.")] = "linf",
    target: Annotated[str | None, typer.Option("--to", help="The class wanted; by default any other.")] = None,
    label: Annotated[str | None, typer.Option(help="A picture's true class; by default the predicted.")] = None,
    data: DataOption = None,
    to: Annotated[Path, typer.Option("--out", "-o", help="The picture to write (.png, .svg, .pdf).")] = Path(
        "attack.png"
    ),
) -> None:
    """Change an input so little that nobody sees it, so that the network errs; beside random noise of the same size.

    Example: [bold]cutaway attack 3 --model runs/demo --eps 0.15[/bold]
    """
    reporting.picture_path(to)
    opened = open_subject(model, data)
    x, true = opened.example(example)
    with torch.no_grad():
        predicted = int(opened.model(x).argmax(1))
    if label is not None:
        true = opened.class_index(label)
    y = torch.tensor([predicted if true is None else true])
    wanted = None if target is None else opened.class_index(target)
    if method not in ATTACKS:
        raise nearest(method, ATTACKS, "attack")
    made = ATTACKS[method](opened.model, x, y, eps=_number(eps), norm=norm, target=wanted)
    rows = table("", "class", right=("confidence",), then=("",))
    _tell_class(rows, opened, "image", made.before, made.confidence_before)
    verdict = "the attack succeeded" if bool(made.success[0]) else "the attack failed"
    if int(made.before[0]) != int(y[0]):
        verdict = "the network errs without any attack"
    _tell_class(rows, opened, f"after {method}", made.after, made.confidence_after, verdict)
    if made.control is not None:
        _tell_class(rows, opened, "random noise", made.control.after, made.control.confidence_after, "of the same size")
    out.print(rows)
    out.print(f"distance {float(made.distance[0]):.4g} ({norm}), allowed {_number(eps):.4g}", highlight=False)
    wrote(reporting.save_figure(made.plot([0], list(opened.classes) or None), to))


def _tell_class(rows: Table, opened: reporting.Opened, what: str, found: Tensor, sure: Tensor, note: str = "") -> None:
    share = f"{100 * float(sure[0]):.1f} %"
    rows.add_row(what, opened.class_name(int(found[0])), share, note)


def _number(text: str) -> float:
    """A number or a fraction, such as 8/255."""
    try:
        above, _, below = text.partition("/")
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        raise ArgumentError(f"--eps {text}: expected a number or a fraction, such as 0.1 or 8/255") from None
