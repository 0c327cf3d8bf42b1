"""Augmentation: pictures, sounds and texts of each kind, and what each brings when labels are few.

What is known: an augmentation helps where it makes what the test data differ by and keeps the label; where it makes
something else of the example, as a mirrored digit, it hurts. What is trained with it stands it better.

Source: Simard, Steinkraus, Platt, "Best practices for convolutional neural networks applied to visual document
analysis", 2003; Salamon, Bello, "Deep convolutional neural networks and data augmentation for environmental sound
classification", 2017.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

from cutaway import data, nets
from cutaway.data.arrays import read_npz
from cutaway.data.files import find
from cutaway.errors import DataError
from cutaway.experiments.result import Result, finished, measured
from cutaway.progress import track
from cutaway.rng import generator
from cutaway.train import evaluate, fit_many, spread

SMALL: dict[str, dict[str, Any]] = {  # for digits of 8 pixels; the others as they are
    "shift": {"pixels": 1, "fill": 0.0}, "affine": {"pixels": 0.5}, "cutout": {"size": 3}, "blur": {"sigma": 0.5},
}  # fmt: skip
SEEN: dict[str, dict[str, dict[str, Any]]] = {  # strong enough to be seen in the figure
    "image": {
        "flip": {"probability": 1.0}, "shift": {"pixels": 50}, "rotate": {"degrees": 40}, "skew": {"degrees": 40},
        "affine": {"degrees": 30, "skew": 20, "pixels": 30}, "scale": {"low": 0.5, "high": 0.6}, "blur": {"sigma": 6},
        "brightness": {"amount": 0.6}, "contrast": {"amount": 0.8}, "color": {"amount": 0.6}, "noise": {"sigma": 0.15},
        "cutout": {"size": 60},
    },
    "sound": {
        "pitch": {"low": 7, "high": 7}, "speed": {"low": 1.5, "high": 1.5}, "tempo": {"low": 1.5, "high": 1.5},
        "noise": {"low": 5, "high": 5}, "shift": {"share": 0.3},
    },
    "text": {"synonyms": {"share": 1.0}, "typos": {"share": 0.5}},
}  # fmt: skip
COPIES, SAMPLES, RATE = 8, 4800, 8000  # of every sound and text; of a sound; a second
SPEAKERS, WORDS = 10, 40  # who are told apart; in a passage


def augmentation(
    seeds: int = 8, labels: int = 100, epochs: int = 100, name: str = "digits", photo: str = "", progress: bool = True
) -> Result:
    """Train on few labels with each augmentation, and show each on a photograph, a sound and a text.

    Spoken digits and passages of plays, by speaker, are trained on too where the folder CUTAWAY_DATA holds
    `spoken_digits.npz` and `tinyshakespeare.txt`.

    Args:
        seeds: replicates of each row, all on the same labels.
        labels: training examples, as many of each class.
        epochs: passes over them.
        name: the images, as `load` knows them.
        photo: path of a photograph for the figure; by default one that is embedded.
        progress: show a bar on the terminal.

    >>> augmentation(seeds=2).plot()  # doctest: +SKIP
    """
    whole, _, test = data.load(name)
    train = whole[data.stratified(whole.y, labels, 0)[1]]
    settings = SMALL if train.shape[-1] <= 8 else {}
    rows, plain = [], None
    for way in track(["nothing", *data.AUGMENTATIONS], "training on few images", progress):
        step = None if way == "nothing" else data.augmentation((way, settings.get(way, {})))
        if way == "color" and train.shape[0] == 1:
            continue
        runs = _trained(train.x, train.y, test.x, test.y, seeds, epochs, augment=step)
        plain = runs if step is None else plain
        moved = test.x if step is None else step(test.x, generator(0, "augmented test"))
        rows.append(_row(name, way, runs) | _under(plain, runs, moved, test.y))
    rows += _spoken(seeds, labels, epochs, progress) + _written(seeds, labels, epochs, progress)
    picture = data.read_image(photo, (160, 240))[None] if photo else _sample()
    record = {"seeds": seeds, "labels": labels, "epochs": epochs, "name": name}
    return Result("augmentation", tuple(rows), read(rows), record, draw, {"photo": picture})


def _trained(x: Tensor, y: Tensor, held: Tensor, wanted: Tensor, seeds: int, epochs: int, **settings: Any) -> Any:
    def make(seed: int) -> nn.Module:
        return nets.make("mlp", held[0].numel(), 64, int(y.max()) + 1, seed=seed)

    return finished(fit_many(
        make, (x, y), test=(held, wanted), seeds=range(seeds), epochs=epochs, batch_size=20, lr=3e-3, progress=False,
        schedule="constant", **settings,
    ))  # fmt: skip


def _row(what: str, way: str, runs: Any) -> dict[str, Any]:
    return {"data": what, "way": way, **measured("test accuracy %", spread(100 * one["accuracy"] for one in runs.test))}


def _under(plain: Any, runs: Any, x: Tensor, y: Tensor) -> dict[str, float]:
    """Accuracy on augmented test data of networks trained without and with it."""
    means = [spread(100 * evaluate(m, (x, y), ["accuracy"])["accuracy"] for m in r.models).mean for r in (plain, runs)]
    return {"augmented test, trained plainly %": means[0], "trained with it %": means[1]}


def _spoken(seeds: int, labels: int, epochs: int, progress: bool) -> list[dict[str, Any]]:
    """Spoken digits; nothing without the file."""
    try:
        arrays = read_npz(find("spoken_digits.npz", "It holds audio, offsets, label and is_test."))
    except DataError:
        return []
    x = torch.zeros(len(arrays["label"]), SAMPLES)
    for i, (start, stop) in enumerate(zip(arrays["offsets"], arrays["offsets"][1:], strict=False)):
        piece = torch.from_numpy(arrays["audio"][start:stop][:SAMPLES].astype(np.float32) / 32768)
        x[i, : len(piece)] = piece
    y, held = torch.from_numpy(arrays["label"].astype(np.int64)), torch.from_numpy(arrays["is_test"].astype(bool))
    chosen = (~held).nonzero()[:, 0][data.stratified(y[~held], labels, 0)[1]]
    few = Few("sound", "spoken digits", x[chosen], y[chosen], x[held], y[held], _spectra)
    return _with_copies(few, seeds, epochs, progress)


def _written(seeds: int, labels: int, epochs: int, progress: bool) -> list[dict[str, Any]]:
    """Passages of plays, by who speaks them, the last third of each for testing; nothing without the file."""
    try:
        whole = find("tinyshakespeare.txt", "It holds speeches under their speakers' names.").read_text("utf-8")
    except DataError:
        return []
    said: dict[str, list[str]] = {}
    for speech in whole.split("\n\n"):
        speaker, _, words = speech.partition(":\n")
        said.setdefault(speaker, []).extend(words.split())
    most = sorted(said, key=lambda speaker: -len(said[speaker]))[:SPEAKERS]
    parts: list[tuple[str, int, bool]] = []
    for number, speaker in enumerate(most):
        words = said[speaker]
        texts = [" ".join(words[i : i + WORDS]) for i in range(0, len(words) - WORDS + 1, WORDS)]
        parts += [(text, number, 3 * i >= 2 * len(texts)) for i, text in enumerate(texts)]
    y, held = torch.tensor([part[1] for part in parts]), torch.tensor([part[2] for part in parts])
    chosen = (~held).nonzero()[:, 0][data.stratified(y[~held], labels, 0)[1]]
    some, others = ([parts[i][0] for i in rows.tolist()] for rows in (chosen, held.nonzero()[:, 0]))
    return _with_copies(Few("text", "passages", some, y[chosen], others, y[held], _trigrams), seeds, epochs, progress)


@dataclass(frozen=True)
class Few:
    """Few labelled sounds or texts, those they are tested on, and what makes numbers of them."""

    kind: str
    name: str
    x: Any
    y: Tensor
    held: Any
    wanted: Tensor
    features: Callable[[Any], Tensor]


def _with_copies(few: Few, seeds: int, epochs: int, progress: bool) -> list[dict[str, Any]]:
    """Train with copies of each that are made beforehand."""
    test, rows, plain = few.features(few.held), [], None
    for way in track(["nothing", *data.KINDS[few.kind]], f"training on few {few.name}", progress):
        step = (lambda z, _: z) if way == "nothing" else data.augmentation(way, of=few.kind)
        made = [few.features(few.x), *(few.features(step(few.x, generator(i, "copies"))) for i in range(COPIES))]
        passes = max(1, epochs // COPIES)
        runs = _trained(torch.cat(made), few.y.repeat(COPIES + 1), test, few.wanted, seeds, passes)
        plain = runs if way == "nothing" else plain
        moved = few.features(step(few.held, generator(0, "augmented test")))
        rows.append(_row(few.name, way, runs) | _under(plain, runs, moved, few.wanted))
    return rows


def _trigrams(texts: list[str], count: int = 1024) -> Tensor:
    """How often groups of three letters occur, each at a place of its own or shared by chance, `(N, count)`."""
    found = torch.zeros(len(texts), count)
    for row, text in zip(found, texts, strict=True):
        for i in range(len(text) - 2):
            row[crc32(text[i : i + 3].lower().encode()) % count] += 1
    return torch.nn.functional.normalize(found.sqrt(), dim=1) * 4


def _spectra(x: Tensor, bands: int = 32, times: int = 12) -> Tensor:
    """Logarithm of the power in bands by times, `(N, 1, bands, times)`, centred for each sound."""
    power = torch.stft(x, 256, 64, window=torch.hann_window(256), pad_mode="constant", return_complex=True).abs() ** 2
    pooled = torch.nn.functional.adaptive_avg_pool2d(power[:, None], (bands, times)).add(1e-6).log()
    return (pooled - pooled.mean((2, 3), keepdim=True)) / 4


def _sample() -> Tensor:
    """An embedded photograph `(1, 3, 160, 240)`."""
    whole = torch.from_numpy(np.array(load_sample_image("flower.jpg"))).permute(2, 0, 1)[None] / 255
    return torch.nn.functional.interpolate(whole, (160, 240), mode="area")


def read(rows: list[dict[str, Any]]) -> str:
    """Say what the rows mean."""
    said = []
    for what in dict.fromkeys(row["data"] for row in rows):
        plain, *others = [row for row in rows if row["data"] == what]
        groups = {
            "clearly better": [row["way"] for row in others if row["low"] > plain["high"]],
            "clearly worse": [row["way"] for row in others if row["high"] < plain["low"]],
        }
        groups["not to be told apart"] = [r["way"] for r in others if not any(r["way"] in g for g in groups.values())]
        before, after = list(others[0])[-2:]
        sturdy = max(others, key=lambda row: row[after] - row[before])
        said.append(
            f"{what}: {plain['test accuracy %']:.1f} ± {plain['sd']:.1f} % of the test data are right without it. "
            f"{'; '.join(k + ': ' + (', '.join(v) or 'none') for k, v in groups.items())}. Networks stand "
            f"{sturdy['way']} best by training with it: {sturdy[before]:.1f} to {sturdy[after]:.1f} %."
        )
    return " ".join(said)


def draw(result: Result) -> Any:
    """The photograph, a melody and a sentence under each augmentation, and the accuracies with their intervals."""
    from matplotlib.figure import Figure  # matplotlib only where something is drawn

    figure = Figure(figsize=(13.5, 9.5), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(3, 2.2))
    top, bottom = parts
    time, cells = torch.arange(RATE) / RATE, iter(top.subplots(3, 7).flat)
    notes = [(440, 0.0), (880, 0.0), (554, 0.3), (1108, 0.3), (659, 0.6), (1318, 0.6)]  # Hz, seconds
    tune = sum((2 * math.pi * f * time).sin() * (-4 * (time - at)).exp() * (time >= at) / 4 for f, at in notes)
    for what, x in {"image": result.curves["photo"], "sound": torch.as_tensor(tune)[None]}.items():
        for way in ("as it is", *data.KINDS[what]):
            axis = next(cells)
            step = data.augmentation(*[] if way == "as it is" else [(way, SEEN[what].get(way, {}))], of=what)
            y = step(x, generator(4, way))[0]
            if what == "image":
                axis.imshow(y.permute(1, 2, 0).numpy())
            else:
                power = torch.stft(y, 512, 64, window=torch.hann_window(512), return_complex=True).abs()
                levels = power[:128].add(1e-3).log().numpy()
                axis.imshow(levels, origin="lower", aspect="auto", vmin=-5, vmax=4, cmap="magma")
            axis.set_title(way, fontsize=9)
            axis.set_axis_off()
    kinds = list(dict.fromkeys(result.column("data")))
    for what, axis in zip(kinds, bottom.subplots(1, len(kinds), squeeze=False)[0], strict=True):
        rows = [row for row in result.rows if row["data"] == what]
        means = [row["test accuracy %"] for row in rows]
        reach = [row["high"] - row["test accuracy %"] for row in rows]
        axis.errorbar(means, range(len(rows)), xerr=reach, fmt="o", capsize=3)
        axis.axvline(means[0], color="0.7", linewidth=0.8)
        axis.set_yticks(range(len(rows)), [row["way"] for row in rows])
        axis.invert_yaxis()
        axis.set(xlabel="test accuracy, % (95 % interval of the mean)", title=what)
        axis.spines[["top", "right"]].set_visible(False)
    text = "The clever child quickly showed a big picture of the ancient forest."
    said = [
        f"{way}: {data.augmentation((way, how), of='text')([text], generator(4))[0]}"
        for way, how in SEEN["text"].items()
    ]
    bottom.supxlabel("\n".join([f"text: {text}", *said]), fontsize=9)
    return figure
