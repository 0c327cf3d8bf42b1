"""Before the first step: are the data sound, is the folder usable, does a run that goes on fit the one begun."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cutaway.data import Dataset
from cutaway.data import check as check_data
from cutaway.errors import DataError, RunFolderError
from cutaway.nets.modes import evaluating
from cutaway.train.adversary import Given
from cutaway.train.batches import Arrays, as_arrays, place_inputs
from cutaway.train.checkpoint import load_checkpoint
from cutaway.train.measure import placement
from cutaway.train.record import (
    INITIAL,
    RUN,
    environment,
    git_state,
    holds_run,
    open_folder,
    read_json,
    write_history,
    write_json,
    write_weights,
)
from cutaway.train.results import Run, load_run
from cutaway.train.session import Job
from cutaway.train.settings import Settings


def check_arrays(data: Any, what: str) -> None:
    """Check data that lie in memory before training starts.

    Raises:
        DataError: they are empty, differ in length, or hold NaN or infinity; index and value are named.

    >>> check_arrays((torch.tensor([[1.0], [float("nan")]]), torch.zeros(2)), "training")
    Traceback (most recent call last):
    cutaway.errors.DataError: training data: example 1 holds nan at index (1, 0); expected finite numbers
    """
    if isinstance(data, Dataset):
        check_data(data, unit_range=False)
        return
    pair = as_arrays(data)
    if pair is None:
        return
    if len(pair[0]) != len(pair[1]):
        raise DataError(f"{what} data: {len(pair[0])} inputs but {len(pair[1])} targets; they must match")
    if len(pair[0]) == 0:
        raise DataError(f"{what} data: there is no example; at least one is needed")
    for values in map(torch.as_tensor, pair):
        bad = ~values.isfinite()
        if values.is_floating_point() and bool(bad.any()):
            index = tuple(int(i) for i in bad.nonzero()[0])
            value = values[index].item()
            raise DataError(f"{what} data: example {index[0]} holds {value} at index {index}; expected finite numbers")


@torch.no_grad()
def check_fit(model: nn.Module, data: Any, what: str, loss: str | Any) -> None:
    """Check on one example that the network takes the inputs, and that all targets are classes if the loss wants those.

    Raises:
        DataError: the network fails on the input, or a target is no class of its; index and value are named.

    >>> check_fit(nn.Linear(2, 3), (torch.zeros(2, 2), torch.tensor([2, 3])), "training", "cross_entropy")
    Traceback (most recent call last):
    cutaway.errors.DataError: training data: example 1 has the target 3 at index (1,); the network has classes 0 … 2
    """
    pair = as_arrays(data)
    if pair is None:
        return
    device, dtype = placement(model)
    x, y = place_inputs(pair[0][:1], device, dtype), torch.as_tensor(pair[1])
    with evaluating(model):
        try:
            outputs = model(x)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise DataError(
                f"{what} data: the network cannot take inputs of shape {tuple(x.shape[1:])} and type {x.dtype}: "
                f"{str(error).splitlines()[0]}"
            ) from error
    if loss != "cross_entropy" or not isinstance(outputs, torch.Tensor) or outputs.dim() < 2:
        return
    if y.is_floating_point():
        raise DataError(f"{what} data: the targets have type {y.dtype}; cross-entropy needs whole numbers, the classes")
    bad = ((y < 0) | (y >= outputs.shape[1])).nonzero()
    if len(bad):
        index = tuple(int(i) for i in bad[0])
        raise DataError(
            f"{what} data: example {index[0]} has the target {y[index].item()} at index {index}; the network has "
            f"classes 0 … {outputs.shape[1] - 1}"
        )


def describe(
    model: nn.Module, train: Any, chosen: Settings, job: Job, record: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What `run.json` says before the first step."""
    source = job.source
    data = {"name": getattr(train, "name", None), "examples": len(source.x) if isinstance(source, Arrays) else None}
    return {
        "status": "running",
        "settings": {**chosen.record(), "lr": chosen.rate, **_adversary(job)},
        "model": {
            "name": None,
            "class": type(model).__qualname__,
            "parameters": sum(weight.numel() for weight in model.parameters()),
        },
        "data": data,
        "environment": environment(job.state.device),
        "git": git_state(),
        **(record or {}),
    }


def _adversary(job: Job) -> dict[str, str]:
    """The adversary with its settings; a function given in its place has none that could be compared."""
    return {} if job.adversary is None or isinstance(job.adversary, Given) else {"adversary": repr(job.adversary)}


def open_job(
    job: Job, out: str | os.PathLike[str], overwrite: bool, resume: bool, written: dict[str, Any]
) -> Run | None:
    """Open the run folder; go back to its checkpoint when resuming. A finished run is given back as it is."""
    old = holds_run(Path(out)) and resume
    folder = open_folder(out, needed=3 * job.state.bytes() + (1 << 20), overwrite=overwrite, resume=resume)
    job.folder = folder
    if old and (folder / RUN).exists():
        before = read_json(folder / RUN)
        _compare(folder, before, written)
        if before["status"] in ("completed", "stopped early"):
            return load_run(folder, model=job.whole or job.model)
    state = load_checkpoint(folder) if old else None
    if state is not None:
        job.state.load(state)
        write_history(folder, job.state.history)
    else:
        write_weights(folder / INITIAL, (job.whole or job.model).state_dict())
        write_history(folder, [])
    write_json(folder / RUN, written)
    return None


def _compare(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings, data or network than the run began with."""
    different = [
        f"{part}.{name}: {before[part].get(name)!r} then, {now[part].get(name)!r} now"
        for part in ("settings", "data", "model")
        for name in sorted(set(before[part]) | set(now[part]))
        if before[part].get(name) != now[part].get(name)
    ]
    if different:
        raise RunFolderError(
            f"{folder} was begun with other settings, so it cannot go on to the same result ({'; '.join(different)}); "
            "resume with the same settings, or start anew in another folder or with overwrite=True"
        )
