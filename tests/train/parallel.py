"""A training run for test_processes.py; started by torchrun, or alone."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cutaway.train import OPTIMIZERS, Epoch, fit, rank
from tests.train.common import blobs, seeded


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3))


def large() -> nn.Module:
    """Its middle layer is gathered by itself; the first dimensions do not divide by two."""
    return nn.Sequential(nn.Linear(2, 129), nn.Tanh(), nn.Linear(129, 127), nn.Tanh(), nn.Linear(127, 3))


COMMON: dict[str, Any] = {"epochs": 3, "batch_size": 21, "lr": 0.02, "seed": 1, "progress": False, "threads": 1}
FULL: dict[str, Any] = {**COMMON, "lr": 0.003, "ema": 0.8, "clip": 0.5, "l1": 1e-4, "accumulate": 2}
RUNS: dict[str, tuple[Any, dict[str, Any]]] = {
    "train": (small, COMMON),
    "crash": (small, COMMON),
    "shard": (large, FULL),
    "half": (large, {**FULL, "precision": "float16"}),
    "spoiled": (large, {**FULL, "lr": 1e30, "optimizer": "sgd", "clip": None, "loss": "squared_error"}),
    **{name: (large, {**COMMON, "optimizer": name, "lr": 0.001}) for name in OPTIMIZERS if name != "lbfgs"},
}


def main(out: Path, told: str, *flags: str) -> None:
    make, settings = RUNS[told]
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1

    def look(epoch: Epoch) -> None:
        if "crash" in (told, *flags) and rank() == 1 and epoch.number == 2:
            raise RuntimeError("the second process fails on purpose")

    validation, test = blobs(60, seed=1), blobs(60, seed=2)
    chosen = {**settings, "shard": "shard" in flags and not alone, "resume": "resume" in flags, "callbacks": [look]}
    chosen["checkpoint_every"] = 2
    run = fit(seeded(make), blobs(100), validation, test, out=out / told, **chosen)
    place = out / f"history-{told}-{os.environ.get('RANK', 'alone')}.json"
    state = run.model.state_dict()
    assert all(type(value) is torch.Tensor for value in state.values())
    weights = [value.double().sum().item() for value in state.values()]
    place.write_text(
        json.dumps({"history": run.history, "weights": weights, "test": run.test.values if run.test else None})
    )


if __name__ == "__main__":
    for one in sys.argv[2].split(","):
        main(Path(sys.argv[1]), one, *sys.argv[3:])
