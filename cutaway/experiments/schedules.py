"""Learning rates over time: too high, too low, a range test, and every schedule at the same best rate.

What is known: below some rate the loss hardly falls, above another it diverges, and the range between spans two or
three powers of ten. A rate that falls at the end removes the noise that keeps the loss up; warm restarts come back to
it at every end of a cycle.

Source: Smith, "Cyclical learning rates for training neural networks", 2017, section 3.3 (range test); Loshchilov,
Hutter, "SGDR", 2017.
"""

import math
from typing import Any

from torch import nn

from cutaway import nets
from cutaway.data import load
from cutaway.experiments.result import Result, axes_of, finished, measured
from cutaway.train import SCHEDULES, fit_many, range_test, spread

RATES = (3e-4, 3e-3, 3e-2, 0.1, 0.3, 1.0, 3.0)


def make(seed: int) -> nn.Module:
    """A multilayer perceptron for digits of 8×8 pixels."""
    return nets.make("mlp", 64, 64, 10, seed=seed)


def schedules(seeds: int = 5, epochs: int = 12, rate: float = 0.1, progress: bool = True) -> Result:
    """Train with constant rates from far too low to far too high, then with every schedule.

    Args:
        seeds: replicates of each row.
        epochs: passes over the digits.
        rate: the rate the schedules start from, with momentum 0.9.
        progress: show a bar on the terminal.

    >>> schedules(seeds=2).plot()  # doctest: +SKIP
    """
    train, _, test = load("digits")
    common: dict[str, Any] = {"epochs": epochs, "batch_size": 32, "optimizer": "momentum", "restore_best": False}
    common |= {"progress": progress, "nonfinite": "continue"}
    rates = [one for one in RATES for _ in range(seeds)]
    many = finished(
        fit_many(make, train, test=test, seeds=list(range(seeds)) * len(RATES), lr=rates, schedule="constant", **common)
    )
    rows, curves = [], {}
    for number, one in enumerate(RATES):
        part = slice(number * seeds, (number + 1) * seeds)
        losses = many.history["loss"][:, part].mean(1).tolist()
        rows.append(_row(f"constant {one:g}", one, losses, [each["accuracy"] for each in many.test[part]]))
        curves[rows[-1]["schedule"]] = losses
    for name in [name for name in SCHEDULES if name != "constant"]:
        runs = finished(fit_many(make, train, test=test, seeds=range(seeds), lr=rate, schedule=name, **common))
        losses = runs.history["loss"].mean(1).tolist()
        rows.append(_row(name, rate, losses, [each["accuracy"] for each in runs.test]))
        curves[name] = losses
    tested = range_test(make(0), train, batch_size=32, optimizer="momentum", progress=progress)
    curves["range test"] = [tested.rates, tested.losses, tested.suggestion]
    settings = {"seeds": seeds, "epochs": epochs, "rate": rate, "suggested by the range test": tested.suggestion}
    return Result("schedules", tuple(rows), read(rows, tested.suggestion), settings, draw, curves)


def _row(name: str, rate: float, losses: list[float], accuracies: list[float]) -> dict[str, Any]:
    row = {"schedule": name, "learning rate": rate, "train loss": losses[-1]}
    return row | measured("test accuracy %", spread(100 * value for value in accuracies))


def read(rows: list[dict[str, Any]], suggestion: float) -> str:
    """Say what the rows mean."""
    constant = [row for row in rows if row["schedule"].startswith("constant")]
    best = min(constant, key=lambda row: row["train loss"] if math.isfinite(row["train loss"]) else math.inf)
    failed = [row for row in constant if not row["train loss"] < 1]
    falling = min((row for row in rows if row not in constant), key=lambda row: row["train loss"])
    return (
        f"Constant rates: the lowest loss at {best['learning rate']:g} ({best['train loss']:.3g}); "
        f"{', '.join(format(row['learning rate'], 'g') for row in failed) or 'none'} did not train to a loss below 1. "
        f"The range test suggests {suggestion:.2g}. Of the schedules {falling['schedule']} ends lowest "
        f"({falling['train loss']:.3g} at {falling['learning rate']:g})."
    )


def draw(result: Result) -> Any:
    """Curves of constant rates, curves of schedules, and the range test."""
    figure, (left, middle, right) = axes_of(4.4, 3.6, 3)
    for name, losses in result.curves.items():
        if name != "range test":
            (left if name.startswith("constant") else middle).plot(range(1, len(losses) + 1), losses, label=name)
    rates, losses, suggestion = result.curves["range test"]
    right.plot(rates, losses)
    right.axvline(suggestion, color="C3", linewidth=1, label=f"suggested {suggestion:.2g}")
    right.set(xscale="log", xlabel="learning rate", ylabel="loss", title="range test")
    for axis, title in ((left, "constant rates"), (middle, "schedules")):
        axis.set(yscale="log", xlabel="epoch", ylabel="training loss", title=title)
    for axis in (left, middle, right):
        axis.legend(frameon=False, fontsize=8)
    return figure
