"""The panda that becomes a gibbon: how often real networks are fooled on real photographs, by how little.

What is known: GoogLeNet gives a picture of a panda 57.7 %, and 99.3 % to "gibbon" after one step of FGSM with ε = .007,
which is less than two steps of an 8-bit image. On all of ImageNet, one step of ε = 2/255 takes most of an ordinary
network's top-1 accuracy; with 16/255 iterated attacks leave next to nothing. Random noise of the same size does little.

Source: Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial examples", 2015, figure 1; Kurakin,
Goodfellow, Bengio, "Adversarial machine learning at scale", 2017, section 4.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cutaway import attack, nets
from cutaway.attack import Attack
from cutaway.data import Dataset, load
from cutaway.data.files import find
from cutaway.errors import ArgumentError, nearest
from cutaway.experiments.result import Result, axes_of
from cutaway.progress import bar
from cutaway.rng import generator

EPS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # in steps of 1/255
PUBLISHED = {"eps": 0.007, "panda before %": 57.7, "gibbon after %": 99.3}
PANDA, GIBBON = "giant panda", "gibbon"

# name: side of the image, settings of the constructor, preprocessing
NETWORKS: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "squeezenet1_0": (227, {}, nets.IMAGENET),
    "mobilenet_v2": (224, {"padding": "same"}, {"mean": 0.5, "std": 0.5}),
}


def panda(
    networks: Sequence[str] = tuple(NETWORKS),
    eps: Sequence[float] = EPS,
    images: int = 120,
    steps: int = 10,
    seed: int = 0,
    batch_size: int = 20,
    progress: bool = True,
) -> Result:
    """Fool networks with ImageNet weights by random noise, FGSM, PGD and PGD towards a random class, over ε.

    Args:
        networks: names of `NETWORKS`, whose weights are files in the data folder.
        eps: radii in steps of 1/255, in the L∞ norm.
        images: how many of the 120 sample photographs, evenly spread over the classes.
        steps: of PGD.
        seed: of starts, noise and targets.
        batch_size: photographs given to the network at once.
        progress: show a bar on the terminal.

    Raises:
        DataError: photographs or weights are in none of the data folders.

    >>> panda(images=20).plot()  # doctest: +SKIP
    """
    for name in networks:
        if name not in NETWORKS:
            raise nearest(name, NETWORKS, "network with weights")
    if images < 1 or not eps or min(eps) <= 0:
        raise ArgumentError(f"images={images}, eps={tuple(eps)}: expected at least one photograph and radii above 0")
    rows, pandas = [], {}
    opened = {name: _opened(name) for name in networks}  # fails before anything is computed
    with bar("panda", len(networks) * len(eps) * 4, progress) as tick:
        for name, (model, data) in opened.items():
            common = {"seed": seed, "batch_size": batch_size, "progress": False}
            pandas[name] = _panda(model, data, common)
            few = torch.linspace(0, len(data) - 1, min(images, len(data))).round().long()  # of all kinds
            x, y, target = _right(model, data[few], seed, batch_size)
            for step in eps:
                for way, method in _ways(steps, target).items():
                    found = method(model, x, y, eps=step / 255, **common)
                    rows.append(_row(name, way, step, found))
                    tick(f"{name}, {way}, ε = {step:g}/255")
    settings = {"images": images, "steps": steps, "seed": seed, "published": PUBLISHED, "pandas": pandas}
    return Result("panda", tuple(rows), read(rows, pandas), settings, draw)


def _opened(name: str) -> tuple[nn.Module, Dataset]:
    side, settings, preprocessing = NETWORKS[name]
    weights = find(f"{name}.safetensors", f"It holds the ImageNet weights of {name}.")
    model = nets.normalized(nets.load(name, weights, **settings), **preprocessing).eval()
    return model, load("imagenet_samples", size=side)[2]


def _ways(steps: int, target: Tensor) -> dict[str, Callable[..., Attack]]:
    return {
        "random noise": attack.random_noise,
        "FGSM": partial(attack.fgsm, control=False),
        "PGD": partial(attack.pgd, steps=steps, control=False),
        "PGD to a random class": partial(attack.pgd, steps=steps, control=False, target=target),
    }


def _right(model: nn.Module, data: Dataset, seed: int, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The photographs that are classified right, their classes, and a random other class for each."""
    with torch.no_grad():
        seen = torch.cat([model(part).argmax(1) for part in data.x.split(batch_size)])
    shift = torch.randint(1, len(data.classes), (len(data),), generator=generator(seed, "targets"))
    rows = (seen == data.y).nonzero()[:, 0]
    if not len(rows):
        raise ArgumentError(f"none of {len(data)} photographs is classified right; give more of them by images=")
    return data.x[rows], data.y[rows], ((data.y + shift) % len(data.classes))[rows]


def _row(name: str, way: str, step: float, found: Attack) -> dict[str, Any]:
    rate = attack.wilson(int(found.success.sum()), len(found.success))
    row: dict[str, Any] = {"network": name, "attack": way, "eps × 255": step}
    row |= {"success %": 100 * rate.value, "low": 100 * rate.low, "high": 100 * rate.high, "n": len(found.success)}
    return row | {"confidence after %": 100 * found.confidence_after.double().mean().item()}


def _panda(model: nn.Module, data: Dataset, common: dict[str, Any]) -> dict[str, Any]:
    """The paper's figure with our panda: before, after FGSM, and after PGD towards the gibbon, all at its ε."""
    label, wanted = data.classes.index(PANDA), data.classes.index(GIBBON)
    x, y = data.x[data.y == label][:1], torch.tensor([label])
    one = attack.fgsm(model, x, y, eps=PUBLISHED["eps"], **common)
    more = attack.pgd(model, x, y, eps=PUBLISHED["eps"], target=wanted, early_stop=False, **common)

    def said(classes: Tensor, sure: Tensor) -> str:
        return f"{data.classes[int(classes)]} {100 * float(sure):.1f} %"

    noise = more.control
    return {
        "before": said(one.before, one.confidence_before),
        "FGSM": said(one.after, one.confidence_after),
        "PGD to gibbon": said(more.after, more.confidence_after),
        "random noise": "" if noise is None else said(noise.after, noise.confidence_after),
    }


def read(rows: list[dict[str, Any]], pandas: dict[str, dict[str, Any]]) -> str:
    """Say what the rows mean."""
    said = []
    for name, seen in pandas.items():
        own = [row for row in rows if row["network"] == name]
        reached = []
        for way in dict.fromkeys(row["attack"] for row in own):
            enough = [row["eps × 255"] for row in own if row["attack"] == way and row["success %"] > 50]
            reached.append(f"{way} from ε = {min(enough):g}/255" if enough else f"{way} at no ε")
        least = min(row["eps × 255"] for row in own)
        noise = next(row for row in own if row["attack"] == "random noise" and row["eps × 255"] == least)
        best = next(row for row in own if row["attack"] == "PGD" and row["eps × 255"] == least)
        said.append(
            f"{name} ({own[0]['n']} photographs that it sees right): over half are changed by {', '.join(reached)}; at "
            f"ε = {least:g}/255 PGD changes {best['success %']:.0f} %, random noise {noise['success %']:.0f} %. "
            f"Its panda: {seen['before']}; with ε = .007 {seen['FGSM']} after FGSM, {seen['PGD to gibbon']} after PGD "
            f"towards the gibbon, {seen['random noise']} after random noise."
        )
    return " ".join(said) + (
        f" The paper's panda, on GoogLeNet: {PUBLISHED['panda before %']} % before, gibbon "
        f"{PUBLISHED['gibbon after %']} % after one step."
    )


def draw(result: Result) -> Any:
    """Success over ε, one panel per network, with 95 % bands."""
    names = list(dict.fromkeys(result.column("network")))
    figure, axes = axes_of(4.6, 3.6, len(names))
    for axis, name in zip(axes if len(names) > 1 else [axes], names, strict=True):
        own = [row for row in result.rows if row["network"] == name]
        for way in dict.fromkeys(row["attack"] for row in own):
            line = [row for row in own if row["attack"] == way]
            place = [row["eps × 255"] for row in line]
            style: dict[str, Any] = (
                {"color": "grey", "linestyle": "--"} if way == "random noise" else {"linestyle": "-"}
            )
            (drawn,) = axis.plot(
                place, [row["success %"] for row in line], marker="o", markersize=3.5, label=way, **style
            )
            axis.fill_between(
                place, [row["low"] for row in line], [row["high"] for row in line], alpha=0.15, color=drawn.get_color()
            )
        axis.set_xscale("log", base=2)
        ticks = sorted({row["eps × 255"] for row in own})
        axis.set_xticks(ticks, [f"{step:g}" for step in ticks])
        axis.minorticks_off()
        axis.set(
            xlabel="ε × 255 (L∞)", ylabel="success (%)", ylim=(-3, 103), title=f"{name}, {own[0]['n']} photographs"
        )
        axis.grid(alpha=0.3)
    (axes if len(names) == 1 else axes[0]).legend(frameon=False, fontsize=8)
    return figure
