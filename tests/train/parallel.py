"""A training run for test_processes.py; started by torchrun, or alone."""

import json
import os
import sys
from pathlib import Path

from torch import nn

from cutaway.train import fit, rank
from tests.train.common import blobs, seeded


def main(out: Path, told: str) -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3)))
    settings = {"epochs": 3, "batch_size": 21, "lr": 0.02, "seed": 1, "progress": False, "threads": 1}
    resume = told == "resume"

    def look(epoch: object) -> None:
        if told == "crash" and rank() == 1:
            raise RuntimeError("the second process fails on purpose")

    validation, test = blobs(60, seed=1), blobs(60, seed=2)
    run = fit(model, blobs(100), validation, test, out=out / "run", resume=resume, callbacks=[look], **settings)
    place = out / f"history-{told}-{os.environ.get('RANK', 'alone')}.json"
    weights = [value.double().sum().item() for value in run.model.state_dict().values()]
    place.write_text(
        json.dumps({"history": run.history, "weights": weights, "test": run.test.values if run.test else None})
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
