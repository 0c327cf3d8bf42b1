"""What hardens a network against adversarial inputs, and what it costs: one table on MNIST and on CIFAR-10.

Published, in per cent of test images right, clean and under AutoAttack:

    MNIST, L∞ ε = 0.3        adversarial training with PGD-40 (Madry et al. 2018)               98.53   88.50
                             TRADES, small convolutional network (Zhang et al. 2019)            99.48   92.81
    CIFAR-10, L∞ ε = 8/255   adversarial training with PGD-7, wide ResNet (Madry et al. 2018)   87.14   44.04
                             Free, wide ResNet (Shafahi et al. 2019)                            86.11   41.47
                             Fast, pre-activation ResNet-18 (Wong et al. 2020)                  83.34   43.21
                             TRADES, wide ResNet-34-10 (Zhang et al. 2019)                      84.92   53.08

What is said of it: adversarial training takes several times as long and loses accuracy on clean images; augmentation
and label smoothing alone help a little; noise of the same size is no substitute for an attack.

Source: Madry et al., "Towards deep learning models resistant to adversarial attacks", 2018; the robust accuracies from
Croce, Hein, "Reliable evaluation of adversarial robustness", 2020, tables 2 and 4.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cutaway import nets
from cutaway.attack import Effort, auto_attack, wilson
from cutaway.data import Dataset, augmentation, load
from cutaway.errors import nearest
from cutaway.experiments.result import Result, axes_of
from cutaway.experiments.workers import side_by_side
from cutaway.rng import seeded
from cutaway.train import Run, fit
from cutaway.train.adversaries import FGSM, PGD, TRADES, Fast, Free, Noise
from cutaway.train.adversary import Adversary
from cutaway.train.batches import Augment
from cutaway.train.record import write_atomically

PUBLISHED = {  # (data, way): clean and robust accuracy, %
    ("mnist", "PGD"): (98.53, 88.50),
    ("mnist", "TRADES"): (99.48, 92.81),
    ("cifar10", "Free"): (86.11, 41.47),
    ("cifar10", "Fast"): (83.34, 43.21),
    ("cifar10", "PGD"): (87.14, 44.04),
    ("cifar10", "TRADES"): (84.92, 53.08),
}


def mnist_network(seed: int = 0, widths: tuple[int, int, int] = (24, 48, 128)) -> nn.Module:
    """Two strided convolutions and two linear layers behind two thresholds.

    Adversarial training turns filters of a first layer into thresholds, which pixels near 0 or 1 cannot be pushed
    across (Madry et al. 2018, appendix C); beginning with them saves most of the training. They are trained like
    everything else, and leak, so that their gradient shows attacks the way from everywhere.

    >>> mnist_network()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    a, b, c = widths
    with seeded(seed):
        thresholds = nn.Conv2d(1, 2, 1)
        with torch.no_grad():
            thresholds.weight.fill_(2.5)
            thresholds.bias.copy_(-2.5 * torch.tensor([0.3, 0.7]))  # pyright: ignore[reportOptionalMemberAccess]
        return nn.Sequential(
            *[thresholds, nn.LeakyReLU(0.05)],  # (N, 2, 28, 28)
            *[nn.Conv2d(2, a, 4, 2, 1), nn.ReLU()],  # (N, a, 14, 14)
            *[nn.Conv2d(a, b, 4, 2, 1), nn.ReLU(), nn.Flatten()],  # (N, b, 7, 7)
            *[nn.Linear(49 * b, c), nn.ReLU(), nn.Linear(c, 10)],
        )


def cifar_network(seed: int = 0, depth: int = 8) -> nn.Module:
    """A small ResNet that standardises its images itself."""
    with seeded(seed):
        return nets.normalized(nets.resnet_cifar(depth), (0.491, 0.482, 0.447), (0.247, 0.243, 0.262))


@dataclass(frozen=True)
class Problem:
    """One set of images and how the networks are trained and attacked on it.

    Attributes:
        make: the network, from a seed.
        eps: radius of the L∞ ball.
        small: a smaller radius, at which training without attacks keeps something; attacked with `SHORT`.
        examples, epochs: training images, and passes over them.
        augment: the augmentation that is tried.
        everywhere: whether the adversarial ways are augmented as well.
        steps: of PGD and TRADES in training.
        beta: of TRADES.
        images, effort: test images attacked, and how hard.
    """

    make: Callable[[int], nn.Module]
    eps: float
    small: float
    examples: int
    epochs: int
    augment: Augment
    steps: int
    beta: float
    images: int
    effort: Effort
    everywhere: bool = False
    training: Mapping[str, Any] = field(default_factory=lambda: {"lr": 3e-3, "batch_size": 128})


SHORT = Effort(steps=20, targets=3, queries=300)
_AFFINE = augmentation(("affine", {"degrees": 10.0, "scale": (0.9, 1.1), "skew": 0.0, "pixels": 1.0}))
_FLIP = augmentation("flip", ("shift", {"pixels": 4}))
QUICK: dict[str, Problem] = {
    "mnist": Problem(mnist_network, 0.3, 0.1, 6000, 8, _AFFINE, 5, 1.0, 200, Effort()),
    "cifar10": Problem(cifar_network, 8 / 255, 1 / 255, 4000, 8, _FLIP, 5, 6.0, 100, Effort()),
}
FULL: dict[str, Problem] = {
    "mnist": replace(
        QUICK["mnist"], make=partial(mnist_network, widths=(32, 64, 200)), examples=60_000, epochs=15, steps=7,
        images=1000, everywhere=True,
    ),
    "cifar10": replace(
        QUICK["cifar10"], make=partial(cifar_network, depth=20), examples=50_000, epochs=30, steps=7, images=500,
        everywhere=True,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Way:
    """One way of training.

    Attributes:
        adversary: from a problem.
        settings: of `fit`.
        augmented: whether this is the augmentation itself.
    """

    adversary: Callable[[Problem], Adversary] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    augmented: bool = False


RISE = 0.4  # share of the training in which ε rises
WAYS: dict[str, Way] = {
    "plain": Way(),
    "augmentation": Way(augmented=True),
    "label smoothing": Way(settings={"label_smoothing": 0.1}),
    "noise": Way(lambda p: Noise(eps=p.eps)),
    "FGSM": Way(lambda p: FGSM(p.eps, warm_up=RISE)),
    "Fast": Way(lambda p: Fast(p.eps, warm_up=RISE)),
    "Free": Way(lambda p: Free(p.eps, replays=4)),
    "PGD": Way(lambda p: PGD(p.eps, p.steps, 2 * p.eps / p.steps, warm_up=RISE)),
    "TRADES": Way(lambda p: TRADES(p.eps, p.steps, 2 * p.eps / p.steps, p.beta, warm_up=RISE)),
}


def adversarial_training(
    data: str | Sequence[str] = ("mnist", "cifar10"),
    ways: str | Sequence[str] = (),
    full: bool = False,
    seed: int = 0,
    examples: int | None = None,
    epochs: int | None = None,
    images: int | None = None,
    out: str | Path | None = None,
    progress: bool = True,
    workers: int | None = 1,
) -> Result:
    """Train in nine ways, and measure accuracy on clean and on attacked test images, and the cost.

    Args:
        data: "mnist", "cifar10" or both.
        ways: names of `WAYS`; all by default.
        full: all training images and larger networks; hours instead of minutes.
        seed: of networks, training and attack.
        examples, epochs, images: instead of the table's, for trying it out: training images, passes, images attacked.
        out: folder in which finished rows, trainings and attacks are kept, so that a run that was stopped goes on.
        progress: show a bar on the terminal.
        workers: ways trained at a time, each in a process of its own; None for one per core.

    Raises:
        LookupFailure: for an unknown set of images or way.
        DataError: the images are missing; where they are looked for is said.

    >>> adversarial_training("mnist", ["plain", "PGD"]).plot()  # doctest: +SKIP
    """
    table = FULL if full else QUICK
    wanted = [ways] if isinstance(ways, str) else list(ways or WAYS)
    names = [data] if isinstance(data, str) else list(data)
    for name, known, what in [*((n, table, "set of images") for n in names), *((w, WAYS, "way") for w in wanted)]:
        if name not in known:
            raise nearest(name, known, what)
    changes = {"examples": examples, "epochs": epochs, "images": images}
    given = {key: value for key, value in changes.items() if value is not None}
    jobs = {}
    for name in names:
        problem = replace(table[name], **given)
        for way in wanted:
            size = f"{problem.examples}x{problem.epochs}-{problem.images}-{seed}"
            label = f"{name}-{way}-{size}{'-full' if full else ''}".replace(" ", "-").lower()
            place = None if out is None else Path(out) / "ways" / label
            jobs[f"{name}, {way}"] = partial(_kept, name, way, problem, seed, place, progress)
    rows = tuple(side_by_side(jobs, workers, progress).values())
    settings = {"data": names, "ways": wanted, "full": full, "seed": seed, **changes}
    return Result("adversarial_training", rows, read(rows), settings, draw)


def _kept(name: str, way: str, problem: Problem, seed: int, place: Path | None, progress: bool) -> dict[str, Any]:
    """The row that was measured before, or that is measured now."""
    clean, robust = PUBLISHED.get((name, way), (None, None))
    head = {"data": name, "way": way, "published clean": clean, "published robust": robust}
    file = None if place is None else place / "row.json"
    if file is not None and file.exists():
        return head | json.loads(file.read_text("utf-8"))
    train, _, test = load(name, validation=1000)
    row = _row(problem, WAYS[way], train[: problem.examples], test[: problem.images], seed, place, progress)
    if file is not None:
        write_atomically(file, json.dumps(row, indent=1).encode())
    return head | row


def _row(
    problem: Problem, way: Way, train: Dataset, test: Dataset, seed: int, place: Path | None, progress: bool
) -> dict[str, Any]:
    """Train one network and attack it."""
    run = _train(problem, way, train, seed, None if place is None else place / "run", progress)
    found, weak = (
        auto_attack(
            run.model, test.x, test.y, eps=eps, effort=effort, seed=seed, progress=progress,
            state=None if place is None else place / f"{name}.safetensors",
        )
        for name, eps, effort in (("attack", problem.eps, problem.effort), ("small", problem.small, SHORT))
    )  # fmt: skip
    clean = wilson(int(found.settings["survivors"]["clean"]), len(test))
    robust, small = (wilson(int((~each.success).sum()), len(test)) for each in (found, weak))
    gradients = sum(run.history.get("gradients", [1] * len(run.history["epoch"])))
    row: dict[str, Any] = {
        "clean %": 100 * clean.value, "clean low": 100 * clean.low, "clean high": 100 * clean.high,
        "robust %": 100 * robust.value, "low": 100 * robust.low, "high": 100 * robust.high, "n": len(test),
        "eps": problem.eps, "epochs": len(run.history["epoch"]), "gradients per example": gradients,
        "seconds": run.seconds, "small eps": problem.small, "robust at small eps %": 100 * small.value,
        "small low": 100 * small.low, "small high": 100 * small.high,
    }  # fmt: skip
    if found.control is not None:
        row["under noise %"] = 100 * float((~found.control.success).double().mean())
    if "reason" in run.record["result"]:
        row["stopped"] = run.record["result"]["reason"]
    return row


def _train(problem: Problem, way: Way, train: Dataset, seed: int, place: Path | None, progress: bool) -> Run:
    """Train one network; Free gets the gradients of Fast.

    Raises:
        KeyboardInterrupt: training was interrupted, and the experiment with it.
    """
    adversary = None if way.adversary is None else way.adversary(problem)
    replays = 1 if adversary is None else adversary.replays
    epochs = problem.epochs if replays == 1 else math.ceil(2 * problem.epochs / replays)
    augmented = way.augmented or (problem.everywhere and adversary is not None)
    run = fit(
        problem.make(seed), train, epochs=epochs, seed=seed, schedule="one_cycle", adversary=adversary,
        augment=problem.augment if augmented else None, out=place, resume=place is not None and place.exists(),
        progress=progress, **problem.training, **way.settings,
    )  # fmt: skip
    if run.status == "interrupted":
        raise KeyboardInterrupt
    return run


def read(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say what the rows mean.

    >>> cheap = {"data": "mnist", "way": "plain", "clean %": 99.0, "robust %": 0.0, "high": 3.7, "low": 0.0}
    >>> cheap |= {"gradients per example": 8, "seconds": 4.0, "eps": 0.3, "n": 100}
    >>> cheap |= {"small eps": 0.1, "robust at small eps %": 50.0}
    >>> hard = {**cheap, "way": "PGD", "clean %": 98.0, "robust %": 80.0, "gradients per example": 48, "seconds": 20.0}
    >>> read([cheap, hard]).partition("PGD: ")[2]
    '98 % clean (−1 points), 80 % robust (+80; at the smaller ε ±0), 6.0 times the gradients, 5.0 times the time.'
    """
    said = []
    for data in dict.fromkeys(row["data"] for row in rows):
        mine = {row["way"]: row for row in rows if row["data"] == data}
        first = next(iter(mine.values()))
        said.append(
            f"On {data} at L∞ ε = {first['eps']:.3g}, {first['n']} images, {first['way']} training: "
            f"{first['clean %']:.0f} % clean, {first['robust %']:.0f} % robust"
            f" ({first['robust at small eps %']:.0f} % at ε = {first['small eps']:.2g})."
        )
        for way, row in list(mine.items())[1:]:
            times = row["gradients per example"] / first["gradients per example"]
            longer = row["seconds"] / max(first["seconds"], 1e-9)
            said.append(
                f"{way}: {row['clean %']:.0f} % clean ({_signed(row['clean %'] - first['clean %'])} points), "
                f"{row['robust %']:.0f} % robust ({_signed(row['robust %'] - first['robust %'])}; at the smaller ε "
                f"{_signed(row['robust at small eps %'] - first['robust at small eps %'])}), "
                f"{times:.1f} times the gradients, {longer:.1f} times the time."
            )
        said += [f"{way} training was stopped: {row['stopped']}." for way, row in mine.items() if "stopped" in row]
    return " ".join(said)


def _signed(value: float) -> str:
    return f"{value:+.0f}".replace("-", "−").replace("+0", "±0").replace("−0", "±0")


def draw(result: Result) -> Any:
    """Clean and robust accuracy of each way with intervals; the cost beside the name."""
    sets = list(dict.fromkeys(result.column("data")))
    figure, axes = axes_of(4.8, 4.0, len(sets))
    for axis, name in zip([axes] if len(sets) == 1 else axes, sets, strict=True):
        rows = [row for row in result.rows if row["data"] == name][::-1]
        for shift, value, low, high, colour, label in (
            (0.2, "clean %", "clean low", "clean high", "0.75", "clean"),
            (-0.2, "robust %", "low", "high", "C0", "AutoAttack"),
        ):
            middle = [row[value] for row in rows]
            reach = [[m - row[low] for m, row in zip(middle, rows, strict=True)],
                     [row[high] - m for m, row in zip(middle, rows, strict=True)]]  # fmt: skip
            places = [place + shift for place in range(len(rows))]
            axis.barh(places, middle, 0.38, xerr=reach, color=colour, label=label, error_kw={"elinewidth": 0.8})
        small = [row["robust at small eps %"] for row in rows]
        axis.plot(small, range(len(rows)), "D", color="C1", markersize=4, label="AutoAttack, smaller ε")
        known = [(row["published robust"], place - 0.2) for place, row in enumerate(rows) if row["published robust"]]
        if known:
            axis.plot(*zip(*known, strict=True), "x", color="C3", markersize=6, label="published, full training")
        axis.set_yticks(range(len(rows)), [f"{row['way']} ({row['gradients per example']})" for row in rows])
        title = f"{name}, L∞ ε = {rows[0]['eps']:.3g} (◆ {rows[0]['small eps']:.2g})"
        axis.set(xlabel="test accuracy (%)", xlim=(0, 102), title=title)
    first = axes if len(sets) == 1 else axes[0]
    first.set_ylabel("training (gradients per example)")
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure
