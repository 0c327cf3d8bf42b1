"""Saddles, flat regions, ravines, cliffs and many minima: what stops descent there, and what helps.

What is known: descent along the ridge of a saddle stops at it, and any noise frees it; a saturated sigmoid has hardly a
gradient, a ReLU keeps it where it is on; a wall of high curvature throws plain descent far away, clipping the gradient
or dividing by its size does not let it; where minima are many, the best of several starts is kept.

Source: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", 2013, section 3.2;
Goodfellow, Bengio, Courville, "Deep Learning", 2016, section 8.2.
"""

import math
from typing import Any

import torch

from cutaway.experiments.result import Result
from cutaway.progress import track
from cutaway.train import SURFACES, Descent, descend, restarts
from cutaway.train.surfaces import contours, critical_points

NAMES = ("ravine", "rosenbrock", "saddle", "sigmoid unit", "ReLU unit")
WAYS = ("sgd", "momentum", "rmsprop", "adagrad", "adam", "lbfgs")
RATES = (0.001, 0.01, 0.1, 1.0)  # L-BFGS searches along its line from 1
NEAR = 0.01  # height above the least value that counts as arrived
CURES: dict[str, tuple[str, dict[str, Any]]] = {  # surface and settings of `descend`, first without the cure
    "sgd, no noise": ("saddle", {"lr": 0.3}),
    "sgd, noise 0.0005": ("saddle", {"lr": 0.3, "noise": 5e-4}),
    "sgd, no clipping": ("cliff", {"lr": 0.1}),
    "sgd, clipped at 0.5": ("cliff", {"lr": 0.1, "clip": 0.5}),
    "adam, adaptive steps": ("cliff", {"lr": 0.1, "optimizer": "adam"}),
}
_ARRIVED, _LEFT = f"steps to {NEAR}", "above the least"


def surfaces(steps: int = 150, starts: int = 20, seed: int = 0, progress: bool = True) -> Result:
    """Descend surfaces with every optimiser at the best of four rates, then with and without each cure.

    Args:
        steps: of every descent.
        starts: how many the restarts draw.
        seed: of the starts and of the noise.
        progress: show a bar on the terminal.

    >>> surfaces(steps=50).plot()  # doctest: +SKIP
    """
    went: dict[tuple[str, str], Descent] = {}
    thrown = {}
    for name, way in track([(name, way) for name in NAMES for way in WAYS], "descending surfaces", progress):
        surface, rates = SURFACES[name], RATES if way != "lbfgs" else (1.0,)
        tried = [descend(surface, surface.start, way, rate, steps) for rate in rates]
        went[name, way] = min(tried, key=lambda one: math.inf if one.diverged else float(one.values[-1]))
        thrown[name, way] = ", ".join(f"{one.settings['lr']:g}" for one in tried if one.diverged)
    for way, (name, how) in CURES.items():
        went[name, way] = descend(SURFACES[name], SURFACES[name].start, steps=steps, seed=seed, **how)
    many = SURFACES["rastrigin"]
    found = restarts(many, starts, many.box, seed, optimizer="adam", lr=0.1, steps=steps)
    for way, index in (("adam, 1 start", 0), (f"adam, best of {starts} starts", found.best)):
        path, values = found.path[:, index], found.values[:, index]
        went["rastrigin", way] = Descent(many, path, values, found.settings)
    rows = [_row(*key, one) | {"diverges at": thrown.get(key, "")} for key, one in went.items()]
    for name in {row["surface"] for row in rows}:
        own = [(row, one) for row, one in zip(rows, went.values(), strict=True) if row["surface"] == name]
        ends = [one.path[place].nan_to_num() for _, one in own for place in (0, -1)]
        tested = critical_points(SURFACES[name], torch.stack(ends), 1e-3)
        for (row, one), first, last in zip(own, tested[::2], tested[1::2], strict=True):
            row["gradient at start"] = first.gradient_norm
            row["ends at"] = last.verdict if one.path[-1].isfinite().all() else "not finite"
    settings = {"steps": steps, "starts": starts, "seed": seed}
    return Result("surfaces", tuple(rows), read(rows), settings, draw, {"paths": went, "restarts": found})


def _row(name: str, way: str, went: Descent) -> dict[str, Any]:
    least = SURFACES[name].least
    return {
        "surface": name, "way": way, "learning rate": went.settings["lr"], _LEFT: float(went.values[-1]) - least,
        _ARRIVED: went.steps_to(least + NEAR), "longest step": float(went.path.diff(dim=0).norm(dim=-1).max()),
    }  # fmt: skip


def read(rows: list[dict[str, Any]]) -> str:
    """Say what the rows mean."""
    known = {(row["surface"], row["way"]): row for row in rows}
    slow, fast = known["sigmoid unit", "sgd"], known["ReLU unit", "sgd"]
    stuck, freed = (known["saddle", way] for way in list(CURES)[:2])
    thrown, clipped, adaptive = (known["cliff", way] for way in list(CURES)[2:])
    one, best = rows[-2:]
    order = sorted((row for row in rows if row["surface"] == "rosenbrock"), key=lambda row: row[_LEFT])
    valley = ", ".join(f"{row['way']} {row[_LEFT]:.2g}" for row in order)
    return (
        f"Saddle: plain descent along its ridge ends at a {stuck['ends at']}, {stuck[_LEFT]:.2g} above the least, with "
        f"a little noise at a {freed['ends at']} ({freed[_LEFT]:.1g}). Flat: at the same start the gradient of the "
        f"saturated sigmoid is {slow['gradient at start']:.2g}, of the ReLU {fast['gradient at start']:.2g}; plain "
        f"descent ends {slow[_LEFT]:.2g} and {fast[_LEFT]:.2g} above the least. Cliff: without clipping the longest "
        f"step is {thrown['longest step']:.2g} and the end {thrown[_LEFT]:.2g} above; clipped it is "
        f"{clipped[_LEFT]:.1g}, with Adam {adaptive[_LEFT]:.1g}. Many minima: one start gives {one[_LEFT]:.3g}, the "
        f"{best['way'].removeprefix('adam, ')} {best[_LEFT]:.3g}. Left in Rosenbrock's valley: {valley}."
    )


PANELS = {
    "rosenbrock": WAYS,
    "saddle": tuple(CURES)[:2],
    "cliff": tuple(CURES)[2:],
    "sigmoid unit": ("sgd", "momentum", "adam"),
    "ReLU unit": ("sgd", "momentum", "adam"),
    "rastrigin": (),
}


def draw(result: Result) -> Any:
    """Paths over contour lines; of the restarts the ends, with the path that is kept."""
    from matplotlib.figure import Figure  # matplotlib only where something is drawn

    figure = Figure(figsize=(12.6, 7.2), layout="constrained")
    for axis, (name, ways) in zip(figure.subplots(2, 3).flat, PANELS.items(), strict=True):
        contours(axis, SURFACES[name], SURFACES[name].box, SURFACES[name].least)
        for number, way in enumerate(ways):  # the first the widest, as later ones may lie on it
            path = result.curves["paths"][name, way].path
            axis.plot(*path.T, ".-", markersize=3, linewidth=max(1, 3 - number), label=way)
        if name == "rastrigin":
            found = result.curves["restarts"]
            axis.plot(*found.path[-1].T, "o", color="0.3", markersize=4, label="ends of all starts")
            axis.plot(*found.path[:, found.best].T, ".-", color="C3", markersize=3, label="the start that is kept")
        else:
            axis.plot(*SURFACES[name].start, "ko", markersize=5)
        axis.plot(*SURFACES[name].minimum, "*", color="gold", markeredgecolor="black", markersize=11)
        axis.set_title(name, fontsize=10)
        axis.legend(fontsize=7, loc="upper right", framealpha=0.85)
    return figure
