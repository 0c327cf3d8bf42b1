"""Each way to fit less closely, on and off: L1, L2, dropout, early stopping, augmentation, label smoothing.

What is known: with few examples a network fits them all and the gap to the test data is large; each of these closes a
part of it, augmentation most where the shifts it makes are what the test data differ by.

Source: Goodfellow, Bengio, Courville, "Deep Learning", 2016, chapter 7.
"""

from functools import partial
from typing import Any

from torch import nn

from cutaway import nets
from cutaway.data import augmentation, load
from cutaway.experiments.result import Result, axes_of, finished
from cutaway.train import evaluate, fit_many, spread

WAYS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "L1": {"l1": 3e-4},
    "L2": {"weight_decay": 3e-3},
    "dropout": {"dropout": 0.3},
    "early stopping": {"patience": 5},
    "label smoothing": {"label_smoothing": 0.1},
    "augmentation": {
        "augment": augmentation(("affine", {"degrees": 8.0, "scale": (0.9, 1.1), "skew": 0.0, "pixels": 0.6}))
    },
}


def make(seed: int, dropout: float = 0.0) -> nn.Module:
    """A perceptron far larger than the data."""
    return nets.make("mlp", 64, 256, 256, 10, seed=seed, dropout=dropout)


def regularization(seeds: int = 10, examples: int = 200, epochs: int = 60, progress: bool = True) -> Result:
    """Train on few digits with one way after the other switched on.

    Args:
        seeds: replicates of each row.
        examples: training digits.
        epochs: passes over them.
        progress: show a bar on the terminal.

    >>> regularization(seeds=2).plot()  # doctest: +SKIP
    """
    whole, validation, test = load("digits")
    train = whole[:examples]
    rows, curves = [], {}
    for name, way in WAYS.items():
        own = dict(way)
        build = partial(make, dropout=own.pop("dropout", 0.0))
        settings = {"epochs": epochs, "batch_size": 20, "lr": 1e-3, "schedule": "constant", "progress": progress} | own
        kept = "patience" in own
        runs = finished(fit_many(build, train, validation, test, seeds=range(seeds), restore_best=kept, **settings))
        found = spread(100 * one["accuracy"] for one in runs.test)
        fitted = spread(100 * evaluate(model, train, ["accuracy"])["accuracy"] for model in runs.models)
        loss = spread(evaluate(model, test, ["cross_entropy"])["cross_entropy"] for model in runs.models)
        rows.append({
            "way": name, "train accuracy %": fitted.mean, "test accuracy %": found.mean, "sd": found.sd,
            "low": found.low, "high": found.high, "test cross-entropy": loss.mean, "its sd": loss.sd, "n": found.n,
        })  # fmt: skip
        curves[name] = runs.history["validation_loss"].mean(1).tolist()
    settings = {"seeds": seeds, "examples": examples, "epochs": epochs}
    return Result("regularization", tuple(rows), read(rows), settings, draw, curves)


def read(rows: list[dict[str, Any]]) -> str:
    """Say what the rows mean."""
    plain, *others = rows
    better = [row["way"] for row in others if row["low"] > plain["high"]]
    worse = [row["way"] for row in others if row["high"] < plain["low"]]
    unclear = [row["way"] for row in others if row["way"] not in better + worse]
    surer = [row["way"] for row in others if row["test cross-entropy"] < plain["test cross-entropy"] - plain["its sd"]]
    return (
        f"With nothing {plain['train accuracy %']:.1f} % of the training and {plain['test accuracy %']:.1f} ± "
        f"{plain['sd']:.1f} % of the test digits are right. Clearly better (intervals of the means apart): "
        f"{', '.join(better) or 'none'}; clearly worse: {', '.join(worse) or 'none'}; not to be told apart: "
        f"{', '.join(unclear) or 'none'}. The test cross-entropy falls with {', '.join(surer) or 'none'}."
    )


def draw(result: Result) -> Any:
    """Test accuracy with the interval of its mean, and the validation loss over the epochs."""
    figure, (left, right) = axes_of(5.0, 3.6, 2)
    names, means = result.column("way"), result.column("test accuracy %")
    reach = [row["high"] - row["test accuracy %"] for row in result.rows]
    left.errorbar(means, range(len(names)), xerr=reach, fmt="o", capsize=3)
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set(xlabel="test accuracy, % (95 % interval of the mean)")
    for name, losses in result.curves.items():
        right.plot(range(1, len(losses) + 1), losses, label=name)
    right.set(xlabel="epoch", ylabel="validation loss", yscale="log")
    right.legend(frameon=False, fontsize=8)
    return figure
