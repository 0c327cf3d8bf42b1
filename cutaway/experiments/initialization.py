"""How weights are drawn decides what reaches the last layer: activations and gradients by depth, then training.

What is known: too small and the signal dies out with depth, too large and tanh saturates or ReLU explodes; Xavier keeps
the variance through tanh, Kaiming through ReLU; equal weights never become different.

Source: Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010, figures 6
and 7; He et al., "Delving deep into rectifiers", 2015, figures 2 and 3.
"""

from typing import Any

from torch import nn

from cutaway import nets
from cutaway.data import load
from cutaway.diagnose import histograms
from cutaway.experiments.result import Result, axes_of, finished, measured
from cutaway.train import fit_many, spread

LAYERS, WIDTH = 10, 64
SCHEMES: dict[str, tuple[str, float | None]] = {
    "zero": ("zero", None),
    "constant 0.1": ("constant", 0.1),
    "normal 0.01": ("normal", 0.01),
    "normal 1": ("normal", 1.0),
    "xavier": ("xavier", None),
    "kaiming": ("kaiming", None),
    "orthogonal": ("orthogonal", None),
}


def make(activation: str, scheme: str, seed: int) -> nn.Module:
    """A deep perceptron for digits, its weights drawn by a scheme."""
    model = nets.make("mlp", 64, *[WIDTH] * (LAYERS - 1), 10, seed=seed, activation=activation)
    name, gain = SCHEMES[scheme]
    return nets.initialize(model, name, seed=seed, gain=gain)


def initialization(seeds: int = 5, epochs: int = 10, progress: bool = True) -> Result:
    """Look at ten layers at the start under every scheme, then train them alike.

    Args:
        seeds: replicates of each row.
        epochs: passes over the digits.
        progress: show a bar on the terminal.

    >>> initialization(seeds=2).plot()  # doctest: +SKIP
    """
    train, _, test = load("digits")
    settings = {"epochs": epochs, "batch_size": 32, "optimizer": "sgd", "lr": 0.05, "nonfinite": "continue"}
    rows, curves = [], {}
    for activation in ("tanh", "relu"):
        for scheme in SCHEMES:
            models = [make(activation, scheme, seed) for seed in range(seeds)]
            seen = histograms(models[0], test.x - 0.5, test.y)
            hidden = [layer for layer in seen.layers if layer.activation]
            curves[f"{activation}, {scheme}"] = [
                [layer.std for layer in hidden],
                [layer.gradient_norm for layer in hidden],
            ]
            runs = finished(fit_many(models, train, test=test, seeds=range(seeds), progress=progress, **settings))
            rows.append({
                "activation": activation, "scheme": scheme,
                "sd, first layer": hidden[0].std, "sd, last": hidden[-1].std,
                "gradient, first": hidden[0].gradient_norm, "gradient, last": hidden[-1].gradient_norm,
                **measured("test accuracy %", spread(100 * one["accuracy"] for one in runs.test)),
                "at the start": seen.verdict,
            })  # fmt: skip
    return Result("initialization", tuple(rows), read(rows), {"seeds": seeds, "epochs": epochs}, draw, curves)


def read(rows: list[dict[str, Any]]) -> str:
    """Say what the rows mean."""
    said = []
    for activation in ("tanh", "relu"):
        found = [row for row in rows if row["activation"] == activation]
        learned = [f"{row['scheme']} ({row['test accuracy %']:.0f} %)" for row in found if row["test accuracy %"] > 80]
        failed = [f"{row['scheme']} ({row['test accuracy %']:.0f} %)" for row in found if row["test accuracy %"] <= 80]
        said.append(
            f"{activation}: {', '.join(learned) or 'nothing'} learned, {', '.join(failed) or 'nothing'} did not."
        )
    return f"{LAYERS} layers, the same training. " + " ".join(said)


def draw(result: Result) -> Any:
    """Standard deviation of the activations, and size of the gradients, over the depth."""
    figure, axes = axes_of(3.9, 3.6, 4)
    for number, activation in enumerate(("tanh", "relu")):
        for color, scheme in enumerate(SCHEMES):
            for place, values in enumerate(result.curves[f"{activation}, {scheme}"]):
                axis = axes[2 * number + place]
                shown = [value if value > 1e-12 else None for value in values]
                axis.plot(range(1, len(values) + 1), shown, "o-", markersize=3, color=f"C{color}", label=scheme)
                axis.set(yscale="log", xlabel="layer", title=activation)
                axis.set_ylabel("gradient norm" if place else "sd of activations")
    axes[0].legend(frameon=False, fontsize=7)
    return figure
