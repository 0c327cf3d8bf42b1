"""The experiment on adversarial training runs, goes on where it was stopped, and reads its rows as they are."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cutaway import attack, experiments
from cutaway.attack import Effort
from cutaway.data import load
from cutaway.errors import LookupFailure
from cutaway.experiments.adversarial_training import adversarial_training as run
from cutaway.train import evaluate
from cutaway.train.adversaries import Free

module: Any = sys.modules["cutaway.experiments.adversarial_training"]  # the name is that of the function
needs_data = pytest.mark.skipif(not os.environ.get("CUTAWAY_DATA"), reason="CUTAWAY_DATA names no folder")
TINY = Effort(steps=3, targets=1, queries=5)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, problem in module.QUICK.items():
        small = replace(
            problem, examples=200, epochs=2, images=10, effort=TINY, training={"lr": 3e-3, "batch_size": 50}
        )
        monkeypatch.setitem(module.QUICK, name, small)
    monkeypatch.setattr(module, "SHORT", TINY)


def row(way: str, **changes: Any) -> dict[str, Any]:
    usual = {"data": "mnist", "way": way, "clean %": 99.0, "clean low": 95.0, "clean high": 100.0, "robust %": 10.0}
    usual |= {"low": 5.0, "high": 20.0, "n": 100, "eps": 0.3, "epochs": 8, "gradients per example": 8, "seconds": 2.0}
    usual |= {"small eps": 0.1, "robust at small eps %": 40.0, "small low": 30.0, "small high": 50.0}
    return {**usual, "published clean": None, "published robust": None, **changes}


def test_reading_says_gain_loss_and_cost() -> None:
    slow = row("PGD", **{"clean %": 97.0, "robust %": 85.0, "gradients per example": 48, "seconds": 9.0})
    slow["robust at small eps %"] = 90.0
    said = module.read([row("plain"), slow, row("Fast", stopped="catastrophic overfitting")])
    assert "plain training: 99 % clean, 10 % robust (40 % at ε = 0.1)." in said
    assert "PGD: 97 % clean (−2 points), 85 % robust (+75; at the smaller ε +50), 6.0 times the gradients" in said
    assert "4.5 times the time." in said
    assert "Fast training was stopped: catastrophic overfitting." in said


def test_figure_has_a_panel_for_each_set_and_marks_what_is_published() -> None:
    rows = (row("plain"), row("PGD", **{"published robust": 88.5}), row("PGD", data="cifar10"))
    figure = module.draw(experiments.Result("adversarial_training", rows, ""))
    assert [axis.get_title().split(",")[0] for axis in figure.axes] == ["mnist", "cifar10"]
    assert [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_marker() == "x"] == [88.5]


def test_free_gets_as_many_gradients_as_fast() -> None:
    for problem in (*module.QUICK.values(), *module.FULL.values()):
        free = module.WAYS["Free"].adversary(problem)
        epochs = -(-2 * problem.epochs // free.replays)
        assert isinstance(free, Free) and abs(epochs * free.gradients - 2 * problem.epochs) < free.replays


def test_it_is_one_of_the_experiments() -> None:
    assert experiments.EXPERIMENTS["adversarial_training"].__module__ == module.__name__


def test_unknown_names_are_refused_before_anything_is_loaded() -> None:
    with pytest.raises(LookupFailure, match="PGD"):
        run("mnist", "pgd")
    with pytest.raises(LookupFailure, match="mnist"):
        run("minst")


@needs_data
def test_rows_are_measured_kept_and_taken_up_again(tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = ["plain", "Free", "Fast"]
    found = run("mnist", ways, out=tmp_path, progress=False)
    assert found.column("way") == ways and found.column("gradients per example") == [2, 4, 4]
    for one in found.rows:
        assert 0 <= one["low"] <= one["robust %"] <= one["clean %"] <= 100 and one["n"] == 10
        assert one["robust %"] <= one["robust at small eps %"] <= one["clean %"]
        assert one["robust %"] <= one["under noise %"] + 1e-9

    def trained_again(*given: Any, **settings: Any) -> None:
        raise AssertionError("a finished row must not be trained again")

    monkeypatch.setattr(module, "fit", trained_again)
    again = run("mnist", ways, out=tmp_path, progress=False)
    assert json.dumps([*again.rows]) == json.dumps([*found.rows])


@needs_data
def test_accuracies_are_those_of_the_network_in_the_folder(tiny: None, tmp_path: Path) -> None:
    found = run("mnist", "PGD", out=tmp_path, progress=False).rows[0]
    (place,) = (tmp_path / "ways").iterdir()
    net = module.mnist_network().eval()
    net.load_state_dict(load_file(place / "run" / "model.safetensors"))
    test = load("mnist", validation=1000)[2][:10]
    assert found["clean %"] == pytest.approx(100 * evaluate(net, test, ["accuracy"])["accuracy"])
    attacked = attack.auto_attack(net, test.x, test.y, eps=0.3, effort=TINY, progress=False)
    assert found["robust %"] == pytest.approx(100 * float((~attacked.success).double().mean()))


@needs_data
@pytest.mark.slow
def test_every_way_runs_on_both_sets(tiny: None) -> None:
    found = run(progress=False)
    assert len(found.rows) == 2 * len(module.WAYS) and found.reading.count("times the gradients") == 16


@needs_data
@pytest.mark.slow
def test_pgd_beats_plain_training_on_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.QUICK, "mnist", replace(module.QUICK["mnist"], effort=TINY))
    plain, hard = run("mnist", ["plain", "PGD"], examples=3000, epochs=4, images=50, progress=False).rows
    assert hard["robust %"] > plain["robust %"] + 20


def test_network_begins_with_thresholds() -> None:
    net = module.mnist_network()
    pixels = torch.linspace(0, 1, 11).view(-1, 1, 1, 1)
    seen = net[1](net[0](pixels))[:, :, 0, 0]
    assert seen[:3].abs().max() < 0.1 and seen[-1].min() > 0.7
    assert torch.equal(module.mnist_network(3)[2].weight, module.mnist_network(3)[2].weight)
