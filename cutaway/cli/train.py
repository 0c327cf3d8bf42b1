"""`cutaway train` and `cutaway report`: a run folder and its page."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from cutaway import report as reporting
from cutaway import train as training
from cutaway.cli.common import app, err, out
from cutaway.errors import ArgumentError


@app.command()
def train(
    model: Annotated[str | None, typer.Argument(help="A network's name, such as lenet5 or mlp.")] = None,
    data: Annotated[str | None, typer.Option("--data", "-d", help="A data set, such as digits.")] = None,
    to: Annotated[Path | None, typer.Option("--out", "-o", help="The run folder to write.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file with any of these settings.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Train by a recipe's name, such as cifar10-fast.")] = None,
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
    shard: Annotated[
        bool, typer.Option("--shard", help="Under torchrun: each process keeps its part of the network.")
    ] = False,
    report_page: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html.")] = True,
) -> None:
    """Train a network on a data set and write a run folder with its report.

    Settings come from the config file, and from the options, which go before it. A recipe fills in what neither says,
    network and data included.

    Example: [bold]cutaway train lenet5 --data digits --out runs/demo[/bold]
    """
    given = {
        "model": model, "data": data, "out": to, "recipe": recipe, "seeds": seeds, "seed": seed, "epochs": epochs,
        "batch_size": batch_size, "lr": lr, "optimizer": optimizer, "schedule": schedule, "patience": patience,
        "shard": shard or None,
    }  # fmt: skip
    asked = _config(config) | {name: value for name, value in given.items() if value is not None} | pairs(settings)
    if asked.get("recipe") is not None:
        model, data, _ = training.recipe_named(asked["recipe"])
        asked = {"model": model, "data": data} | asked
    for name, what in (("model", "a network"), ("data", "a data set (--data)"), ("out", "a run folder (--out)")):
        if asked.get(name) is None:
            raise ArgumentError(f"train needs {what}; for example: cutaway train lenet5 --data digits --out runs/demo")
    folder = Path(asked["out"])
    run = training.run(asked.pop("model"), **asked, overwrite=overwrite, resume=resume)
    if run.status == "interrupted":
        err.print(f"Interrupted; {folder} holds the best and the last state. Go on with --resume.", style="red")
        raise typer.Exit(130)
    if training.rank():  # of several processes the first one tells
        return
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


def pairs(settings: list[str] | None) -> dict[str, Any]:
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
