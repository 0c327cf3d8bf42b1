"""`cutaway attack`: a change nobody sees, so that the network errs."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table
from torch import Tensor

from cutaway import attack as attacks
from cutaway import report as reporting
from cutaway.attack import Attack
from cutaway.cli.common import DataOption, ModelOption, app, open_subject, out, table, wrote
from cutaway.cli.train import pairs
from cutaway.errors import ArgumentError, nearest

# the attacks that one image is enough for
ATTACKS: dict[str, Callable[..., Attack]] = {
    one.__name__: one
    for one in (
        attacks.random_noise,
        attacks.fgsm,
        attacks.bim,
        attacks.pgd,
        attacks.momentum,
        attacks.apgd,
        attacks.auto_attack,
        attacks.fab,
        attacks.deepfool,
        attacks.carlini_wagner,
        attacks.lbfgs,
        attacks.elastic_net,
        attacks.jsma,
        attacks.square,
        attacks.boundary,
        attacks.hop_skip_jump,
    )
}


@app.command()
def attack(
    example: Annotated[str, typer.Argument(help="A picture's file, or the number of a test example.")],
    model: ModelOption,
    method: Annotated[str, typer.Option(help=f"The attack's name: {', '.join(ATTACKS)}.")] = "pgd",
    eps: Annotated[
        str | None, typer.Option(help="Largest change, such as 0.1 or 8/255 (the default in the linf norm).")
    ] = None,
    norm: Annotated[str | None, typer.Option(help="linf, l2, l1 or l0; by default the attack's own.")] = None,
    target: Annotated[str | None, typer.Option("--to", help="The class wanted; by default any other.")] = None,
    label: Annotated[str | None, typer.Option(help="A picture's true class; by default the predicted.")] = None,
    start: Annotated[
        str | None, typer.Option(help="A picture of the class wanted, for boundary and hop_skip_jump.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting of the attack, as name=value; may be repeated.")
    ] = None,
    data: DataOption = None,
    to: Annotated[Path, typer.Option("--out", "-o", help="The picture to write (.png, .svg, .pdf).")] = Path(
        "attack.png"
    ),
) -> None:
    """Change an input so little that nobody sees it, so that the network errs; beside random noise of the same size.

    The picture shows the image, the change ten times enlarged and its sign, the adversarial image and the noise, with
    the network's classes and confidences. Attacks that look for the smallest change take no --eps.

    Example: [bold]cutaway attack 3 --model runs/demo --eps 0.15[/bold]

    Example: [bold]cutaway attack photo.jpg --model squeezenet1_0 --to ostrich --eps 8/255[/bold]

    Example: [bold]cutaway attack photo.jpg --model squeezenet1_0 --method carlini_wagner --set steps=100[/bold]
    """
    reporting.picture_path(to)
    if method not in ATTACKS:
        raise nearest(method, ATTACKS, "attack")
    asked = _settings(method, eps, norm, pairs(settings))
    opened = open_subject(model, data)
    x, true = opened.example(example)
    with torch.no_grad():
        predicted = int(opened.model(x).argmax(1))
    if label is not None:
        true = opened.class_index(label)
    y = predicted if true is None else true
    asked |= _goal(method, opened, target, y, start)
    made = ATTACKS[method](opened.model, x, torch.tensor([y]), **asked)
    _tell(made, opened, y)
    wrote(reporting.save_figure(made.plot([0], list(opened.classes) or None), to))


def _settings(method: str, eps: str | None, norm: str | None, more: dict[str, Any]) -> dict[str, Any]:
    """The settings of the attack, checked against its signature before anything is opened."""
    known = inspect.signature(ATTACKS[method]).parameters
    own = [name for name in known if name not in ("model", "x", "y", "eps", "norm", "target", "start", "progress")]
    for name in more:
        if name not in own:
            raise nearest(name, own, f"setting of {method}")
    settings: dict[str, Any] = {"early_stop": False} if "early_stop" in known else {}  # one image: go on to the end
    measured = norm or str(known["norm"].default)
    if measured not in (*attacks.NORMS, "l0"):
        raise nearest(measured, (*attacks.NORMS, "l0"), "norm")
    settings["norm"] = measured
    if "eps" not in known:
        if eps is not None:
            raise ArgumentError(f"--eps {eps}: {method} looks for the smallest change and takes no --eps")
        return settings | more
    if eps is None and measured != "linf":
        raise ArgumentError(
            f"--norm {measured}: this norm wants an --eps, such as 0.5 (small images) or 3 (photographs)"
        )
    radius = _number(eps or "8/255")
    if measured == "linf" and radius > 1:
        raise ArgumentError(f"--eps {eps}: pixels are in [0, 1]; for {eps} steps of 256 give --eps {eps}/255")
    return settings | {"eps": radius} | more


def _goal(method: str, opened: reporting.Opened, target: str | None, y: int, start: str | None) -> dict[str, Any]:
    """The class wanted, and the image to start from."""
    known, goal = inspect.signature(ATTACKS[method]).parameters, {}
    if target is not None:
        if "target" not in known:
            raise ArgumentError(f"--to {target}: {method} takes no target; leave --to out, or use pgd or apgd")
        goal["target"] = opened.class_index(target)
        if goal["target"] == y:
            raise ArgumentError(
                f"--to {target}: {opened.class_name(y)} is the picture's label, given or seen by the network; name "
                "another class, or the true one by --label"
            )
    if start is not None:
        if "start" not in known:
            raise ArgumentError(f"--start {start}: {method} starts from the picture itself")
        goal["start"] = opened.example(start)[0]
    elif "start" in known and target is not None:
        raise ArgumentError(
            f"--to {target}: {method} sees classes only, so it needs a picture of that class by --start"
        )
    return goal


def _tell(made: Attack, opened: reporting.Opened, y: int) -> None:
    """Print the classes before and after, and the distance."""
    rows = table("", "class", right=("confidence",), then=("",))
    _tell_class(rows, opened, "image", made.before, made.confidence_before)
    verdict = "the attack succeeded" if bool(made.success[0]) else "the attack failed"
    if int(made.before[0]) != y:
        verdict = "the network errs without any attack"
    _tell_class(rows, opened, f"after {made.method}", made.after, made.confidence_after, verdict)
    if made.control is not None:
        _tell_class(rows, opened, "random noise", made.control.after, made.control.confidence_after, "of the same size")
    out.print(rows)
    allowed = "" if made.eps is None else f", allowed {made.eps:.4g}"
    asked = f"{made.asked['gradients']} gradients, {made.asked['logits']} forward passes"
    out.print(f"distance {float(made.distance[0]):.4g} ({made.norm}){allowed}; {asked}", highlight=False)


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
