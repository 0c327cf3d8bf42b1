"""The main job: a network by name, trained on data by name, into a run folder."""

import inspect
import math
import os
import statistics as stats
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from cutaway import data as sources
from cutaway import nets
from cutaway.data import Dataset, augmentation, statistics
from cutaway.errors import ArgumentError, nearest
from cutaway.train.batches import Augment
from cutaway.train.loop import fit
from cutaway.train.recipes import recipe_for, recipe_named
from cutaway.train.results import Run, with_replicates
from cutaway.train.settings import make_settings, plain

SIZES = {"lenet5": 32, "lenet1989": 16, "alexnet": 224, "googlenet": 224}  # sides that networks cannot do without
HIDDEN = 128  # units of an mlp whose sizes were not given
BY_NAME = ("rates", "freeze")  # settings that name a network's parameters
LOOKED_AT = 5000  # training images that a network whose first layer whitens looks at


def run(
    name: str,
    data: str = "digits",
    out: str | os.PathLike[str] | None = None,
    *,
    seeds: int = 1,
    seed: int = 0,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
    device: str | None = None,
    shard: bool = False,
    model_settings: Mapping[str, Any] | None = None,
    data_settings: Mapping[str, Any] | None = None,
    augment: Any = "recipe",
    recipe: str | None = None,
    **changes: Any,
) -> Run:
    """Train a network by name on data by name: split, standardise, train, restore the best, test once.

    The network is wrapped in `cutaway.nets.normalized` with mean and standard deviation of the training data, and
    resizes its inputs itself where it needs another size. The split is fixed by the data's own seed; replicates differ
    in initial weights, order and augmentation.

    Args:
        name: one of `cutaway.nets.NAMES`.
        data: a name that `cutaway.data.load` takes.
        out: run folder; with several seeds the first lies in it and the others in its folders `seed-1`, `seed-2`, …
        seeds: how many replicates, at least 1.
        seed: the first replicate's seed.
        overwrite: replace the run in the folder.
        resume: go on with the run in the folder.
        progress: show a bar on the terminal.
        device: where to train.
        shard: see `cutaway.fit`.
        model_settings: arguments of the network's constructor, laid over the recipe's; `sizes` for `mlp`.
        data_settings: arguments of `cutaway.data.load` (its split's `seed` among them).
        augment: "recipe", None, a name of `cutaway.data.AUGMENTATIONS`, several by name with their settings, or a
            function `(x, generator) -> x`.
        recipe: a name of `NAMED`, such as "cifar10-fast", to train by instead of what suits network and data;
            what it says about its own network alone is left out for another.
        changes: any field of `Settings`, laid over the recipe.

    Returns:
        Run of the first seed; its `replicates` hold one row per seed when there are several.

    Raises:
        LookupFailure, ArgumentError, DataError, RunFolderError: said before training starts.

    >>> trained = run("lenet5", "digits", epochs=0, progress=False)
    >>> trained.test.n, trained.record["model"]["normalized"]["size"]
    (359, 32)
    """
    if name not in nets.NAMES:
        raise nearest(name, nets.NAMES, "model")
    if not isinstance(data, str):
        raise ArgumentError(f"data is {type(data).__name__}: expected a data set's name; give arrays to cutaway.fit")
    if seeds < 1:
        raise ArgumentError(f"seeds={seeds}: expected a whole number, at least 1")
    own, _, found = (name, data, recipe_for(name, data)) if recipe is None else recipe_named(recipe)
    mixture = found.augment if augment == "recipe" else augment
    network = {**(found.network if own == name else {}), **(model_settings or {})}
    usual = {key: value for key, value in found.settings.items() if own == name or key not in BY_NAME}
    chosen = {**usual, **changes}
    make_settings(**chosen, seed=seed)  # a wrong setting is said before data are read
    parts = sources.load(data, **(data_settings or {}))
    runs: list[Run] = []
    for number in range(seed, seed + seeds):
        model, described = make_model(name, parts[0], number, network)
        record = {"model": described, "data": describe_data(data, parts, data_settings), "augment": plain(mixture)}
        place = None if out is None else Path(out) if number == seed else Path(out) / f"seed-{number}"
        runs.append(
            fit(
                model,
                *parts,
                out=place,
                overwrite=overwrite,
                resume=resume,
                progress=progress,
                device=device,
                shard=shard,
                augment=make_augment(mixture),
                record=record,
                **chosen,
                seed=number,
            )
        )
        if runs[-1].status == "interrupted":
            break
    return runs[0] if seeds == 1 else with_replicates(runs[0], [replicate_row(each, each is runs[0]) for each in runs])


def make_augment(wanted: str | Mapping[str, Mapping[str, Any]] | Augment | None) -> Augment | None:
    """Make one function of several augmentations by name.

    Args:
        wanted: a name, several by name with their settings (`{"flip": {}, "shift": {"pixels": 4}}`), a function,
            or None.

    Raises:
        LookupFailure: a name is unknown.

    >>> make_augment({}) is None, callable(make_augment({"flip": {}}))
    (True, True)
    """
    if not wanted or callable(wanted):
        return wanted or None  # type: ignore[return-value]
    return augmentation(*([wanted] if isinstance(wanted, str) else [(n, dict(s)) for n, s in wanted.items()]))


def make_model(
    name: str, train: Dataset, seed: int, settings: Mapping[str, Any] | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Make a network that fits the data, with its preprocessing in front.

    Args:
        name: one of `cutaway.nets.NAMES`.
        train: training data, whose classes, channels, mean and standard deviation are used, and whose patches where the
            network's first layer whitens them.
        seed: of the initial weights.
        settings: arguments of the constructor that go before what the data say; `sizes` for `mlp`.

    Returns:
        The network for images in [0, 1], and its description, from which `load_run` builds it again.

    >>> import cutaway as ct
    >>> train, _, _ = ct.data.load("digits")
    >>> model, described = ct.train.make_model("lenet5", train, seed=0)
    >>> model(train.x[:2]).shape, described["parameters"]
    (torch.Size([2, 10]), 61706)
    """
    given = dict(settings or {})
    sizes = [int(size) for size in given.pop("sizes", ())]
    if name == "mlp" and not sizes:
        sizes = [math.prod(train.shape), HIDDEN, len(train.classes)]
    known = inspect.signature(nets.NAMES[name]).parameters
    own = {"classes": len(train.classes), "channels": train.shape[0]}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
    given = {**{key: value for key, value in own.items() if key in known or (takes_any and key == "classes")}, **given}
    network = nets.make(name, *sizes, seed=seed, **given)
    parameters = sum(weight.numel() for weight in network.parameters())
    described = {"name": name, "sizes": sizes, "settings": plain(given), "parameters": parameters, "normalized": None}
    if len(train.shape) == 3:
        mean, std = (values.tolist() for values in statistics(train))
        if isinstance(network, nets.FastCifar):
            some = nets.normalized(nn.Identity(), mean, std)(train.x[:LOOKED_AT])
            network.whiten(some)
        wanted = SIZES.get(name)
        size = wanted if wanted is not None and tuple(train.shape[1:]) != (wanted, wanted) else None
        network = nets.normalized(network, mean, std, size=size)
        described["normalized"] = {"mean": mean, "std": std, "size": size}
    return network, described


def describe_data(name: str, parts: tuple[Dataset, ...], settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """What `run.json` says about the data, enough to load them again."""
    return {
        "name": name,
        "settings": plain(dict(settings or {})),
        "shape": list(parts[0].shape),
        "classes": list(parts[0].classes),
        **{part: len(values) for part, values in zip(("train", "validation", "test"), parts, strict=True)},
    }


def replicate_row(each: Run, first: bool) -> dict[str, Any]:
    """One replicate's line of the table; its folder is relative to the first one's."""
    test = each.test
    return {
        "seed": each.seed,
        "folder": None if each.folder is None else "." if first else each.folder.name,
        "status": each.status,
        "best_epoch": each.best_epoch,
        "epochs": len(each.history.get("epoch", ())),
        "seconds": each.seconds,
        "validation_accuracy": None if each.validation is None else each.validation.values.get("accuracy"),
        "test_accuracy": None if test is None else test.values.get("accuracy"),
        "test_interval": None if test is None or test.interval is None else list(test.interval),
    }


def mean_and_sd(replicates: tuple[dict[str, Any], ...], column: str = "test_accuracy") -> tuple[float, float, int]:
    """Mean, standard deviation (n − 1) and number of a column over the replicates that have it.

    >>> mean_and_sd(({"test_accuracy": 0.98}, {"test_accuracy": 0.99}))[0]
    0.985
    """
    values = [row[column] for row in replicates if row.get(column) is not None]
    if not values:
        raise ArgumentError(f"no replicate has a value in the column {column!r}")
    return stats.fmean(values), stats.stdev(values) if len(values) > 1 else math.nan, len(values)
