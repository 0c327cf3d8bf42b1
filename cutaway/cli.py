"""The `cutaway` command: one verb per folder, the same words as in Python."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from torch import Tensor
from typer.core import TyperGroup

import cutaway
from cutaway import attack as attacks
from cutaway import diagnose as diagnosing
from cutaway import explain as explaining
from cutaway import graph as graphs
from cutaway import report as reporting
from cutaway import train as training
from cutaway.errors import ArgumentError, CutawayError, nearest

out, err = Console(), Console(stderr=True)


class Guarded(TyperGroup):
    """Turns errors raised on purpose into one red paragraph and exit code 2, Ctrl-C into 130."""

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


ATTACKS = {
    one.__name__: one for one in (attacks.random_noise, attacks.fgsm, attacks.bim, attacks.pgd, attacks.momentum)
}


@app.callback(invoke_without_command=True)
def _top(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        out.print(cutaway.__version__)
        raise typer.Exit


def main() -> None:
    """Run the command."""
    app()


@app.command()
def train(
    model: Annotated[str | None, typer.Argument(help="A network's name, such as lenet5 or mlp.")] = None,
    data: Annotated[str | None, typer.Option("--data", "-d", help="A data set, such as digits.")] = None,
    to: Annotated[Path | None, typer.Option("--out", "-o", help="The run folder to write.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file with any of these settings.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Train this many times, with seeds counted from --seed.")] = None,
    seed: Annotated[int | None, typer.Option(help="Fixes initial weights, order and augmentation.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd, momentum, adam, adamw, …")] = None,
    schedule: Annotated[str | None, typer.Option(help="constant, cosine, step, …")] = None,
    patience: Annotated[int | None, typer.Option(help="Epochs without improvement before stopping.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting, as name=value; may be repeated.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run the folder holds.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run the folder holds.")] = False,
    report_page: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html.")] = True,
) -> None:
    """Train a network on a data set and write a run folder with its report.

    Settings come from the config file, and from the options, which go before it.

    Example: [bold]cutaway train lenet5 --data digits --out runs/demo[/bold]
    """
    given = {
        "model": model, "data": data, "out": to, "seeds": seeds, "seed": seed, "epochs": epochs,
        "batch_size": batch_size, "lr": lr, "optimizer": optimizer, "schedule": schedule, "patience": patience,
    }  # fmt: skip
    asked = _config(config) | {name: value for name, value in given.items() if value is not None} | _pairs(settings)
    for name, what in (("model", "a network"), ("data", "a data set (--data)"), ("out", "a run folder (--out)")):
        if asked.get(name) is None:
            raise ArgumentError(f"train needs {what}; for example: cutaway train lenet5 --data digits --out runs/demo")
    folder = Path(asked["out"])
    run = training.run(asked.pop("model"), **asked, overwrite=overwrite, resume=resume)
    if run.status == "interrupted":
        err.print(f"Interrupted; {folder} holds the best and the last state. Go on with --resume.", style="red")
        raise typer.Exit(130)
    page = reporting.write(folder) if report_page else None
    _tell_run(run, folder, page)


def _tell_run(run: training.Run, folder: Path, page: Path | None) -> None:
    """End with accuracy and interval, where things are, and the report's path."""
    if run.test is not None and run.test.interval is not None:
        low, high = run.test.interval
        share = f"test accuracy {run.test['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%})".replace("%", " %")
        out.print(share.replace("95  %", "95 %"), style="bold", highlight=False)
    elif run.test is not None:
        out.print(str(run.test), highlight=False)
    if len(run.replicates) > 1:
        out.print(reporting.spread(run.replicates), highlight=False, soft_wrap=True)
    out.print(f"run     {folder}", highlight=False, soft_wrap=True)
    if page is not None:
        out.print(f"report  {page}", highlight=False, soft_wrap=True)


def _config(path: Path | None) -> dict[str, Any]:
    """The settings of a TOML file."""
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as reason:
        raise ArgumentError(
            f"the config file {path} cannot be read: {reason}; expected TOML such as epochs = 20"
        ) from None


def _pairs(settings: list[str] | None) -> dict[str, Any]:
    """Settings given as name=value; values as in TOML, anything else is text."""
    found = {}
    for one in settings or []:
        name, equals, text = one.partition("=")
        if not equals:
            raise ArgumentError(f"--set {one}: expected name=value, such as --set clip=1.0")
        try:
            found[name.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            found[name.strip()] = text
    return found


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Write report.html again, from the run folder alone.

    Example: [bold]cutaway report runs/demo[/bold]
    """
    out.print(f"report  {reporting.write(run)}", highlight=False, soft_wrap=True)


@app.command()
def graph(
    model: Annotated[str, typer.Argument(help="A network's name, run folder, weights file, or file.py:function.")],
    data: DataOption = None,
    depth: Annotated[int | None, typer.Option(help="Module levels to keep apart; by default all.")] = None,
    to: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write a drawing (.svg, .html) or the costs (.csv, .json).")
    ] = None,
) -> None:
    """Show a network's computation graph by module: shapes, parameters, multiply-adds, memory.

    Example: [bold]cutaway graph lenet5 --out lenet5.svg[/bold]
    """
    opened = reporting.open_model(model, data)
    captured = graphs.capture(opened.model, torch.zeros(2, *opened.shape))
    cost = captured.cost()
    rows = _table("module", "kind", "output", right=("parameters", "multiply-adds", "activation bytes"))
    named = [(row.name or "(outside)", row) for row in cost.by_module(depth)]
    for name, row in [*named, ("total", cost.total)]:
        numbers = (row.parameters, row.multiply_adds, row.activation_bytes)
        rows.add_row(name, row.op, _by(row.shape), *(f"{number:,}" for number in numbers))
    out.print(f"{opened.about}, input {_by(('N', *opened.shape))}", highlight=False)
    out.print(rows)
    if to is not None:
        captured.draw(to, depth) if to.suffix in (".svg", ".html") else cost.save(to)
        _wrote(to)


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
    opened = _opened(model, data)
    x, true = opened.example(example)
    chosen = list(explaining.METHODS) if method == "all" else method.split(",")
    for name in chosen:
        if name not in explaining.METHODS:
            raise nearest(name, explaining.METHODS, "explanation method")
    index = None if target is None else opened.class_index(target)
    _tell_classes(opened, x, true)
    maps, scores = {}, _table("method", right=("sanity score",), then=("beware",))
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
        _wrote(reporting.save_figure(reporting.panel(x[0], maps, f"what speaks for {title}"), to))


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
    opened = _opened(model, data)
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
    rows = _table("", "class", right=("confidence",), then=("",))
    _tell_class(rows, opened, "image", made.before, made.confidence_before)
    verdict = "the attack succeeded" if bool(made.success[0]) else "the attack failed"
    if int(made.before[0]) != int(y[0]):
        verdict = "the network errs without any attack"
    _tell_class(rows, opened, f"after {method}", made.after, made.confidence_after, verdict)
    if made.control is not None:
        _tell_class(rows, opened, "random noise", made.control.after, made.control.confidence_after, "of the same size")
    out.print(rows)
    out.print(f"distance {float(made.distance[0]):.4g} ({norm}), allowed {_number(eps):.4g}", highlight=False)
    _wrote(reporting.save_figure(made.plot([0], list(opened.classes) or None), to))


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
    opened = _opened(model, data)
    if opened.test is None:
        raise ArgumentError(f"{opened.about} brings no data; name a set to run it on, such as --data digits")
    x, y = opened.test.x[:512], opened.test.y[:512]
    found, deep = diagnosing.histograms(opened.model, x, y), diagnosing.depth(opened.model, x, y)
    rows = _table("layer", "activation", right=("mean", "sd", "gradient", "dead"), then=("verdict",))
    for layer in found.layers:
        numbers = (f"{number:.3g}" for number in (layer.mean, layer.std, layer.gradient_norm))
        dead = "" if layer.dead is None else f"{100 * layer.dead:.0f} %"
        rows.add_row(layer.name, layer.activation, *numbers, dead, layer.verdict)
    out.print(rows)
    out.print(f"Layers: {found.verdict}", highlight=False)
    out.print(f"Depth: {deep.verdict}", highlight=False)
    _wrote(reporting.save_figure(found.plot(), to))


def _opened(model: str, data: str | None) -> reporting.Opened:
    opened = reporting.open_model(model, data)
    if opened.caution:
        err.print(opened.caution, style="yellow", highlight=False, soft_wrap=True)
    return opened


def _tell_classes(opened: reporting.Opened, x: Tensor, true: int | None) -> None:
    """Print the five likeliest classes."""
    with torch.no_grad():
        sure = opened.model(x).softmax(1)[0]
    rows = _table("class", right=("confidence",), then=("",))
    for index in sure.argsort(descending=True)[:5].tolist():
        mark = "true class" if index == true else ""
        rows.add_row(opened.class_name(index), f"{100 * float(sure[index]):.1f} %", mark)
    out.print(rows)


def _tell_class(rows: Table, opened: reporting.Opened, what: str, found: Tensor, sure: Tensor, note: str = "") -> None:
    share = f"{100 * float(sure[0]):.1f} %"
    rows.add_row(what, opened.class_name(int(found[0])), share, note)


def _table(*left: str, right: Sequence[str] = (), then: Sequence[str] = ()) -> Table:
    """A table without lines: text columns, numeric ones, and what follows them."""
    numeric = (Column(name, justify="right") for name in right)
    return Table(*left, *numeric, *then, box=None)


def _number(text: str) -> float:
    """A number or a fraction, such as 8/255."""
    try:
        above, _, below = text.partition("/")
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        raise ArgumentError(f"--eps {text}: expected a number or a fraction, such as 0.1 or 8/255") from None


def _by(shape: tuple | None) -> str:
    return "×".join(map(str, shape or ()))


def _wrote(path: Path) -> None:
    out.print(f"wrote   {path}", highlight=False, soft_wrap=True)
