"""The panda's table: its numbers are the attacks' own, and what it needs is named when it is missing."""

import importlib
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from cutaway import attack, experiments
from cutaway.data import Dataset
from cutaway.errors import ArgumentError, DataError

panda = experiments.panda
CLASSES = ("giant panda", "gibbon", "ostrich")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, Dataset]:
    """A linear network that sees nine of ten photographs right."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).eval()
    x = torch.rand(40, 3, 4, 4)
    data = Dataset(x, model(x).argmax(1).detach(), CLASSES, "tiny", "made here")
    data.y[::10] = (data.y[::10] + 1) % 3
    assert (data.y == 0).any()
    module = importlib.import_module("cutaway.experiments.panda")  # the folder's name for it is the function's
    monkeypatch.setattr(module, "_opened", lambda name: (model, data))
    return model, data


def test_rows_are_the_attacks_own(tiny: tuple[nn.Module, Dataset]) -> None:
    model, data = tiny
    found = panda(networks=("squeezenet1_0",), eps=(2.0, 40.0), images=40, steps=5, progress=False)
    assert len(found.rows) == 8
    right = model(data.x).argmax(1) == data.y
    assert {row["n"] for row in found.rows} == {int(right.sum())} == {36}
    by = {(row["attack"], row["eps × 255"]): row for row in found.rows}
    one = attack.fgsm(model, data.x[right], data.y[right], eps=2 / 255)
    rate = attack.wilson(int(one.success.sum()), 36)
    row = by["FGSM", 2.0]
    assert (row["success %"], row["low"], row["high"]) == tuple(100 * value for value in rate)
    assert by["PGD", 40.0]["success %"] >= by["PGD", 2.0]["success %"]
    assert by["PGD", 40.0]["success %"] > by["random noise", 40.0]["success %"] + 20
    assert by["PGD to a random class", 40.0]["success %"] <= by["PGD", 40.0]["success %"]
    assert "57.7 % before, gibbon 99.3 %" in found.reading and "Its panda: " in found.reading
    assert len(found.plot().axes) == 1


def test_bad_settings_are_refused(tiny: tuple[nn.Module, Dataset]) -> None:
    with pytest.raises(LookupError, match="'squeezenet1_0'"):
        panda(networks=("squeezenet",))
    with pytest.raises(ArgumentError, match="radii above 0"):
        panda(eps=(0.0, 1.0))
    with pytest.raises(ArgumentError, match="at least one"):
        panda(images=0)


def test_missing_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTAWAY_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataError, match=r"(?s)squeezenet1_0.safetensors is not in .*CUTAWAY_DATA"):
        panda(progress=False)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("CUTAWAY_DATA"), reason="CUTAWAY_DATA names no folder")
def test_real_photographs_fall_to_the_attack_and_not_to_noise() -> None:
    found = panda(networks=("squeezenet1_0",), eps=(1.0,), images=12, steps=5, progress=False)
    rates = {row["attack"]: row["success %"] for row in found.rows}
    assert rates["PGD"] >= 80 and rates["random noise"] <= 25
    assert found.settings["pandas"]["squeezenet1_0"]["PGD to gibbon"].startswith("gibbon")
