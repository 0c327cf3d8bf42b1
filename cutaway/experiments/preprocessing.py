"""Centring, scaling, decorrelating, whitening: what they do to the loss surface and to the speed of descent.

What is known: for a linear layer and squared error the Hessian is the inputs' second moment. Inputs that are not
centred add one huge eigenvalue, correlated inputs spread the others; the ratio of the largest to the smallest bounds
how fast descent can be, and whitening makes it 1.

Source: LeCun, Bottou, Orr, Müller, "Efficient backprop", 1998, section 4.3 and figure 3.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cutaway import nets
from cutaway.data import Dataset, fit_preprocessing, load
from cutaway.errors import ArgumentError
from cutaway.experiments.result import Result, axes_of, best_rate, finished
from cutaway.train import fit_many, spread

WAYS = ("none", "center", "scale", "decorrelate", "whiten")
RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
EARLY = 5  # epochs after which speed is compared
_COLUMN = f"loss after {EARLY} epochs"
EPSILON = 1e-2  # added to variances, as some pixels of the digits are always 0


def eigenvalues(x: Tensor) -> Tensor:
    """Eigenvalues of the second moment of inputs and bias, descending: the Hessian's of squared error.

    >>> eigenvalues(torch.tensor([[1.0], [-1.0]])).tolist()
    [1.0, 1.0]
    """
    flat = torch.cat([x.flatten(1), torch.ones(len(x), 1)], 1).double()
    return torch.linalg.eigvalsh(flat.T @ flat / len(flat)).flip(0).clamp(min=0)


def preprocessing(seeds: int = 5, epochs: int = 20, progress: bool = True) -> Result:
    """Train a linear network and a perceptron on digits after each preprocessing, at the best of several rates.

    Args:
        seeds: replicates of each row.
        epochs: passes over the digits, at least 5.
        progress: show a bar on the terminal.

    Raises:
        ArgumentError: there are too few epochs to compare the speeds.

    >>> preprocessing(seeds=2).plot()  # doctest: +SKIP
    """
    if epochs < EARLY:
        raise ArgumentError(f"epochs={epochs}: losses are compared after {EARLY} epochs; give at least as many")
    whole, _, test = load("digits")
    rates = [rate for rate in RATES for _ in range(seeds)]
    rows, curves = [], {}
    for way in WAYS:
        module = nn.Identity() if way == "none" else fit_preprocessing(whole, way, epsilon=EPSILON)
        train, held = _apply(module, whole), _apply(module, test)
        values = eigenvalues(train.x)
        kept = values[values > 1e-6 * values[0]]
        for network, sizes in (("linear", (64, 10)), ("perceptron", (64, 32, 10))):

            def make(seed: int, sizes: tuple[int, ...] = sizes) -> nn.Module:
                return nets.make("mlp", *sizes, seed=seed)

            many = finished(fit_many(
                make, train, test=held, seeds=list(range(seeds)) * len(RATES), lr=rates, epochs=epochs, batch_size=32,
                optimizer="sgd", schedule="constant", nonfinite="continue", progress=progress,
            ))  # fmt: skip
            best = best_rate(many.history["loss"][-1], seeds)
            losses = many.history["loss"][:, best : best + seeds].mean(1).tolist()
            found = spread(100 * one["accuracy"] for one in many.test[best : best + seeds])
            rows.append({
                "network": network, "preprocessing": way, "largest eigenvalue": float(values[0]),
                "condition": float(kept[0] / kept[-1]), "learning rate": rates[best], _COLUMN: losses[EARLY - 1],
                "train loss": losses[-1], "test accuracy %": found.mean, "sd": found.sd, "n": found.n,
            })  # fmt: skip
            curves[f"{network}, {way}"] = losses
        curves[f"eigenvalues, {way}"] = values.tolist()
    return Result("preprocessing", tuple(rows), read(rows), {"seeds": seeds, "epochs": epochs}, draw, curves)


def _apply(module: nn.Module, data: Dataset) -> Dataset:
    with torch.no_grad():
        return Dataset(module(data.x), data.y, data.classes, data.name)


def read(rows: list[dict[str, Any]]) -> str:
    """Say what the rows mean."""
    said = []
    for network in ("linear", "perceptron"):
        found = [row for row in rows if row["network"] == network]
        order = sorted(found, key=lambda row: row[_COLUMN])
        said.append(f"{network}: " + ", ".join(f"{r['preprocessing']} {r[_COLUMN]:.3g}" for r in order))
    first = [row for row in rows if row["network"] == "linear"]
    conditions = ", ".join(f"{row['preprocessing']} {row['condition']:.3g}" for row in first)
    return (
        f"Condition number of the Hessian: {conditions}. Training loss after {EARLY} epochs, each at its best rate, "
        f"lowest first: {'; '.join(said)}."
    )


def draw(result: Result) -> Any:
    """Eigenvalues of the Hessian, and the loss over the epochs for both networks."""
    figure, axes = axes_of(4.2, 3.5, 3)
    for way in WAYS:
        axes[0].plot(result.curves[f"eigenvalues, {way}"], label=way)
        for axis, network in zip(axes[1:], ("linear", "perceptron"), strict=True):
            losses = result.curves[f"{network}, {way}"]
            axis.plot(range(1, len(losses) + 1), losses, label=way)
            axis.set(yscale="log", xlabel="epoch", ylabel="training loss", title=network)
    axes[0].set(
        yscale="log", xlabel="number", ylabel="eigenvalue", title="Hessian of the linear layer", ylim=(1e-6, None)
    )
    axes[0].legend(frameon=False, fontsize=8)
    return figure
