"""One short real run, shared by the tests of the page."""

from pathlib import Path

import pytest

from cutaway import train
from cutaway.report import adversarial


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    """A LeNet-5 with ReLUs, trained for two epochs on the digits with two seeds."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    settings = {"activation": "relu", "pooling": "max"}
    train.run("lenet5", "digits", folder, seeds=2, epochs=2, model_settings=settings, progress=False)
    return folder


@pytest.fixture
def quick_attacks(monkeypatch) -> None:
    """Attack few images at few ε."""
    monkeypatch.setattr(adversarial, "STRETCH", (1.0, 2.0))
    monkeypatch.setattr(adversarial, "EXAMPLES", (16, 16))
