"""One problem, all optimisers: an MLP on the embedded digits, each optimiser at the best of its learning rates.

What is known: plain gradient descent needs the largest rate and the most steps; momentum takes several times fewer; the
rates of methods that divide by the gradient's size (RMSprop, Adagrad, Adam) do not depend on the scale of the loss.

Source: Goodfellow, Bengio, Courville, "Deep Learning", 2016, chapter 8; Kingma, Ba, "Adam", 2015.
"""

from typing import Any

from torch import nn

from cutaway import nets
from cutaway.data import load
from cutaway.experiments.result import Result, axes_of, best_rate, finished, measured, tested
from cutaway.train import OPTIMIZERS, fit, fit_many, spread

FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)  # times the rate the optimiser starts from
GOAL = 0.1  # training loss by which speed is compared


def make(seed: int) -> nn.Module:
    """A multilayer perceptron for digits of 8×8 pixels."""
    return nets.make("mlp", 64, 64, 10, seed=seed)


def optimizers(seeds: int = 5, epochs: int = 15, progress: bool = True) -> Result:
    """Train with every optimiser at several rates, and compare them at the best one.

    Args:
        seeds: replicates of each rate.
        epochs: passes over the digits.
        progress: show a bar on the terminal.

    >>> optimizers(seeds=2).plot()  # doctest: +SKIP
    """
    train, validation, test = load("digits")
    rows, curves = [], {}
    for name, row in OPTIMIZERS.items():
        settings: dict[str, Any] = {
            "epochs": epochs,
            "schedule": "constant",
            "restore_best": False,
            "progress": progress,
        }
        if name == "lbfgs":
            runs = [
                fit(make(s), train, validation, test, optimizer=name, batch_size=len(train), seed=s, **settings)
                for s in range(seeds)
            ]
            accuracies = [tested(run)["accuracy"] for run in runs]
            losses = [[run.history["loss"][epoch] for run in runs] for epoch in range(epochs)]
            rate = row.lr
        else:
            rates = [factor * row.lr for factor in FACTORS for _ in range(seeds)]
            many = finished(fit_many(
                make, train, validation, test, seeds=list(range(seeds)) * len(FACTORS), lr=rates, optimizer=name,
                batch_size=32, nonfinite="continue", **settings,
            ))  # fmt: skip
            first = best_rate(many.history["validation_loss"][-1], seeds)
            losses = many.history["loss"][:, first : first + seeds].tolist()
            accuracies = [one["accuracy"] for one in many.test[first : first + seeds]]
            rate = rates[first]
        curves[name] = [sum(values) / len(values) for values in losses]
        reached = next((epoch for epoch, loss in enumerate(curves[name], 1) if loss < GOAL), None)
        rows.append({
            "optimizer": name, "learning rate": rate, f"epochs to loss {GOAL}": reached, "train loss": curves[name][-1],
            **measured("test accuracy %", spread(100 * value for value in accuracies)),
        })  # fmt: skip
    return Result("optimizers", tuple(rows), read(rows), {"seeds": seeds, "epochs": epochs}, draw, curves)


def read(rows: list[dict[str, Any]]) -> str:
    """Say what the rows mean."""
    goal = f"epochs to loss {GOAL}"
    fast = [row for row in rows if row[goal] is not None]
    order = ", ".join(f"{row['optimizer']} {row[goal]}" for row in sorted(fast, key=lambda row: row[goal]))
    never = [row["optimizer"] for row in rows if row[goal] is None]
    best = max(rows, key=lambda row: row["test accuracy %"])
    alike = [row["optimizer"] for row in rows if row["high"] >= best["low"]]
    text = f"Epochs until the training loss is below {GOAL}: {order}"
    text += f"; not reached by {', '.join(never)}. " if never else ". "
    return text + (
        f"On test digits the intervals of {', '.join(alike)} overlap with the best ({best['optimizer']}, "
        f"{best['test accuracy %']:.1f} ± {best['sd']:.1f} %): at its own rate each arrives, they differ in speed. "
        "(An epoch of L-BFGS is one step on all digits with up to twenty evaluations.)"
    )


def draw(result: Result) -> Any:
    """Training loss over the epochs, the mean of the replicates at each optimiser's best rate."""
    figure, axis = axes_of(6.0, 4.0)
    for name, losses in result.curves.items():
        axis.plot(range(1, len(losses) + 1), losses, label=name)
    axis.axhline(GOAL, color="0.7", linewidth=0.8)
    axis.set(xlabel="epoch", ylabel="training loss", yscale="log")
    axis.set_ylim(bottom=5e-3)  # L-BFGS on all digits goes on to 1e-7
    axis.legend(frameon=False, fontsize=8, ncols=2)
    return figure
