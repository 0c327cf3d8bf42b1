"""Training: it learns, it stops, it restores, it tests once, it leaves the world as it was."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from cutaway import graph
from cutaway.errors import ArgumentError, DataError, LookupFailure, RunFolderError
from cutaway.train import Epoch, evaluate, fit
from cutaway.train import record as records
from cutaway.train.gradients import autograd_step, trainable
from cutaway.train.losses import cross_entropy
from cutaway.train.optimizers import OPTIMIZERS
from tests.train.common import blobs, same_weights, seeded, small_net

quiet = partial(fit, progress=False)


def linear() -> nn.Module:
    return seeded(lambda: nn.Linear(2, 3))


@pytest.mark.parametrize("kind", ["tensors", "arrays", "loader", "list"])
def test_every_kind_of_data_trains(kind: str) -> None:
    x, y = blobs()
    data: Any = {
        "tensors": (x, y),
        "arrays": (x.double().numpy(), y.numpy().astype(np.int32)),
        "loader": DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True),
        "list": [(x[i : i + 16], y[i : i + 16]) for i in range(0, 96, 16)],
    }[kind]
    run = quiet(linear(), data, validation=data, epochs=15, batch_size=16, lr=0.1)
    assert run.history["accuracy"][-1] > 0.9 and run.validation is not None and run.validation["accuracy"] > 0.9
    assert len(run.history["epoch"]) == 15 and run.status == "completed"


def test_one_epoch_of_sgd_is_the_plain_loop(global_randomness_untouched: None) -> None:
    x, y = blobs(10)
    run = quiet(linear(), [(x[:5], y[:5]), (x[5:], y[5:])], epochs=1, optimizer="sgd", lr=0.5, schedule="constant")
    other = linear()
    for rows in (slice(0, 5), slice(5, 10)):
        loss = nn.functional.cross_entropy(other(x[rows]), y[rows])
        other.zero_grad()
        loss.backward()
        with torch.no_grad():
            for w in other.parameters():
                w -= 0.5 * w.grad
    for a, b in zip(run.model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


class Last(nn.Module):
    """A convolution that computes channels-last, so that its gradient lies otherwise in memory than its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.contiguous(memory_format=torch.channels_last)).mean((2, 3))


@pytest.mark.parametrize("optimizer", ["nesterov", "adam"])
def test_a_gradient_in_another_memory_layout_moves_the_right_weights(optimizer: str) -> None:
    x, y = torch.randn(16, 16, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3
    model, other = seeded(Last), seeded(Last)
    quiet(model, (x, y), epochs=3, batch_size=16, optimizer=optimizer, lr=0.1, schedule="constant", shuffle=False)
    settings: Any = {"fused": False, **OPTIMIZERS[optimizer].settings}
    plain = OPTIMIZERS[optimizer].make(other.parameters(), lr=0.1, **settings)
    for _ in range(3):
        plain.zero_grad()
        nn.functional.cross_entropy(other(x), y).backward()
        plain.step()
    for name, value in model.state_dict().items():  # Adam turns rounding of tiny gradients into steps
        torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-2, atol=1e-3, msg=name)


def test_batch_size_one_and_all(tmp_path: Path) -> None:
    x, y = blobs(12)
    for size, steps in ((1, 24), (12, 2), (100, 2)):
        assert quiet(linear(), (x, y), epochs=2, batch_size=size).record["result"]["steps"] == steps


def test_history_holds_the_means_over_the_examples() -> None:
    x, y = blobs(10)
    model = linear()
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model(x), y)
    run = quiet(model, (x, y), validation=(x, y), epochs=1, batch_size=3, optimizer="sgd", lr=1e-12)
    assert run.history["loss"][0] == pytest.approx(float(expected), rel=1e-5)
    assert run.history["validation_loss"][0] == pytest.approx(float(expected), rel=1e-5)


def test_early_stopping_restores_the_best_weights() -> None:
    x, y = blobs(30, spread=1.0)
    vx, vy = blobs(60, seed=1, spread=1.0)
    seen: list[tuple[float, nn.Module]] = []

    def remember(epoch: Epoch) -> None:
        copy = seeded(lambda: nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 3)))
        copy.load_state_dict(epoch.model.state_dict())
        seen.append((epoch.row["validation_loss"], copy))

    net = seeded(lambda: nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 3)))
    run = quiet(net, (x, y), validation=(vx, vy), epochs=200, lr=0.05, patience=3, callbacks=[remember])
    losses = run.history["validation_loss"]
    best = min(range(len(losses)), key=losses.__getitem__)
    assert run.status == "stopped early" and len(losses) == best + 1 + 3 and run.best_epoch == best + 1
    assert same_weights(net, seen[best][1]) and not net.training
    assert run.validation is not None and run.validation["loss"] == pytest.approx(losses[best])
    kept = quiet(net, (x, y), validation=(vx, vy), epochs=3, restore_best=False)
    assert kept.best_epoch == 3


def test_test_data_are_measured_once_with_the_weights_kept() -> None:
    x, y = blobs(30)

    class Counted:
        rounds = 0

        def __iter__(self) -> Any:
            Counted.rounds += 1
            yield x, y

    run = quiet(linear(), (x, y), validation=(x, y), test=Counted(), epochs=3)
    assert Counted.rounds == 1 and run.test is not None
    assert run.test.values == evaluate(run.model, (x, y), [renamed("loss"), "accuracy"]).values
    assert run.test.interval is not None and run.test.interval[0] < run.test["accuracy"] <= run.test.interval[1]


def renamed(name: str) -> Any:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets)

    return loss


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    x, y = blobs()
    runs = [quiet(small_net(), (x, y), epochs=3, batch_size=16, seed=seed) for seed in (3, 3, 4)]
    assert same_weights(runs[0].model, runs[1].model) and not same_weights(runs[0].model, runs[2].model)
    assert runs[0].history["loss"] == runs[1].history["loss"]


def test_the_world_stays_as_it_was(global_randomness_untouched: None) -> None:
    model = small_net()
    quiet(model, blobs(), epochs=2)
    assert all(w.grad is None and w.requires_grad for w in model.parameters())


def test_clipping_l1_smoothing_weights_and_pieces_change_the_gradient_as_defined() -> None:
    x, y = blobs(12)
    start = linear()
    names = trainable(start)
    gradients = autograd_step(start, cross_entropy, names)(x, y)[2]

    def moved(**settings: Any) -> list[Tensor]:
        run = quiet(linear(), (x, y), epochs=1, batch_size=12, optimizer="sgd", lr=1.0, schedule="constant", **settings)
        return [a.detach() - b.detach() for a, b in zip(start.parameters(), run.model.parameters(), strict=True)]

    norm = torch.sqrt(sum((g.square().sum() for g in gradients), torch.zeros(())))
    for found, g, w in zip(moved(l1=0.3), gradients, start.parameters(), strict=True):
        torch.testing.assert_close(found, g + 0.3 * w.sign())
    for found, g in zip(moved(clip=0.01), gradients, strict=True):
        torch.testing.assert_close(found, g * 0.01 / norm, rtol=1e-3, atol=1e-7)
    for found, g in zip(moved(accumulate=5), gradients, strict=True):
        torch.testing.assert_close(found, g)
    for found, g, w in zip(moved(weight_decay=0.2), gradients, start.parameters(), strict=True):
        torch.testing.assert_close(found, g + 0.2 * w)
    weighted = moved(class_weights=(2.0, 2.0, 2.0))
    for found, g in zip(weighted, gradients, strict=True):
        torch.testing.assert_close(found, 2 * g)


def test_moving_average_is_the_recursion_and_is_what_is_kept() -> None:
    x, y = blobs(12)
    data = [(x[:6], y[:6]), (x[6:], y[6:])]
    plain, expected = linear(), {n: w.detach().clone() for n, w in linear().named_parameters()}
    for pair in data:
        quiet(plain, [pair], epochs=1, optimizer="sgd", lr=0.5, schedule="constant")
        expected = {n: 0.9 * expected[n] + 0.1 * w.detach() for n, w in plain.named_parameters()}
    run = quiet(linear(), data, epochs=1, optimizer="sgd", lr=0.5, schedule="constant", ema=0.9)
    for name, w in run.model.named_parameters():
        torch.testing.assert_close(w.detach(), expected[name])


def test_freezing_and_rates() -> None:
    net, before = small_net(), small_net()
    quiet(net, blobs(), epochs=2, freeze="0", rates={"4": 0.0001})
    assert torch.equal(net[0].weight, before[0].weight) and not torch.equal(net[4].weight, before[4].weight)  # type: ignore[index]


def test_schedule_reaches_the_history_and_callbacks_can_stop() -> None:
    rows: list[int] = []

    def stop(epoch: Epoch) -> bool:
        rows.append(epoch.number)
        return epoch.number == 2

    run = quiet(linear(), blobs(), epochs=10, schedule=lambda p: 1 - p, lr=1.0, optimizer="sgd", callbacks=[stop])
    assert rows == [1, 2] and run.status == "stopped early"
    assert run.history["learning_rate"] == pytest.approx([0.95, 0.85])  # two steps an epoch, twenty in all


def test_augmentation_and_adversary_see_every_batch_and_are_seeded() -> None:
    seen: list[float] = []

    def augment(x: Tensor, draw: torch.Generator) -> Tensor:
        return x + 0.1 * torch.randn(x.shape, generator=draw)

    def adversary(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        seen.append(float(x.sum()))
        return x

    for _ in range(2):
        quiet(linear(), blobs(), epochs=2, batch_size=48, augment=augment, adversary=adversary)
    assert len(seen) == 8 and seen[:4] == seen[4:] and len(set(seen[:4])) == 4


def test_bfloat16_and_lbfgs_train() -> None:
    assert quiet(linear(), blobs(), epochs=10, lr=0.1, precision="bfloat16").history["accuracy"][-1] > 0.9
    full = quiet(linear(), blobs(), epochs=2, batch_size=96, optimizer="lbfgs", schedule="constant")
    assert full.history["loss"][-1] < 0.5 * full.history["loss"][0]


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"epoch": 3}, LookupFailure, "'epochs'"),
        ({"epochs": -1}, ArgumentError, "epochs=-1"),
        ({"batch_size": 0}, ArgumentError, "batch_size=0"),
        ({"loss": "crossentropy"}, LookupFailure, "'cross_entropy'"),
        ({"optimizer": "adan"}, LookupFailure, "'adam'"),
        ({"schedule": "cosinus"}, LookupFailure, "'cosine'"),
        ({"metrics": ["acc"]}, LookupFailure, "'accuracy'"),
        ({"monitor": "top5"}, LookupFailure, "'loss'"),
        ({"patience": 3}, ArgumentError, "needs validation data"),
        ({"precision": "float8"}, ArgumentError, "'bfloat16'"),
        ({"freeze": ["head"]}, LookupFailure, "'head'"),
    ],
)
def test_wrong_settings_are_said_before_training(changes: dict[str, Any], kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        quiet(linear(), blobs(), **changes)


def test_wrong_data_are_said_before_training() -> None:
    x, y = blobs(6)
    x[4, 1] = torch.nan
    with pytest.raises(DataError, match=r"example 4 holds nan at index \(4, 1\)"):
        quiet(linear(), (x, y))
    with pytest.raises(DataError, match="validation data: 6 inputs but 5 targets"):
        quiet(linear(), blobs(6), validation=(x, y[:5]))


def test_run_folder_holds_everything(tmp_path: Path) -> None:
    run = quiet(linear(), blobs(), validation=blobs(seed=1), test=blobs(seed=2), epochs=3, out=tmp_path / "run")
    assert run.folder == tmp_path / "run"
    names = {path.name for path in run.folder.iterdir()}
    assert {"model.safetensors", "initial.safetensors", "run.json", "history.jsonl", "last.safetensors"} <= names
    record = json.loads((run.folder / "run.json").read_text())
    assert record["status"] == "completed" and record["settings"]["optimizer"] == "adam"
    assert {"python", "torch", "processor", "cores", "threads", "system"} <= set(record["environment"])
    assert record["result"]["test"]["n"] == 96 and record["model"]["parameters"] == 9
    lines = [json.loads(line) for line in (run.folder / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3] and lines[0]["loss"] == run.history["loss"][0]
    with pytest.raises(RunFolderError, match="resume=True"):
        quiet(linear(), blobs(), epochs=3, out=run.folder)
    other = run.folder / "notes.txt"
    other.write_text("mine")
    again = quiet(linear(), blobs(), epochs=1, out=run.folder, overwrite=True)
    assert len(again.history["epoch"]) == 1 and other.read_text() == "mine"


def test_folder_that_cannot_be_written_or_is_too_small_is_said_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="is a file"):
        quiet(linear(), blobs(), out=tmp_path / "file")
    with pytest.raises(RunFolderError, match="cannot be written"):
        quiet(linear(), blobs(), out=tmp_path / "file" / "run")
    monkeypatch.setattr(records.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(RunFolderError, match=r"0\.0 MB are free"):
        quiet(linear(), blobs(), out=tmp_path / "run")


def test_plot_draws_every_metric_and_save_is_readable(tmp_path: Path) -> None:
    run = quiet(linear(), blobs(), validation=blobs(seed=1), epochs=3)
    assert [axis.get_ylabel() for axis in run.plot().axes] == ["loss", "accuracy"]
    folder = run.save(tmp_path / "saved")
    assert json.loads((folder / "run.json").read_text())["status"] == "completed"


def test_rules_replace_backpropagation() -> None:
    def make() -> nn.Module:
        return seeded(lambda: nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 3)))

    plain = quiet(make(), blobs(), epochs=1, optimizer="sgd", lr=0.1)
    same = quiet(make(), blobs(), epochs=1, optimizer="sgd", lr=0.1, rules={})
    guided = quiet(make(), blobs(), epochs=1, optimizer="sgd", lr=0.1, rules=graph.rules.guided)
    assert same_weights(plain.model, same.model)
    assert torch.equal(guided.model[2].weight, plain.model[2].weight) is False  # type: ignore[index]
    assert not torch.equal(guided.model[0].weight, plain.model[0].weight)  # type: ignore[index]


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(6, 5), torch.zeros(6).long(), r"validation data: the network cannot take inputs of shape \(5,\)"),
        (torch.zeros(6, 2), torch.tensor([0, 1, 0, 0, 3, 0]), r"example 4 has the target 3 at index \(4,\).* 0 … 1"),
        (torch.zeros(6, 2), torch.tensor([0, 1, -1, 0, 1, 0]), r"example 2 has the target -1 at index \(2,\)"),
        (torch.zeros(6, 2), torch.zeros(6), "targets have type torch.float32"),
    ],
)
def test_data_that_do_not_fit_the_network_are_named_before_training(x, y, message) -> None:
    good, model = (torch.zeros(6, 2), torch.zeros(6).long()), nn.Linear(2, 2)
    before = model.weight.detach().clone()
    with pytest.raises(DataError, match=message):
        fit(model, good, validation=(x, y), epochs=1, progress=False)
    assert torch.equal(model.weight, before) and model.training
