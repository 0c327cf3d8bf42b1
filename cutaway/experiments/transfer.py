"""Few labels: train from scratch, train a new head on a pretrained network, or fine-tune all of it.

What is known: features learned on ImageNet carry over; with few labels the head alone is best, with more labels
fine-tuning passes it, and training from scratch needs orders of magnitude more.

Source: Yosinski, Clune, Bengio, Lipson, "How transferable are features in deep neural networks?", 2014; Kornblith,
Shlens, Le, "Do better ImageNet models transfer better?", 2019, figure 7.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from cutaway import nets
from cutaway.data import Dataset, load, stratified
from cutaway.data.files import find
from cutaway.experiments.result import Result, axes_of, measured, tested
from cutaway.rng import seeded
from cutaway.train import fit, predict, spread

WAYS = ("from scratch", "head only", "fine-tuned")
SIDE = 64  # images of 32×32 are enlarged, for a network made for 224×224


def make(classes: int, weights: Path | None, seed: int) -> nn.Module:
    """SqueezeNet with a new last layer, its other weights from ImageNet or drawn."""
    network: Any = nets.make("squeezenet1_0", seed=seed, classes=1000)
    if weights is not None:
        nets.put(network, nets.read(weights), str(weights))
    with seeded(seed):
        network.classifier[1] = nn.Conv2d(512, classes, 1)
        network.classifier[2] = nn.Identity()  # logits may be negative
        nn.init.normal_(network.classifier[1].weight, 0, 0.01)
        nn.init.zeros_(network.classifier[1].bias)
    return nets.normalized(network, nets.IMAGENET["mean"], nets.IMAGENET["std"], size=SIDE)


def transfer(
    labels: Sequence[int] = (10, 100, 1000),
    seeds: int = 2,
    steps: int = 120,
    weights: str | Path | None = None,
    progress: bool = True,
) -> Result:
    """Learn CIFAR-10's classes from few labels in three ways.

    Args:
        labels: how many labelled images in all, the same number of each class.
        seeds: replicates, with other images and other heads.
        steps: of at most 32 images, the same for every way.
        weights: ImageNet weights of SqueezeNet 1.0; `squeezenet1_0.safetensors` of the data folder by default.
        progress: show a bar on the terminal.

    >>> transfer(labels=(10, 100)).plot()  # doctest: +SKIP
    """
    path = (
        find("squeezenet1_0.safetensors", "ImageNet weights of SqueezeNet 1.0.") if weights is None else Path(weights)
    )
    whole, _, test = load("cifar10")
    rows = []
    for count in labels:
        for way in WAYS:
            found = spread(
                100 * _one(way, _few(whole, count, seed), test, path, steps, seed, progress) for seed in range(seeds)
            )
            rows.append({"labels": count, "way": way, **measured("test accuracy %", found)})
    return Result("transfer", tuple(rows), read(rows), {"labels": list(labels), "seeds": seeds, "steps": steps}, draw)


def _few(data: Dataset, count: int, seed: int) -> Dataset:
    """The same number of images of each class."""
    _, chosen = stratified(data.y, count, seed)
    return data[chosen]


def _one(way: str, train: Dataset, test: Dataset, weights: Path, steps: int, seed: int, progress: bool) -> float:
    """Accuracy on test images after training in one way."""
    model = make(len(train.classes), None if way == "from scratch" else weights, seed)
    batch = min(32, len(train))
    epochs = max(1, round(steps * batch / len(train)))
    settings: dict[str, Any] = {"epochs": epochs, "batch_size": batch, "seed": seed, "progress": progress}
    if way == "head only":  # the features are computed once
        body, head = _parts(model)
        pairs = [(predict(body, data.x), data.y) for data in (train, test)]
        run = fit(head, pairs[0], test=pairs[1], lr=3e-3, **settings)
    else:
        rates = {} if way == "from scratch" else {"model.classifier": 1e-3}
        run = fit(
            model, train, test=test, lr=1e-3 if way == "from scratch" else 1e-4, rates=rates, clip=1.0, **settings
        )
    return tested(run)["accuracy"]


def _parts(model: Any) -> tuple[nn.Module, nn.Module]:
    """From images to features, and from features to logits."""
    network = model.model
    body = nets.normalized(network.features, model.mean.flatten(), model.std.flatten(), size=SIDE)
    return body, nn.Sequential(network.classifier, nn.Flatten())


def read(rows: list[dict[str, Any]]) -> str:
    """Say what the rows mean."""
    said = []
    for count in dict.fromkeys(row["labels"] for row in rows):
        found = {row["way"]: row["test accuracy %"] for row in rows if row["labels"] == count}
        best = max(found, key=lambda way: found[way])
        said.append(
            f"{count} labels: " + ", ".join(f"{way} {value:.0f} %" for way, value in found.items()) + f" ({best})"
        )
    return (
        "Test accuracy with " + "; ".join(said) + ". Chance is 10 %; the better features, the fewer labels are needed."
    )


def draw(result: Result) -> Any:
    """Accuracy over the number of labels."""
    figure, axis = axes_of(5.0, 3.6)
    for way in WAYS:
        rows = [row for row in result.rows if row["way"] == way]
        axis.errorbar(
            [row["labels"] for row in rows], [row["test accuracy %"] for row in rows], [row["sd"] for row in rows],
            fmt="o-", capsize=3, label=way,
        )  # fmt: skip
    axis.axhline(10, color="0.7", linewidth=0.8)
    axis.set(xscale="log", xlabel="labelled images", ylabel="test accuracy, % (± sd)", ylim=(0, 100))
    axis.legend(frameon=False)
    return figure
