"""Batch norm reaches the same accuracy in a fraction of the steps.

Published: three hidden layers of 100 sigmoid units on MNIST, batches of 60 (figure 1: the network with batch norm is
ahead throughout 50,000 steps); on ImageNet the accuracy of Inception after 31.0 million steps in 13.3 million (same
rate) and in 2.1 million (five times the rate), 14 times fewer (figure 3).

Source: Ioffe, Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate shift",
2015, sections 4.1 and 4.2.
"""

from typing import Any

from torch import nn

from cutaway import nets
from cutaway.data import load
from cutaway.experiments.result import Result, axes_of, finished, measured
from cutaway.train import fit_many, spread

RATES = (0.1, 0.5)  # the rate both can be trained with, and five times as much


def batchnorm(seeds: int = 5, examples: int = 6000, epochs: int = 15, progress: bool = True) -> Result:
    """Train the paper's network on MNIST with and without batch norm, at two rates.

    Args:
        seeds: replicates of each row.
        examples: training digits.
        epochs: passes over them, in batches of 60.
        progress: show a bar on the terminal.

    >>> batchnorm(seeds=2, epochs=3).plot()  # doctest: +SKIP
    """
    whole, validation, test = load("mnist", validation=2000)
    train = whole[:examples]
    kinds: dict[str, tuple[str | None, float]] = {
        f"{name}, rate {rate}": (norm, rate)
        for rate in RATES
        for name, norm in (("without", None), ("batch norm", "batch"))
    }
    found = {}
    for name, (norm, rate) in kinds.items():

        def make(seed: int, norm: str | None = norm) -> nn.Module:
            model = nets.make("mlp", 784, 100, 100, 100, 10, seed=seed, activation="sigmoid", norm=norm)
            return nets.initialize(model, "xavier", seed=seed)

        found[name] = finished(fit_many(
            make, train, validation, test, seeds=range(seeds), epochs=epochs, batch_size=60, optimizer="sgd", lr=rate,
            schedule="constant", restore_best=False, progress=progress,
        ))  # fmt: skip
    per_epoch = examples // 60
    curves = {name: runs.history["validation_accuracy"].mean(1).tolist() for name, runs in found.items()}
    goal = max(curves[f"without, rate {RATES[0]}"])  # as in the paper: what the plain network reaches at its rate
    rows = []
    for name, runs in found.items():
        reached = next((epoch for epoch, value in enumerate(curves[name], 1) if value >= goal), None)
        steps = None if reached is None else reached * per_epoch
        rows.append({
            "network": name, f"steps to {100 * goal:.1f} %": steps, "validation accuracy %": 100 * curves[name][-1],
            **measured("test accuracy %", spread(100 * one["accuracy"] for one in runs.test)),
        })  # fmt: skip
    settings = {"seeds": seeds, "examples": examples, "epochs": epochs, "steps per epoch": per_epoch, "goal": goal}
    return Result("batchnorm", tuple(rows), read(rows), settings, draw, curves)


def read(rows: list[dict[str, Any]]) -> str:
    """Say what the rows mean."""
    goal = next(name for name in rows[0] if name.startswith("steps to"))
    plain = rows[0]
    others = [row for row in rows if row is not plain and row[goal] is not None]
    text = "; ".join(f"{row['network']} {row[goal]} ({plain[goal] / row[goal]:.1f} times fewer)" for row in others)
    never = [row["network"] for row in rows if row[goal] is None]
    text += f"; not reached by {', '.join(never)}" if never else ""
    return f"{goal.capitalize()} on validation digits, the best without batch norm: {plain[goal]}; {text}."


def draw(result: Result) -> Any:
    """Validation accuracy over the steps, the mean of the replicates."""
    figure, axis = axes_of(5.6, 3.8)
    per_epoch = result.settings["steps per epoch"]
    for number, (name, values) in enumerate(result.curves.items()):
        style = "-" if name.startswith("batch") else "--"
        steps = [per_epoch * epoch for epoch in range(1, len(values) + 1)]
        axis.plot(steps, [100 * value for value in values], style, color=f"C{number // 2}", label=name)
    axis.axhline(100 * result.settings["goal"], color="0.7", linewidth=0.8)
    axis.set(xlabel="steps", ylabel="validation accuracy, %")
    axis.legend(frameon=False)
    return figure
