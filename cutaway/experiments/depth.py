"""Deeper plain networks are worse, deeper residual ones are not.

Published, CIFAR-10 test error in % after 64,000 steps of 128 images:

    plain-20   about 9       ResNet-20   8.75
    plain-56   about 13      ResNet-56   6.97
                             ResNet-110  6.43 (6.61 ± 0.16), ResNet-1202 7.93

The plain networks differ in *training* error (figure 6): it is the descent that fails, not the generalisation. On a
processor the schedule here is a small part of that; what it can show is how fast the training loss falls.

Source: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", 2016, section 4.2 and table 6.
"""

from collections.abc import Sequence
from typing import Any

import torch

from cutaway import nets
from cutaway.data import augmentation, load
from cutaway.errors import nearest
from cutaway.experiments.result import Result, axes_of, tested
from cutaway.train import fit, spread

PUBLISHED = {"plain20": None, "plain56": None, "resnet20": 8.75, "resnet56": 6.97, "resnet110": 6.43}
_MOVED = augmentation("flip", ("shift", {"pixels": 4, "fill": 0.0}))


def depth(
    networks: Sequence[str] = ("plain20", "plain56", "resnet20", "resnet56"),
    seeds: int = 1,
    examples: int = 1500,
    epochs: int = 4,
    full: bool = False,
    device: str | None = None,
    progress: bool = True,
) -> Result:
    """Train plain and residual networks of CIFAR's design, and compare their training losses.

    Args:
        networks: of `PUBLISHED`.
        seeds: replicates of each.
        examples: training images.
        epochs: passes over them.
        full: the published schedule: 45,000 images, 182 epochs of 128, a tenth of the rate at half and three quarters.
        device: where to train.
        progress: show a bar on the terminal.

    Raises:
        LookupFailure: for an unknown network.

    >>> depth(["plain20", "resnet20"], examples=500).plot()  # doctest: +SKIP
    """
    for name in networks:
        if name not in PUBLISHED:
            raise nearest(name, PUBLISHED, "network")
    whole, _, test = load("cifar10")
    train = whole if full else whole[:examples]
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    settings: dict[str, Any] = {"epochs": 182 if full else epochs, "batch_size": 128 if full else 32}
    settings["lr"] = 0.1 * settings["batch_size"] / 128  # the published rate is for 128 images
    settings |= {
        "optimizer": "momentum",
        "weight_decay": 1e-4,
        "schedule": "staircase",
        "warm_up": 0.0 if full else 0.1,
    }
    rows, curves = [], {}
    for name in networks:
        losses, errors = [], []
        for seed in range(seeds):
            model = nets.normalized(nets.make(f"{name}_cifar", seed=seed), nets.IMAGENET["mean"], nets.IMAGENET["std"])
            run = fit(model, train, test=test, device=place, augment=_MOVED, seed=seed, progress=progress, **settings)
            losses.append(run.history["loss"])
            errors.append(100 * (1 - tested(run)["accuracy"]))
        curves[name] = [sum(values) / seeds for values in zip(*losses, strict=True)]
        found = spread(errors)
        rows.append({
            "network": name, "train loss": curves[name][-1], "test error %": found.mean, "sd": found.sd, "n": seeds,
            "published (full schedule)": PUBLISHED[name],
        })  # fmt: skip
    asked = {"networks": list(networks), "seeds": seeds, "examples": len(train), **settings}
    return Result("depth", tuple(rows), read(rows), asked, draw, curves)


def read(rows: list[dict[str, Any]]) -> str:
    """Say what the rows mean."""
    losses = {row["network"]: row["train loss"] for row in rows}
    said = []
    for kind in ("plain", "resnet"):
        same = {name: loss for name, loss in losses.items() if name.startswith(kind)}
        if len(same) > 1:
            shallow, *_, deep = same
            word = "higher" if same[deep] > same[shallow] else "lower"
            values = f"({same[deep]:.2f}, {same[shallow]:.2f})"
            said.append(f"the training loss of {deep} is {word} than that of {shallow} {values}")
    return f"After the same short schedule {'; '.join(said)}." if said else f"Training losses: {losses}."


def draw(result: Result) -> Any:
    """Training loss over the epochs; plain networks dashed."""
    figure, axis = axes_of(5.4, 3.6)
    for name, losses in result.curves.items():
        color = "C0" if name.endswith("20") else "C3" if name.endswith("56") else "C2"
        axis.plot(range(1, len(losses) + 1), losses, "--" if name.startswith("plain") else "-", color=color, label=name)
    axis.set(xlabel="epoch", ylabel="training loss")
    axis.legend(frameon=False)
    return figure
