"""The network of 1989 on handwritten zip codes, rebuilt and made modern step by step, with intervals.

Published, in per cent of 2,007 test digits wrong:

    paper (LeCun et al. 1989), zip codes                            5.0   (0.14 on the training digits)
    rebuilt (Karpathy 2022), digits made of MNIST                   4.09, a lecture on it 4.14
      cross-entropy, no tanh at the output, rate 0.01               4.38
      AdamW, 3e-4 falling to 1e-4, 46 passes                        3.59
      shifts by at most a pixel, 60 passes                          2.19
      ReLU, dropout 0.25 before H3, 80 passes                       1.59, the lecture 2.09
    rebuilt, with 50,000 digits (100 passes)                        2.74, the lecture 3.05
      and made modern                                               1.25, the lecture 1.31

One run has an interval of ±0.9 points at 4 per cent, so that each step is trained from several seeds: the mean of n
runs is compared, with the standard deviation among runs and the 95 % interval of the mean.

Source: LeCun et al., "Backpropagation applied to handwritten zip code recognition", 1989; Karpathy, "Deep neural nets:
33 years ago and 33 years from now", 2022.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cutaway import nets
from cutaway.data import NAMES, augmentation
from cutaway.errors import DataError, nearest
from cutaway.experiments.result import Result, axes_of, finished
from cutaway.experiments.workers import side_by_side
from cutaway.rng import generator
from cutaway.train import evaluate, fit_many, spread
from cutaway.train.record import write_atomically
from cutaway.train.schedules import linear

TRAIN, TEST = 7291, 2007
PAPER = {"train": 0.14, "test": 5.0}
shift = augmentation(("shift", {"pixels": 1, "fill": -1.0}))  # by −1, 0 or 1 along both axes; background comes in


def squared_error(outputs: Float[Tensor, "n k"], targets: Tensor) -> Float[Tensor, " n"]:
    """Mean squared error of outputs in [−1, 1] to 1 at the target class and −1 elsewhere.

    >>> squared_error(SIGNS[:1], torch.tensor([0]))
    tensor([0.])
    """
    return (outputs - SIGNS.to(outputs)[targets]).square().mean(1)


SIGNS = 2 * torch.eye(10) - 1  # (class, output)


@dataclass(frozen=True)
class Step:
    """A step of the story: what is published, how it is trained, what the network is like, what a lecture found."""

    published: float
    passes: int
    training: dict[str, Any]
    network: dict[str, Any] = field(default_factory=dict)
    shifts: bool = False
    digits: int = TRAIN
    lecture: float | None = None


_LOGITS = {"output_activation": "identity"}
_OLD = {"optimizer": "sgd", "lr": 0.03, "loss": squared_error, "schedule": "constant"}
_ADAMW = {"optimizer": "adamw", "lr": 3e-4, "schedule": partial(linear, end=1 / 3)}
_MODERN = {**_LOGITS, "activation": "relu", "dropout": 0.25}

STEPS: dict[str, Step] = {
    "rebuilt": Step(4.09, 23, _OLD, lecture=4.14),
    "cross-entropy": Step(4.38, 23, {"optimizer": "sgd", "lr": 0.01, "schedule": "constant"}, _LOGITS),
    "adamw": Step(3.59, 46, _ADAMW, _LOGITS),
    "shifts": Step(2.19, 60, _ADAMW, _LOGITS, shifts=True),
    "relu and dropout": Step(1.59, 80, _ADAMW, _MODERN, shifts=True, lecture=2.09),
}
FULL: dict[str, Step] = {  # run with full=True
    "rebuilt, 50,000": Step(2.74, 100, _OLD, digits=50_000, lecture=3.05),
    "modern, 50,000": Step(1.25, 80, _ADAMW, _MODERN, shifts=True, digits=50_000, lecture=1.31),
}


def digits(name: str, count: int = TRAIN) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test digits `(N, 1, 16, 16)` in [−1, 1] with their classes.

    Args:
        name: "usps", the zip codes themselves in their own order, or "mnist", digits drawn from MNIST and made smaller.
        count: training digits, for "mnist".
    """
    if name not in ("usps", "mnist"):
        raise nearest(name, ("usps", "mnist"), "set of digits")
    parts = NAMES[name]()  # whole, in their own order; nothing is kept back for validation
    if parts.test is None:
        raise DataError(f"{name} has no test part")
    if name == "usps":
        return _pair(parts.train.x, parts.train.y), _pair(parts.test.x, parts.test.y)
    chosen = [
        part[torch.randperm(len(part), generator=generator(1989, word))[:n]]
        for part, word, n in ((parts.train, "train", count), (parts.test, "test", TEST))
    ]
    small = [F.interpolate(part.x, (16, 16), mode="bilinear", align_corners=False) for part in chosen]
    return _pair(small[0], chosen[0].y), _pair(small[1], chosen[1].y)


def _pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return 2 * x - 1, y


def train_step(
    step: Step, data: str, seeds: Sequence[int], progress: bool = True, out: Path | None = None
) -> list[dict[str, float]]:
    """Train the replicates of one step at once; give each one's errors in per cent."""
    train, test = digits(data, step.digits)

    def make(seed: int) -> nn.Module:
        return nets.lenet1989(**step.network)

    runs = fit_many(
        make,
        train,
        test=test,
        seeds=seeds,
        epochs=step.passes,
        batch_size=1,
        shuffle=False,  # the rebuilt network saw the digits in one fixed order
        augment=shift if step.shifts else None,
        metrics=("error",),
        progress=progress,
        out=out,
        **step.training,
    )
    finished(runs)
    train_errors = [evaluate(model, train, ["error"])["error"] for model in runs.models]
    return [
        {"seed": seed, "test": 100 * found["error"], "train": 100 * error, "seconds": runs.seconds / len(seeds)}
        for seed, found, error in zip(seeds, runs.test, train_errors, strict=True)
    ]


def lecun1989(
    data: str | Sequence[str] = ("mnist", "usps"),
    steps: str | Sequence[str] = (),
    seeds: int = 8,
    full: bool = False,
    passes: int | None = None,
    out: str | Path | None = None,
    progress: bool = True,
    workers: int | None = 1,
) -> Result:
    """Train every step from several seeds on both sets of digits.

    Args:
        data: "mnist", "usps" or both.
        steps: names of `STEPS`; all by default.
        seeds: replicates of each step, at least 2.
        full: the steps with 50,000 digits as well.
        passes: instead of the published numbers of passes, for trying it out.
        out: folder in which finished replicates are kept, so that a run that was stopped goes on.
        progress: show a bar on the terminal.
        workers: steps trained at a time, each in a process of its own; None for one per core.

    Raises:
        LookupFailure: for an unknown step.
        DataError: the digits are missing; where they are looked for is said.

    >>> lecun1989("usps", "rebuilt", seeds=4, passes=2).plot()  # doctest: +SKIP
    """
    table = {**STEPS, **(FULL if full else {})}
    wanted = [steps] if isinstance(steps, str) else list(steps or table)
    for name in wanted:
        if name not in table:
            raise nearest(name, table, "step")
    jobs, work = {}, {}
    for source in [data] if isinstance(data, str) else data:
        for name in wanted:
            step = table[name] if passes is None else replace(table[name], passes=passes)
            if source == "usps" and step.digits > TRAIN:
                continue
            label = f"{source}-{name}-{step.passes}".replace(" ", "-")
            place = None if out is None else Path(out) / f"{label}.json"
            jobs[label] = partial(_row, source, name, step, seeds, place, progress)
            work[label] = step.passes * step.digits
    longest = sorted(jobs, key=lambda label: -work[label])  # so that workers end together
    found = side_by_side({label: jobs[label] for label in longest}, workers, progress)
    rows = [found[label] for label in jobs]
    settings = {"data": data, "steps": list(wanted), "seeds": seeds, "passes": passes}
    return Result("lecun1989", tuple(rows), read(rows), settings, draw)


def _replicates(step: Step, data: str, seeds: int, place: Path | None, progress: bool) -> list[dict[str, float]]:
    """Train the seeds that the file does not hold yet."""
    known = json.loads(place.read_text("utf-8")) if place is not None and place.exists() else []
    missing = [seed for seed in range(seeds) if seed not in {each["seed"] for each in known}]
    if missing:
        half = None if place is None else place.with_suffix("") / "-".join(map(str, (missing[0], missing[-1])))
        known += train_step(step, data, missing, progress, half)
        if place is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place, json.dumps(known, indent=1).encode())
    return [each for each in known if each["seed"] < seeds]


def _row(data: str, name: str, step: Step, seeds: int, place: Path | None, progress: bool) -> dict[str, Any]:
    found = _replicates(step, data, seeds, place, progress)
    test, train = spread(each["test"] for each in found), spread(each["train"] for each in found)
    return {
        "digits": data,
        "step": name,
        "published": step.published if data == "mnist" else PAPER["test"] if name == "rebuilt" else None,
        "lecture": step.lecture if data == "mnist" else None,
        "test error %": test.mean,
        "sd": test.sd,
        "low": test.low,
        "high": test.high,
        "train error %": train.mean,
        "n": test.n,
        "passes": step.passes,
        "seconds": sum(each["seconds"] for each in found),
    }


def read(rows: Sequence[dict[str, Any]]) -> str:
    """Say in words how the rows compare with what is published.

    >>> row = {"digits": "mnist", "step": "adamw", "published": 3.59, "test error %": 3.5, "sd": 0.1, "n": 8}
    >>> read([row])
    'On mnist, adamw: 3.50 ± 0.10 % over 8 runs, published 3.59: within two standard deviations of a run.'
    """
    said = []
    for row in rows:
        text = f"On {row['digits']}, {row['step']}: {row['test error %']:.2f} ± {row['sd']:.2f} % over {row['n']} runs"
        if row["published"] is not None:
            far = abs(row["published"] - row["test error %"]) / max(row["sd"], 1e-9)
            text += f", published {row['published']:.2f}: "
            text += "within two standard deviations of a run" if far <= 2 else f"{far:.1f} standard deviations away"
        said.append(text + ".")
    return " ".join(said)


def draw(result: Result) -> Any:
    """Test error of every step with the interval of its mean, beside it what is published."""
    sets = list(dict.fromkeys(result.column("digits")))
    figure, axes = axes_of(4.6, 3.6, len(sets))
    for axis, name in zip([axes] if len(sets) == 1 else axes, sets, strict=True):
        rows = [row for row in result.rows if row["digits"] == name]
        places = range(len(rows))
        means = [row["test error %"] for row in rows]
        reach = [row["high"] - row["test error %"] for row in rows]
        axis.errorbar(places, means, yerr=reach, fmt="o", capsize=4, label="mean of runs, 95 % interval")
        for who, mark, color, aside in (("published", "x", "C3", 0.16), ("lecture", "+", "C1", 0.32)):
            known = [(place + aside, row[who]) for place, row in zip(places, rows, strict=True) if row[who]]
            axis.plot(*zip(*known, strict=True), mark, color=color, markersize=8, label=who) if known else None
        axis.set_xticks(list(places), [row["step"] for row in rows], rotation=25, ha="right")
        axis.set(ylabel="test error, %", title=f"digits of {name}")
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False)
    return figure
