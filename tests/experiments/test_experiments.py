"""The experiments run, say what they measured, and draw it."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from cutaway import experiments, nets
from cutaway.cli import app
from cutaway.data import load
from cutaway.errors import LookupFailure
from cutaway.experiments import Result, feedback_alignment, lecun1989
from cutaway.experiments.feedback_alignment import angle
from cutaway.experiments.imagenet_architectures import PUBLISHED, imagenet_architectures
from cutaway.experiments.lecun1989 import STEPS, digits, shift, squared_error
from cutaway.experiments.preprocessing import eigenvalues
from cutaway.graph import rules
from cutaway.rng import generator
from cutaway.train import fit

needs_data = pytest.mark.skipif(not os.environ.get("CUTAWAY_DATA"), reason="CUTAWAY_DATA names no folder")


def test_architectures_have_their_papers_depth_and_size() -> None:
    found = imagenet_architectures(("alexnet2012", "vgg16", "googlenet", "resnet50", "squeezenet1_0"))
    for row in found.rows:
        _, layers, parameters, adds, _ = PUBLISHED[row["network"]]
        assert row["weight layers"] == layers
        if parameters is not None:
            assert row["parameters"] / 1e6 == pytest.approx(parameters, rel=0.03)
        if adds is not None:
            assert row["multiply-adds"] / 1e9 == pytest.approx(adds, rel=0.08)


def test_random_feedback_trains_the_hidden_layers() -> None:
    train, _, test = load("digits")
    accuracies = {}
    for name, rule, frozen in (
        ("backpropagation", None, ()),
        ("feedback alignment", rules.feedback_alignment(0), ()),
        ("direct", rules.direct_feedback_alignment(0), ()),
        ("output layer alone", None, ("linear1", "linear2")),
    ):
        model = nets.make("mlp", 64, 32, 16, 10, seed=0, activation="tanh")
        run = fit(model, train, test=test, epochs=12, batch_size=32, rules=rule, freeze=frozen, lr=2e-3, progress=False)
        accuracies[name] = run.test["accuracy"]  # type: ignore[index]
    assert accuracies["feedback alignment"] > accuracies["output layer alone"] + 0.05
    assert accuracies["direct"] > accuracies["output layer alone"] + 0.05
    assert accuracies["feedback alignment"] > accuracies["backpropagation"] - 0.06


def test_feedback_alignment_reads_and_draws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = __import__("cutaway.experiments.feedback_alignment", fromlist=["NETWORKS"])
    first = next(iter(module.NETWORKS.items()))
    monkeypatch.setattr(module, "NETWORKS", dict([first]))
    found = feedback_alignment(seeds=2, epochs=3, progress=False)
    by_way = {row["way back"]: row for row in found.rows}
    assert by_way["feedback alignment"]["angle at end"] < by_way["feedback alignment"]["angle at start"]
    assert by_way["sign-symmetric"]["angle at start"] < 60 and "angle at start" not in by_way["backpropagation"]
    folder = found.save(tmp_path / "out")
    assert json.loads((folder / "result.json").read_text())["rows"][0]["n"] == 2
    assert (folder / "figure.png").stat().st_size > 5_000 and "gradient" in (folder / "reading.md").read_text()


def test_angle() -> None:
    assert angle(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])) == pytest.approx(90)
    assert angle(torch.tensor([1.0, 0.0]), torch.tensor([-2.0, 0.0])) == pytest.approx(180)


def test_shift_moves_by_at_most_a_pixel_and_background_comes_in() -> None:
    x = torch.full((300, 1, 16, 16), -1.0)
    x[:, 0, 0, 15] = 1.0
    moved = shift(x, generator(0, "shift"))
    spots = {tuple(map(int, image.nonzero()[0])) if bool((image := one[0] > 0).any()) else None for one in moved}
    assert spots == {(0, 15), (0, 14), (1, 15), (1, 14), None}  # what left the image does not come back


def test_error_of_1989_is_its_formula() -> None:
    outputs = torch.randn(3, 10, generator=generator(0, "outputs"))
    wanted = torch.full((3, 10), -1.0)
    wanted[[0, 1, 2], [4, 0, 9]] = 1.0
    torch.testing.assert_close(squared_error(outputs, torch.tensor([4, 0, 9])), ((outputs - wanted) ** 2).mean(1))


def test_eigenvalues_are_the_hessians() -> None:
    x = torch.randn(40, 3, generator=generator(0, "x")).double()
    w = torch.zeros(4, dtype=torch.float64)
    wide = torch.cat([x, torch.ones(40, 1)], 1)
    hessian = torch.autograd.functional.hessian(lambda w: 0.5 * (wide @ w - 1).square().mean(), w)
    torch.testing.assert_close(eigenvalues(x.float()), torch.linalg.eigvalsh(hessian).flip(0), rtol=1e-5, atol=1e-6)


@needs_data
def test_digits_of_1989() -> None:
    for name in ("usps", "mnist"):
        (x, y), (held, wanted) = digits(name)
        assert (
            x.shape == (7291, 1, 16, 16) and held.shape == (2007, 1, 16, 16) and len(y) == 7291 and len(wanted) == 2007
        )
        assert float(x.min()) >= -1 and float(x.max()) <= 1 and x.mean() < -0.3
    assert y.bincount().min() > 500


@needs_data
@pytest.mark.slow
def test_lecun1989_keeps_what_is_done(tmp_path: Path) -> None:
    first = lecun1989("usps", "rebuilt", seeds=2, passes=1, out=tmp_path, progress=False)
    assert first.rows[0]["test error %"] < 15 and first.rows[0]["n"] == 2
    again = lecun1989("usps", "rebuilt", seeds=2, passes=1, out=tmp_path, progress=False)
    assert again.rows == first.rows and again.rows[0]["published"] == 5.0
    assert [axis.get_ylabel() for axis in again.plot().axes] == ["test error, %"]
    with pytest.raises(LookupFailure, match="'rebuilt'"):
        lecun1989("usps", "rebuild")


def test_steps_of_1989_are_the_published_ones() -> None:
    assert [step.published for step in STEPS.values()] == [4.09, 4.38, 3.59, 2.19, 1.59]
    assert [step.passes for step in STEPS.values()] == [23, 23, 46, 60, 80]
    schedule = STEPS["adamw"].training["schedule"]
    assert 3e-4 * schedule(0.0) == pytest.approx(3e-4) and 3e-4 * schedule(1.0) == pytest.approx(1e-4)


SMALL: dict[str, dict[str, Any]] = {
    "optimizers": {"seeds": 2, "epochs": 3},
    "schedules": {"seeds": 2, "epochs": 2},
    "initialization": {"seeds": 2, "epochs": 2},
    "regularization": {"seeds": 2, "epochs": 5, "examples": 60},
    "preprocessing": {"seeds": 2, "epochs": 6},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SMALL))
def test_small_experiments_run_draw_and_read(name: str) -> None:
    found: Result = experiments.EXPERIMENTS[name](**SMALL[name], progress=False)
    assert len(found.rows) >= 5 and len(found.reading) > 80 and found.plot().axes
    values = [value for row in found.rows for key, value in row.items() if key.startswith("test accuracy")]
    assert len(values) == len(found.rows) and all(math.isfinite(value) and 0 <= value <= 100 for value in values)


@needs_data
@pytest.mark.slow
def test_batch_norm_needs_fewer_steps() -> None:
    found = experiments.batchnorm(seeds=2, examples=3000, epochs=6, progress=False)
    steps = next(name for name in found.rows[0] if name.startswith("steps to"))
    by_name = {row["network"]: row[steps] for row in found.rows}
    plain = min(value for name, value in by_name.items() if name.startswith("without") and value)
    assert by_name["batch norm, rate 0.1"] < plain and "times fewer" in found.reading and found.plot().axes


@needs_data
@pytest.mark.slow
def test_transfer_from_imagenet_beats_training_from_scratch() -> None:
    found = experiments.transfer(labels=(100,), seeds=1, steps=40, progress=False)
    accuracy = {row["way"]: row["test accuracy %"] for row in found.rows}
    assert accuracy["head only"] > accuracy["from scratch"] + 10 and found.plot().axes


def test_command_lists_runs_and_refuses(tmp_path: Path) -> None:
    runner = CliRunner()
    listed = runner.invoke(app, ["experiment"])
    assert listed.exit_code == 0 and all(name in listed.output for name in experiments.EXPERIMENTS)
    folder = tmp_path / "out"
    done = runner.invoke(app, ["experiment", "imagenet_architectures", "--set", 'names=["alexnet"]', "-o", str(folder)])
    assert done.exit_code == 0 and (folder / "rows.csv").read_text().count("alexnet") == 1
    assert runner.invoke(app, ["experiment", "lecun1998"]).exit_code == 2
    assert runner.invoke(app, ["experiment", "optimizers", "--set", "seed=3"]).exit_code == 2


@needs_data
@pytest.mark.slow  # half a minute
def test_the_rebuilt_network_of_1989_comes_near_what_is_published() -> None:
    (row,) = lecun1989("mnist", "rebuilt", seeds=4, progress=False).rows
    assert row["n"] == 4 and row["published"] == 4.09
    assert abs(row["test error %"] - 4.09) < 0.9, row  # 95 % interval of one run on 2,007 digits
    assert row["train error %"] < 2
