"""A training run in a process of its own, to be killed: `python victim.py FOLDER [KIND]`."""

import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cutaway.train import fit
from tests.train.common import blobs, small_net

EPOCHS = 12


def train(folder: Path | None, kind: str = "arrays", **settings: object) -> nn.Module:
    """Train with everything that has a state: dropout, batch norm, Adam, averaging, augmentation, best weights."""
    torch.set_num_threads(1)
    x, y = blobs(120)
    data = (x, y) if kind == "arrays" else DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
    run = fit(
        small_net(),
        data,
        validation=blobs(60, seed=1),
        epochs=EPOCHS,
        batch_size=8,
        lr=0.02,
        ema=0.9,
        seed=7,
        out=folder,
        resume=folder is not None,
        augment=lambda x, draw: x + 0.05 * torch.randn(x.shape, generator=draw),
        progress=False,
        **settings,  # type: ignore[arg-type]
    )
    return run.model


if __name__ == "__main__":
    train(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "arrays", checkpoint_every=3)
