"""Pseudo-labels, contrast and the TensorBoard log."""

import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cutaway.data import load
from cutaway.errors import ArgumentError
from cutaway.rng import generator
from cutaway.train import Epoch, contrast, fit, predict, pretrain, pseudo_labels, range_test, tensorboard
from cutaway.train.tensorboard import checksum
from tests.train.common import blobs, seeded


def test_contrast_is_its_definition() -> None:
    z = torch.randn(6, 4, generator=generator(0, "z"), dtype=torch.float64)
    losses = contrast(z, temperature=0.3)
    for i in range(6):
        alike = [float(torch.dot(z[i], z[j]) / (z[i].norm() * z[j].norm())) / 0.3 for j in range(6)]
        partner = (i + 3) % 6
        total = sum(torch.tensor(value).exp() for j, value in enumerate(alike) if j != i)
        assert float(losses[i]) == pytest.approx(float(torch.log(total)) - alike[partner], rel=1e-6)
    with pytest.raises(ArgumentError, match="5 embeddings"):
        contrast(z[:5])


def test_pretraining_without_labels_helps_a_linear_reading() -> None:
    x, y = blobs(240, spread=0.35)
    hidden = torch.randn(2, 20, generator=generator(0, "mix")) * 0.7
    wide = torch.cat([x @ hidden, 2 * torch.randn(240, 20, generator=generator(1, "noise"))], 1)

    def jitter(batch: Tensor, draw: torch.Generator) -> Tensor:
        other = 2 * torch.randn(len(batch), 20, generator=draw)  # what differs between views is the noise
        return torch.cat([batch[:, :20] + 0.1 * torch.randn(len(batch), 20, generator=draw), other], 1)

    def reading(encoder: nn.Module) -> float:
        features = predict(encoder, wide)
        few = torch.cat([(y == k).nonzero()[:2, 0] for k in range(3)])
        run = fit(nn.Linear(8, 3), (features[few], y[few]), test=(features, y), epochs=100, lr=0.05, progress=False)
        assert run.test is not None
        return run.test["accuracy"]

    encoder = seeded(lambda: nn.Sequential(nn.Linear(40, 32), nn.ReLU(), nn.Linear(32, 8)))
    before = reading(encoder)
    run = pretrain(encoder, wide, jitter, epochs=25, batch_size=60, lr=5e-3, progress=False)
    assert run.history["loss"][-1] < run.history["loss"][0]
    assert reading(encoder) > before + 0.1


def test_pseudo_labels_are_the_sure_predictions() -> None:
    train, _, test = load("digits")

    def make() -> nn.Module:
        return seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))

    settings = {"epochs": 60, "lr": 3e-3, "batch_size": 15, "progress": False}
    found = pseudo_labels(make, train[:60], train.x[60:], test=test, rounds=2, confidence=0.7, **settings)
    sure, labels = predict(found.runs[1].model, train.x[60:]).softmax(1).max(1)
    assert torch.equal(found.chosen, sure >= 0.7) and torch.equal(found.labels, labels)
    assert 0 < int(found.chosen.sum()) < len(found.chosen)
    first, *_, last = (run.test["accuracy"] for run in found.runs if run.test is not None)
    assert last > first
    with pytest.raises(ArgumentError, match="confidence=1"):
        pseudo_labels(make, train[:60], train.x[60:], confidence=1)


def test_log_can_be_read_record_by_record(tmp_path: Path) -> None:
    log = tensorboard(tmp_path)
    for number in (1, 300):
        log(Epoch(number, {"epoch": number, "loss": 0.5, "validation_accuracy": 0.75}, nn.Identity(), None))
    data = next(tmp_path.iterdir()).read_bytes()
    messages = []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        for part, place in ((data[:8], 8), (data[12 : 12 + length], 12 + length)):
            value = checksum(part)
            masked = ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF
            assert struct.unpack("<I", data[place : place + 4])[0] == masked
        messages.append(data[12 : 12 + length])
        data = data[16 + length :]
    assert len(messages) == 3 and b"brain.Event:2" in messages[0]
    assert b"training/loss\x15" + struct.pack("<f", 0.5) in messages[1]
    assert b"validation/accuracy\x15" + struct.pack("<f", 0.75) in messages[2] and b"\x10\xac\x02" in messages[2]


def test_range_test_finds_a_rate_that_trains_and_leaves_the_model(global_randomness_untouched: None) -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3)))
    before = [weight.detach().clone() for weight in model.parameters()]
    found = range_test(model, blobs(), optimizer="sgd", batch_size=16, low=1e-4, high=1e4, progress=False)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert found.exploded is not None and found.suggestion < found.exploded
    run = fit(model, blobs(), optimizer="sgd", batch_size=16, lr=found.suggestion, epochs=10, progress=False)
    assert run.history["loss"][-1] < 0.5 * run.history["loss"][0]
    assert found.plot().axes[0].get_xscale() == "log"
    with pytest.raises(ArgumentError, match="low=1"):
        range_test(model, blobs(), low=1, high=0.1)
