"""Adversarial training against loops written by hand, resumption to the bit, and catastrophic overfitting seen."""

import json
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cutaway import attack
from cutaway.errors import ArgumentError, LookupFailure, RunFolderError
from cutaway.rng import derive, generator
from cutaway.train import ADVERSARIES, CatastrophicOverfittingWarning, adversaries, fit
from cutaway.train.adversaries import FGSM, PGD, TRADES, Fast, Free, Noise
from cutaway.train.adversary import Adversary, Moment
from cutaway.train.ascent import ascend, by_autograd, gradient_of
from cutaway.train.gradients import autograd_step
from tests.train.common import same_weights, seeded

EPS, RATE, BATCH, STEPS = 0.1, 0.3, 8, 4


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autograd in the place of the engine, which takes its time to capture a network."""

    def step(model: Any, loss: Any, weights: Any, precision: Any, rules: Any, *rest: Any, **named: Any) -> Any:
        return autograd_step(model, loss, weights, precision, *rest, **named)

    monkeypatch.setattr("cutaway.train.prepare.make_step", step)
    monkeypatch.setattr("cutaway.train.ascent.gradient_of", lambda *given: lambda z: by_autograd(given[0], z, given[2]))


def images(n: int = BATCH * STEPS, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 1, 6, 6, generator=generator(3, "images"), dtype=dtype)
    return x, (x.flatten(1)[:, :18].sum(1) > x.flatten(1)[:, 18:].sum(1)).long()


def network(dtype: torch.dtype = torch.float64, dropout: float = 0.0) -> nn.Sequential:
    """Small, with batch norm, so that training and evaluation mode differ."""

    def make() -> nn.Sequential:
        head = nn.Linear(64, 2)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Dropout(dropout), head)

    return cast(nn.Sequential, seeded(make)).to(dtype)


def settings(**changes: Any) -> dict[str, Any]:
    usual = {"epochs": 1, "batch_size": BATCH, "optimizer": "sgd", "lr": RATE, "schedule": "constant"}
    return {**usual, "shuffle": False, "progress": False, "restore_best": False, **changes}


def slope(net: nn.Module, x: Tensor, value: Any, training: bool = False) -> Tensor:
    """The gradient of a function of the logits by the inputs, by autograd."""
    net.train(training)
    leaf = x.detach().clone().requires_grad_(True)
    found = torch.autograd.grad(value(net(leaf)), leaf)[0]
    net.train()
    return found


def by_hand(net: nn.Module, name: str, x: Tensor, y: Tensor) -> nn.Module:
    """The five methods as their papers write them, with autograd and plain SGD."""
    delta = torch.zeros(BATCH, *x.shape[1:], dtype=x.dtype)
    net.train()
    for step in range(STEPS):
        a, b = x[step * BATCH : (step + 1) * BATCH], y[step * BATCH : (step + 1) * BATCH]
        draw = generator(derive(0, "adversary", step), "noise" if name == "noise" else "start")
        loss = partial(F.cross_entropy, target=b)
        if name in ("pgd", "fast"):
            z = (a + EPS * (2 * torch.rand(a.shape, generator=draw, dtype=a.dtype) - 1)).clamp(0, 1)
            for _ in range(3 if name == "pgd" else 1):
                size = 0.05 if name == "pgd" else 1.25 * EPS
                z = z + size * slope(net, z, loss).sign()
                z = (a + (z - a).clamp(-EPS, EPS)).clamp(0, 1)
            descend(net, loss(net(z)))
        elif name == "fgsm":
            z = (a + EPS * slope(net, a, loss).sign()).clamp(0, 1)
            descend(net, 0.5 * loss(net(a)) + 0.5 * loss(net(z)))
        elif name == "trades":
            z = a + 0.001 * torch.randn(a.shape, generator=draw, dtype=a.dtype)
            net.eval()
            clean = net(a).softmax(1).detach()
            for _ in range(3):
                divergence = lambda out: F.kl_div(out.log_softmax(1), clean, reduction="sum")  # noqa: B023, E731
                z = z + 0.05 * slope(net, z, divergence).sign()
                z = (a + (z - a).clamp(-EPS, EPS)).clamp(0, 1)
            net.train()
            out = net(a)
            robust = F.kl_div(net(z).log_softmax(1), out.softmax(1), reduction="batchmean")
            descend(net, loss(out) + 2.0 * robust)
        elif name == "free":
            for _ in range(3):
                leaf = (a + delta).clamp(0, 1).requires_grad_(True)
                *weights, moved = torch.autograd.grad(loss(net(leaf)), [*net.parameters(), leaf])
                delta = (delta + EPS * moved.sign()).clamp(-EPS, EPS)
                move(net, weights)
        else:
            noise = 0.2 * torch.randn(a.shape, generator=draw, dtype=a.dtype)
            descend(net, loss(net((a + noise).clamp(0, 1))))
    return net


def descend(net: nn.Module, value: Tensor) -> None:
    move(net, torch.autograd.grad(value, list(net.parameters())))


def move(net: nn.Module, gradients: Any) -> None:
    with torch.no_grad():
        for weight, gradient in zip(net.parameters(), gradients, strict=True):
            weight -= RATE * gradient


MADE: dict[str, Adversary] = {
    "pgd": PGD(EPS, steps=3, step_size=0.05),
    "fgsm": FGSM(EPS),
    "fast": Fast(EPS),
    "free": Free(EPS, replays=3),
    "trades": TRADES(EPS, steps=3, step_size=0.05, beta=2.0),
    "noise": Noise(sigma=0.2),
}


@pytest.mark.parametrize("name", MADE)
def test_weights_are_those_of_a_loop_written_by_hand(name: str) -> None:
    x, y = images()
    ours = fit(network(), (x, y), adversary=MADE[name], **settings()).model
    for mine, theirs in zip(ours.parameters(), by_hand(network(), name, x, y).parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=0)


def test_table_and_tests_name_the_same_adversaries(quick: None) -> None:
    assert set(ADVERSARIES) == set(MADE)
    plain = fit(network(), images(), **settings()).model
    for name in ADVERSARIES:
        run = fit(network(), images(), adversary=name, **settings())
        assert not same_weights(run.model, plain)
        assert run.history["adversary_seconds"][0] >= 0 and run.history["gradients"][0] >= 1


@pytest.mark.parametrize(("name", "cost"), [("pgd", 4), ("fgsm", 3), ("fast", 2), ("free", 3), ("trades", 5)])
def test_history_records_the_gradients_that_were_computed(quick: None, name: str, cost: int) -> None:
    counted = 0

    class Counting(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            nonlocal counted
            counted += len(grads[0])
            return grads[0]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.body = nn.Parameter(torch.ones((), dtype=torch.float64)), network()

        def forward(self, x: Tensor) -> Tensor:
            return self.body(Counting.apply(x * self.scale))  # weights before the counter: every gradient passes it

    run = fit(Net(), images(), adversary=MADE[name], **settings())
    assert run.history["gradients"] == [cost]
    watched = 5 * BATCH * STEPS if name == "fast" else 0  # PGD-5 at the end of the epoch
    assert counted == cost * BATCH * STEPS + watched


@pytest.mark.parametrize("name", MADE)
def test_resuming_in_the_middle_gives_the_same_bits(quick: None, name: str, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    seen = 0

    def augment(x: Tensor, draw: torch.Generator) -> Tensor:
        nonlocal seen
        seen += 1
        if seen == 7:
            raise Stop
        return x.flip(3) if torch.rand((), generator=draw) < 0.5 else x

    how = settings(epochs=3, adversary=MADE[name], label_smoothing=0.1, ema=0.9, optimizer="adam", lr=0.01)
    data = images(BATCH * STEPS - 3)  # a last batch that is smaller
    with pytest.raises(Stop):
        fit(network(dropout=0.2), data, augment=augment, out=tmp_path, checkpoint_every=1, **how)
    seen = 100
    torch.manual_seed(99)
    resumed = fit(network(dropout=0.2), data, augment=augment, out=tmp_path, resume=True, **how)
    straight = fit(network(dropout=0.2), data, augment=augment, **how)
    assert same_weights(resumed.model, straight.model)
    for column in set(straight.history) - {"seconds", "adversary_seconds"}:
        assert resumed.history[column] == straight.history[column], column
    other = fit(network(dropout=0.2), data, augment=augment, **{**how, "seed": 1})
    assert not same_weights(other.model, straight.model)


def test_another_adversary_cannot_go_on_with_a_run(quick: None, tmp_path: Path) -> None:
    run = fit(network(), images(), adversary=PGD(EPS), out=tmp_path, **settings())
    assert run.settings["adversary"].startswith("PGD(eps=0.1, steps=7")
    for other in (PGD(EPS, steps=3), None):
        with pytest.raises(RunFolderError, match=r"settings\.adversary"):
            fit(network(), images(), adversary=other, out=tmp_path, resume=True, **settings())


def test_attacks_and_functions_are_adversaries_too(quick: None) -> None:
    x, y = images(dtype=torch.float32)
    net, seen = network(torch.float32), []

    def walk(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> attack.Attack:
        with pytest.warns(attack.ModelModeWarning):
            seen.append(attack.pgd(model, x, y, eps=EPS, steps=2, control=False, progress=False, seed=seed))
        return seen[-1]

    run = fit(net, (x, y), adversary=walk, **settings())
    assert len(seen) == STEPS and run.history["gradients"] == [None] and "adversary" not in run.settings
    assert all(0 < float(found.distance.max()) <= EPS + 1e-6 for found in seen)


def test_model_is_left_as_it_was_by_the_ascent() -> None:
    net = network(dropout=0.5).train()
    net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state, modes = torch.get_rng_state(), [part.training for part in net.modules()]
    for adversary in (PGD(EPS), FGSM(EPS), Fast(EPS), TRADES(EPS), Noise(eps=0.1)):
        x, y = images(5)
        first = adversary(net, x, y, seed=3)
        assert torch.equal(first, adversary(net, x, y, seed=3))
        assert first.shape[-3:] == x.shape[1:] and first.min() >= 0 and first.max() <= 1
    assert torch.equal(state, torch.get_rng_state()) and [part.training for part in net.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(weight.grad is None and weight.requires_grad for weight in net.parameters())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_ascent_stays_inside_ball_and_box_and_raises_the_loss(norm: str) -> None:
    net, (x, y) = network().eval(), images(16)
    found = PGD(0.4, steps=5, norm=norm)(net, x, y)
    length = (found - x).flatten(1).norm(dim=1) if norm == "l2" else (found - x).abs().amax((1, 2, 3))
    assert (length <= 0.4 + 1e-9).all() and found.min() >= 0 and found.max() <= 1
    assert F.cross_entropy(net(found), y) > F.cross_entropy(net(x), y) + 0.05


def test_l2_steps_are_the_normalised_gradient_projected() -> None:
    net, (x, y) = network().eval(), images(6)
    wanted = F.one_hot(y, 2).double()
    found, z = ascend(net, x, x, wanted, 0.3, 0.2, 3, "l2"), x
    for _ in range(3):
        g = slope(net.eval(), z, lambda out: F.cross_entropy(out, y, reduction="sum"))
        z = z + 0.2 * g / g.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        change = z - x
        z = (x + change * (0.3 / change.flatten(1).norm(dim=1)).clamp(max=1).view(-1, 1, 1, 1)).clamp(0, 1)
    torch.testing.assert_close(found, z, atol=1e-9, rtol=0)


def test_engine_and_autograd_walk_alike_and_weights_are_read_afresh() -> None:
    class Hidden(nn.Module):  # refuses to be captured
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) if float(x.detach().sum()) > -1 else x

    net, (x, y) = network(), images(6)
    for _ in range(2):
        by_engine = PGD(EPS, steps=3)(net, x, y)
        torch.testing.assert_close(by_engine, PGD(EPS, steps=3)(Hidden(net), x, y), atol=1e-9, rtol=0)
        with torch.no_grad():
            for value in [*net.parameters(), net[1].running_mean]:
                value += 0.3 * torch.randn(value.shape, generator=generator(1), dtype=value.dtype)


def test_gradients_stay_fresh_while_a_fused_optimiser_moves_the_weights() -> None:
    """In single precision the engine keeps convolutions packed, and fused optimisers do not count their changes."""
    gaps: list[float] = []

    def compare(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        wanted = F.one_hot(y, 2).float()
        ours, theirs = gradient_of(model, x, wanted)(x), by_autograd(model, x, wanted)
        gaps.append(float((ours - theirs).abs().max() / theirs.abs().max()))
        return x

    how = settings(optimizer="adam", lr=0.05)
    fit(network(torch.float32), images(dtype=torch.float32), adversary=compare, **how)
    assert len(gaps) == STEPS and max(gaps) < 1e-4


def test_perturbations_begin_small_with_a_warm_up() -> None:
    net, (x, y) = network(), images(4)
    reach = [
        float((PGD(EPS, warm_up=0.5).inputs(Moment(net, x, y, progress=at)) - x).abs().max()) for at in (0, 0.25, 1)
    ]
    assert reach == pytest.approx([0, EPS / 2, EPS])


def test_training_with_pgd_makes_a_network_robust_that_plain_training_does_not() -> None:
    draw = generator(5)
    y = torch.randint(0, 2, (400,), generator=draw)
    sign = (2.0 * y - 1)[:, None]
    strong = 0.5 + 0.15 * sign + 0.12 * torch.randn(400, 1, generator=draw)  # robust, but not always right
    weak = 0.5 + 0.02 * sign + 0.01 * torch.randn(400, 35, generator=draw)  # right together, and gone at ε = 0.1
    x = torch.cat([strong, weak], 1).view(400, 1, 6, 6).clamp(0, 1)
    robust = {}
    for adversary in (None, PGD(0.06, steps=3)):
        net = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 2)))
        fit(net, (x, y), adversary=adversary, epochs=15, lr=0.05, progress=False)
        robust[adversary is None] = 1 - attack.pgd(net, x, y, eps=0.06, progress=False).success.float().mean()
    assert robust[False] > robust[True] + 0.15


def planted(falls: list[float]) -> Any:
    """Let PGD-5 find these accuracies, epoch after epoch."""
    given = iter(falls)
    return lambda job, adversary: next(given)


def test_planted_collapse_stops_training_and_keeps_the_epoch_before(
    quick: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept: list[dict[str, Tensor]] = []

    def note(epoch: Any) -> None:
        kept.append({name: value.clone() for name, value in epoch.model.state_dict().items()})

    monkeypatch.setattr("cutaway.train.collapse._accuracy", planted([0.5, 0.62, 0.41]))
    with pytest.warns(CatastrophicOverfittingWarning, match=r"62 % to 41 % in epoch 3; the weights of epoch 2"):
        run = fit(network(), images(), adversary=Fast(EPS), out=tmp_path, callbacks=[note], **settings(epochs=9))
    assert run.status == "stopped early" and run.history["epoch"] == [1, 2, 3] and run.best_epoch == 2
    assert run.history["pgd5_accuracy"] == [0.5, 0.62, 0.41]
    assert run.history["catastrophic_overfitting"] == [None, None, True]
    assert all(torch.equal(kept[1][name], value) for name, value in run.model.state_dict().items())
    assert "epoch 2 are kept" in json.loads((tmp_path / "run.json").read_text())["result"]["reason"]


def test_a_fall_of_twenty_points_is_not_a_collapse(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutaway.train.collapse._accuracy", planted([0.5, 0.3, 0.1]))
    assert fit(network(), images(), adversary=Fast(EPS), **settings(epochs=3)).status == "completed"


def test_the_weights_before_are_kept_even_if_validation_prefers_the_collapsed(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cutaway.train.collapse._accuracy", planted([0.5, 0.1]))
    how = settings(epochs=5, restore_best=True)
    with pytest.warns(CatastrophicOverfittingWarning):
        run = fit(network(), images(), images(16), adversary=FGSM(EPS, fall=0.2), **how)
    once = fit(network(), images(), images(16), adversary=FGSM(EPS), **settings(epochs=1))
    assert run.best_epoch == 1 and same_weights(run.model, once.model)


def test_collapse_is_measured_by_real_steps(quick: None) -> None:
    """A callback swaps the robust weights for others that are as right on clean images but not robust."""
    y = torch.arange(64) % 2
    sign = (2.0 * y - 1)[:, None]
    x = (0.5 + torch.cat([0.4 * sign, 0.02 * sign.expand(-1, 35)], 1)).view(64, 1, 6, 6)
    layer = nn.Linear(36, 2)
    net = nn.Sequential(nn.Flatten(), layer)

    def weights(strong: float, weak: float) -> None:
        with torch.no_grad():
            row = torch.tensor([strong, *[weak] * 35])
            layer.weight.copy_(torch.stack([-row, row]))
            layer.bias.copy_(0.5 * torch.stack([row.sum(), -row.sum()]))

    def swap(epoch: Any) -> None:
        if epoch.number == 2:
            weights(0.0, 1.0)

    weights(1.0, 0.0)
    with pytest.warns(CatastrophicOverfittingWarning, match="100 % to 0 % in epoch 3"):
        run = fit(net, (x, y), adversary=Fast(EPS), callbacks=[swap], **settings(epochs=6, lr=1e-6))
    assert run.history["pgd5_accuracy"] == [1.0, 1.0, 0.0]
    assert net is run.model and layer.weight[1, :2].round().tolist() == [1.0, 0.0]


def test_smoothing_and_augmentation_combine_with_every_adversary(quick: None) -> None:
    x, y = images()
    for adversary in MADE.values():
        how = settings(adversary=adversary, label_smoothing=0.2)
        flipped = fit(network(), (x, y), augment=lambda a, draw: a.flip(2), **how).model
        assert same_weights(flipped, fit(network(), (x.flip(2), y), **how).model)
        assert not same_weights(flipped, fit(network(), (x.flip(2), y), adversary=adversary, **settings()).model)


def test_what_does_not_fit_is_refused(quick: None) -> None:
    x, y = images()
    with pytest.raises(LookupFailure, match="trades"):
        fit(network(), (x, y), adversary="trade", **settings())
    with pytest.raises(ArgumentError, match="adversary=3"):
        fit(network(), (x, y), adversary=3, **settings())  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="accumulate=2"):
        fit(network(), (x, y), adversary="free", accumulate=2, **settings())
    with pytest.raises(ArgumentError, match="class indices"):
        fit(network(), (x, torch.rand(len(x), 2).double()), adversary="pgd", loss="squared_error", **settings())
    for make in (lambda: PGD(eps=0), lambda: Fast(step_size=-1), lambda: PGD(warm_up=1.0), lambda: Noise()):
        with pytest.raises(ArgumentError, match=r"expected|give"):
            make()
    with pytest.raises(LookupFailure, match="l2"):
        adversaries.PGD(norm="l3")


@pytest.mark.parametrize("name", ["pgd", "trades", "free"])
def test_where_a_value_goes_wrong_is_named(name: str) -> None:
    class Log(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(36, 2).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x.flatten(1) - 0.2).log()

    with pytest.raises(ArithmeticError, match="log"):
        fit(Log(), images(), adversary=MADE[name], **settings())
