"""Training in float16: the loss is scaled, steps that overflow are left out, and only a scale of nothing stops it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cutaway import data, nets
from cutaway.errors import ArgumentError, NonFiniteError
from cutaway.train import fit
from cutaway.train.checkpoint import load_checkpoint
from cutaway.train.gradients import autograd_step, trainable
from cutaway.train.losses import LOSSES
from tests.train.common import blobs, same_weights, seeded
from tests.train.test_guard import Logarithm
from tests.train.victim import train as victim

START = 65536.0  # the scale torch begins with


def small() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 3)))


def half(model: nn.Module, pair: tuple[Tensor, Tensor], **settings: Any) -> Any:
    return fit(model, pair, precision="float16", progress=False, **{"batch_size": 8, **settings})


def test_it_learns_the_digits() -> None:
    train, validation, test = data.load("digits")
    run = fit(
        nets.make("mlp", 64, 32, 10, seed=0), train, validation, test, epochs=8, lr=0.01, precision="float16",
        progress=False,
    )  # fmt: skip
    assert run.test is not None and run.test["accuracy"] > 0.93
    assert all(weight.dtype is torch.float32 for weight in run.model.parameters())


def test_the_forward_pass_is_in_float16_and_the_gradients_are_scaled() -> None:
    model, (x, y) = small(), blobs(24)
    _, _, expected = autograd_step(model, LOSSES["cross_entropy"], trainable(model))(x, y)
    step = autograd_step(model, LOSSES["cross_entropy"], trainable(model), "float16", scaled=lambda value: value * 8)
    _, outputs, found = step(x, y)
    assert outputs.dtype is torch.float16
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other * 8, rtol=0.02, atol=0.02)


def test_small_gradients_survive_only_by_the_scale() -> None:
    def tiny(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.square().sum(1) * 1e-7  # its gradients in float16 are below the smallest number

    model, (x, y) = seeded(lambda: nn.Sequential(nn.Linear(2, 8), nn.Linear(8, 3))), blobs(8)
    plain, scaled = (
        autograd_step(model, tiny, trainable(model), "float16", scaled=told)(x, y)[2][0]
        for told in (None, lambda value: value * START)
    )
    assert not plain.any() and scaled.any()


def test_steps_that_overflow_are_left_out_and_training_goes_on(tmp_path: Path) -> None:
    def steep(outputs: Tensor, targets: Tensor) -> Tensor:
        return 1e3 * LOSSES["cross_entropy"](outputs, targets)

    run = half(small(), blobs(), epochs=3, loss=steep, optimizer="sgd", lr=1e-5, out=tmp_path)
    state = load_checkpoint(tmp_path)
    assert run.status == "completed" and state is not None
    assert 1.0 < state["scaler"]["scale"] < START
    assert run.history["loss"][-1] < run.history["loss"][0]


def test_a_step_that_overflows_moves_nothing() -> None:
    for optimizer in ("adam", "rmsprop"):
        start, model = small(), small()
        half(model, blobs(8), epochs=1, optimizer=optimizer, loss=lambda z, t: 1e5 * z.square().sum(1))
        assert same_weights(start, model)


def test_stopped_mid_epoch_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = victim(None, precision="float16")
    count = 0

    def fails(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        nonlocal count
        count += 1
        if count > 37:
            raise RuntimeError("stop here")
        return x

    with pytest.raises(RuntimeError, match="stop here"):
        victim(tmp_path, precision="float16", checkpoint_every=5, adversary=fails)
    state = load_checkpoint(tmp_path)
    assert state is not None and state["scaler"]["_growth_tracker"] > 0
    assert same_weights(victim(tmp_path, precision="float16"), whole)


def test_the_guard_stops_when_the_scale_has_fallen_to_nothing() -> None:
    x, y = blobs()
    with pytest.raises(NonFiniteError, match=r"'log.*NaN.*overflowed until the loss scale was nothing"):
        half(seeded(Logarithm), (torch.full_like(x, -4.0), y), epochs=20)


def test_one_batch_that_is_not_finite_is_left_out() -> None:
    x, y = blobs()
    x[43] = -4.0
    run = half(seeded(Logarithm), (x, y), epochs=3, schedule="constant")
    assert run.status == "completed" and all(bool(w.isfinite().all()) for w in run.model.parameters())


def test_what_cannot_leave_out_steps_is_refused() -> None:
    for told in ({"optimizer": "lbfgs"}, {"adversary": "free"}):
        with pytest.raises(ArgumentError, match="float16"):
            half(small(), blobs(), epochs=1, **told)
