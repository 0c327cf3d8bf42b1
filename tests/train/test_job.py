"""The main job: by name, from loading to testing, and back from the folder."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cutaway import data, nets
from cutaway.data import statistics
from cutaway.errors import ArgumentError, DataError, LookupFailure, RunFolderError
from cutaway.rng import generator
from cutaway.train import evaluate, load_initial, load_run, make_model, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs") / "demo"
    run("mlp", "digits", place, seeds=2, epochs=4, lr=5e-3, augment=None, progress=False)
    return place


def test_replicates_share_the_split_and_differ_in_the_rest(folder: Path) -> None:
    first, second = load_run(folder), load_run(folder / "seed-1")
    assert [row["seed"] for row in first.replicates] == [0, 1] and first.seed == 0 and second.seed == 1
    assert [row["folder"] for row in first.replicates] == [".", "seed-1"]
    assert first.history["loss"] != second.history["loss"]
    assert first.test is not None and first.test.n == second.test.n == 359  # type: ignore[union-attr]
    assert first.replicates[1]["test_accuracy"] == second.test["accuracy"]  # type: ignore[index]


def test_run_comes_back_without_its_data(folder: Path) -> None:
    loaded = load_run(folder)
    test = data.load("digits")[2]
    assert loaded.test is not None and loaded.test["accuracy"] > 0.8
    assert evaluate(loaded.model, test)["accuracy"] == pytest.approx(loaded.test["accuracy"])
    start = load_initial(folder)
    made = make_model("mlp", data.load("digits")[0], 0)[0]
    assert all(torch.equal(a, b) for a, b in zip(start.parameters(), made.parameters(), strict=True))
    assert evaluate(start, test)["accuracy"] < 0.4


def test_statistics_are_those_of_the_training_data(folder: Path) -> None:
    record = json.loads((folder / "run.json").read_text())
    mean, std = statistics(data.load("digits")[0])
    assert record["model"]["normalized"] == {"mean": mean.tolist(), "std": std.tolist(), "size": None}
    assert record["data"]["train"] == 1258 and record["data"]["classes"][3] == "3"


def test_lenet_resizes_inside_the_model() -> None:
    train = data.load("digits")[0]
    model, described = make_model("lenet5", train, 0)
    assert described["normalized"]["size"] == 32 and model(train.x[:2]).shape == (2, 10)


def test_recipe_by_name_trains_its_network_and_stores_its_first_layer(tmp_path: Path) -> None:
    draw = generator(0, "squares")
    y = torch.arange(120) % 3
    x = 0.3 * torch.rand(120, 3, 32, 32, generator=draw)
    x[torch.arange(120), y, 8:24, 8:24] += 0.6  # the class is the colour of a square
    np.savez(tmp_path / "squares.npz", x=(x * 255).byte().numpy(), y=y.numpy())
    small = {"model_settings": {"widths": (8, 8, 8)}, "batch_size": 16, "progress": False}
    found = run("fast_cifar", f"npz:{tmp_path / 'squares.npz'}", tmp_path / "run", recipe="cifar10-fast", **small)
    assert found.settings["optimizer"] == "nesterov" and found.settings["label_smoothing"] > 0
    assert found.record["augment"]["flip"] == {}
    assert found.test is not None and found.test["accuracy"] > 0.9
    loaded, start = load_run(tmp_path / "run").model, load_initial(tmp_path / "run")
    first = loaded.state_dict()["model.whitening.weight"]
    assert torch.equal(first, start.state_dict()["model.whitening.weight"])
    train = data.load(f"npz:{tmp_path / 'squares.npz'}")[0]
    mean, std = (values[:, None, None] for values in statistics(train))
    response = torch.conv2d((train.x - mean) / std, first[:12]).transpose(0, 1).flatten(1)
    shares = torch.cov(response).diagonal()
    assert ((shares > 0.5) & (shares < 1.001)).all()  # variance 1, but for the epsilon in weak directions


def test_recipe_for_another_network_leaves_out_what_names_parameters() -> None:
    found = run("mlp", "digits", recipe="cifar10-fast", augment=None, epochs=0, progress=False)
    assert found.settings["rates"] == {} and found.settings["batch_size"] == 512


def test_wrong_names_and_folders_are_said_before_training(folder: Path) -> None:
    with pytest.raises(LookupFailure, match="'lenet5'"):
        run("lenet", "digits")
    with pytest.raises(LookupFailure, match="'digits'"):
        run("lenet5", "digit")
    with pytest.raises(LookupFailure, match="'epochs'"):
        run("lenet5", "digits", epoch=3)
    with pytest.raises(LookupFailure, match="'cifar10-fast'"):
        run("lenet5", "digits", recipe="cifar-fast")
    with pytest.raises(ArgumentError, match="seeds=0"):
        run("lenet5", "digits", seeds=0)
    with pytest.raises(RunFolderError, match="holds a run already"):
        run("mlp", "digits", folder)
    with pytest.raises(DataError):
        run("mlp", "npz:nothing.npz")


def test_load_run_says_what_is_missing(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(RunFolderError, match=r"run\.json is missing"):
        load_run(tmp_path)
    with pytest.raises(RunFolderError, match="does not fit the network"):
        load_run(folder, nets.make("mlp", 4, 3))


@pytest.mark.slow
def test_lenet_reaches_98_percent_on_the_digits() -> None:
    trained = run("lenet5", "digits", progress=False)
    assert trained.test is not None and trained.test["accuracy"] > 0.97  # one seed; the mean of five is above 0.98
