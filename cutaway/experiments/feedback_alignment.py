"""Does learning need the transposed weights? Feedback alignment and its kin beside backpropagation, on digits.

Published:

    Lillicrap et al. 2016, MNIST, one hidden layer        feedback alignment 2.1 % wrong, backpropagation 2.4 %
    Nøkland 2016, MNIST, two hidden layers of 800, tanh   BP 1.6, FA 1.8, DFA 1.7 % wrong
    Liao et al. 2016                                      the signs of the weights are almost as good as the weights

What carries over to the small digits here is the order, and for the perceptron the angle: with random weights on the
way back the update of the first layer comes to lie within 90° of the gradient.

Source: Lillicrap, Cownden, Tweed, Akerman, "Random synaptic feedback weights support error backpropagation for deep
learning", 2016; Nøkland, "Direct feedback alignment provides learning in deep neural networks", 2016; Liao, Leibo,
Poggio, "How important is weight symmetry in backpropagation?", 2016.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cutaway import nets
from cutaway.data import Dataset, load
from cutaway.experiments.result import Result, axes_of, measured, tested
from cutaway.graph import rules
from cutaway.train import Epoch, engine_step, fit, spread
from cutaway.train.losses import cross_entropy

WAYS: dict[str, Callable[[int], Mapping[Any, Any] | None]] = {
    "backpropagation": lambda seed: None,
    "sign-symmetric": lambda seed: rules.sign_symmetric,
    "feedback alignment": rules.feedback_alignment,
    "direct feedback alignment": rules.direct_feedback_alignment,
    "output layer alone": lambda seed: None,  # the control: hidden layers stay as they were drawn
}
NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "MLP 64-128-64-10": lambda seed: nets.make("mlp", 64, 128, 64, 10, seed=seed, activation="tanh"),
    "LeNet-5": lambda seed: nets.normalized(nets.make("lenet5", seed=seed), 0.5, 0.5, size=32),
}


def angle(a: Tensor, b: Tensor) -> float:
    """Angle between two directions in degrees, 0 … 180.

    >>> round(angle(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])))
    45
    """
    cosine = float(torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), 0))
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def feedback_alignment(seeds: int = 5, epochs: int = 20, progress: bool = True) -> Result:
    """Train an MLP and LeNet-5 on the embedded digits with every way back.

    Args:
        seeds: replicates of each row; they differ in initial weights, order and random feedback.
        epochs: passes over the training digits.
        progress: show a bar on the terminal.

    >>> feedback_alignment(seeds=2, epochs=3).plot()  # doctest: +SKIP
    """
    train, validation, test = load("digits")
    rows, curves = [], {}
    for network, make in NETWORKS.items():
        for way, rule in WAYS.items():
            found = [
                _one(make(seed), way, rule(seed), (train, validation, test), seed, epochs, progress)
                for seed in range(seeds)
            ]
            errors = spread(100 * (1 - one["accuracy"]) for one in found)
            row = {"network": network, "way back": way, **measured("test error %", errors)}
            row |= {"train loss": _mean([one["loss"] for one in found])}
            if found[0]["angles"]:
                row |= {"angle at start": _mean([one["angles"][0] for one in found])}
                row |= {"angle at end": _mean([one["angles"][-1] for one in found])}
                curves[f"{network}, {way}"] = [
                    _mean(list(part)) for part in zip(*(one["angles"] for one in found), strict=True)
                ]
            rows.append(row)
    return Result("feedback_alignment", tuple(rows), read(rows), {"seeds": seeds, "epochs": epochs}, draw, curves)


def _one(
    model: nn.Module, way: str, rule: Any, data: tuple[Dataset, ...], seed: int, epochs: int, progress: bool
) -> dict[str, Any]:
    """Train once; the angle of the first layer's update to its gradient is measured before and after every epoch."""
    train, validation, test = data
    names = [name for name, _ in model.named_parameters()]
    first, last = names[0], names[-1].rpartition(".")[0]
    one = {first: dict(model.named_parameters())[first]}
    steps = [engine_step(model, cross_entropy, one, each) for each in (None, rule)] if rule is not None else []
    angles: list[float] = []

    def look(epoch: Epoch | None) -> None:
        if steps:
            true, used = (step(test.x, test.y)[2][0] for step in steps)
            angles.append(angle(true, used))

    look(None)
    frozen = [name for name in names if not name.startswith(last)] if way == "output layer alone" else []
    settings = {"epochs": epochs, "batch_size": 32, "optimizer": "adam", "lr": 1e-3, "freeze": frozen, "seed": seed}
    run = fit(model, train, validation, test, rules=rule, callbacks=[look], progress=progress, **settings)
    return {"accuracy": tested(run)["accuracy"], "loss": run.history["loss"][-1], "angles": angles}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def read(rows: list[dict[str, Any]]) -> str:
    """Say what the rows mean."""
    said = []
    for network in dict.fromkeys(row["network"] for row in rows):
        found = {row["way back"]: row for row in rows if row["network"] == network}
        errors = {way: f"{row['test error %']:.1f} ± {row['sd']:.1f} %" for way, row in found.items()}
        control, random = found["output layer alone"], found["feedback alignment"]
        learns = (
            "hidden layers do learn" if random["high"] < control["low"] else "whether hidden layers learn is not seen"
        )
        said.append(
            f"{network}: {'; '.join(f'{way} {error}' for way, error in errors.items())}. With random feedback {learns} "
            f"(compare the output layer alone); the first layer's update lies {random['angle at start']:.0f}° from the "
            f"gradient at the start and {random['angle at end']:.0f}° at the end."
        )
    return " ".join(said)


def draw(result: Result) -> Any:
    """Test errors with the intervals of their means, and the angles over the epochs."""
    figure, (left, right) = axes_of(5.4, 3.8, 2)
    names = list(dict.fromkeys(result.column("network")))
    ways = list(dict.fromkeys(result.column("way back")))
    for number, name in enumerate(names):
        rows = [row for row in result.rows if row["network"] == name]
        places = [place + 0.2 * (number - 0.5) for place in range(len(rows))]
        reach = [row["high"] - row["test error %"] for row in rows]
        left.errorbar([row["test error %"] for row in rows], places, xerr=reach, fmt="o", capsize=3, label=name)
    left.set_yticks(range(len(ways)), ways)
    left.invert_yaxis()
    left.set(xlabel="test error, % (95 % interval of the mean)")
    left.set_xlim(left=0)
    left.legend(frameon=False, loc="upper right")
    for name, angles in result.curves.items():
        network, _, way = name.rpartition(", ")
        solid = network == names[0]
        right.plot(angles, "-" if solid else "--", color=f"C{ways.index(way)}", label=way if solid else None)
    right.axhline(90, color="0.6", linewidth=0.8)
    right.set(xlabel="epoch", ylabel="first layer's update to its gradient, degrees", ylim=(0, 120))
    dashed = f" (dashed: {names[1]})" if len(names) > 1 else ""
    right.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 0.2), title=f"{names[0]}{dashed}")
    return figure
