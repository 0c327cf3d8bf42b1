"""A hundred layers: what residual connections are for."""

import pytest
import torch

from cutaway import nets
from cutaway.data import load
from cutaway.train import fit


def accuracy_after_training(residual: bool) -> float:
    """Test accuracy on 8×8 digits of a network of 110 layers, a quarter as wide as the paper's, after 90 steps."""
    train, _, test = load("digits")
    x, held = (part.x.expand(-1, 3, -1, -1) for part in (train, test))  # (N, 3, 8, 8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nets.resnet_cifar(110, residual=residual, width=4)
    settings = {"epochs": 2, "batch_size": 32, "optimizer": "momentum", "lr": 0.03}
    run = fit(model, (x, train.y), test=(held, test.y), progress=False, **settings)
    assert run.test is not None
    return run.test["accuracy"]


@pytest.mark.slow  # a minute
def test_a_hundred_and_ten_layers_train_with_shortcuts_and_not_without() -> None:
    assert accuracy_after_training(residual=True) > 0.25
    assert accuracy_after_training(residual=False) < 0.15
