"""Dropout: its scaling, the ensemble it is, and the ensemble's predictions by drawing."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from cutaway import nets
from cutaway.errors import ArgumentError, NonFiniteError
from cutaway.rng import generator

UNITS, P = 7, 0.3  # hidden units, and the probability of dropping one


def network(activation: str = "tanh") -> nn.Sequential:
    """Linear, activation, dropout, linear: an ensemble of 2⁷ networks, in float64."""
    return nets.make("mlp", 4, UNITS, 3, seed=0, activation=activation, dropout=P).double()  # type: ignore[return-value]


def inputs(n: int = 5) -> torch.Tensor:
    return 2 * torch.randn(n, 4, dtype=torch.float64, generator=generator(1, "inputs"))


def ensemble(model: nn.Sequential, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (2⁷, N, K) of every thinned network and the probability (2⁷,) of its mask."""
    masks = torch.tensor(list(itertools.product((0.0, 1.0), repeat=UNITS)), dtype=torch.float64)  # (2⁷, 7)
    kept = masks.sum(1)
    hidden = model[:3](x).detach()  # (N, 7): flatten, linear, activation
    linear = model.linear2
    logits = (masks[:, None] * hidden / (1 - P)) @ linear.weight.T + linear.bias  # (2⁷, N, K)
    return logits.detach(), (1 - P) ** kept * P ** (UNITS - kept)


def seeded(model: nn.Module, x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        return model(x)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_kept_units_are_divided_by_the_keep_probability(p):
    x = torch.rand(50, 40, dtype=torch.float64, generator=generator(0)) + 1
    layer = nn.Dropout(p)
    y = seeded(layer, x.expand(400, 50, 40))
    kept = y != 0
    torch.testing.assert_close(y[kept], (x / (1 - p)).expand_as(y)[kept])
    n = y.numel()
    assert abs(kept.double().mean() - (1 - p)) < 5 * math.sqrt(p * (1 - p) / n)  # five standard errors
    error = math.sqrt(p / (1 - p) / 400)  # of the mean of 400 draws of y/x, whose variance is p/(1 − p)
    away = (y.mean(0) / x - 1) / error
    assert away.abs().max() < 5.5 and abs(away.pow(2).mean() - 1) < 0.15  # 2,000 draws of a standard normal
    assert torch.equal(layer.eval()(x), x)


def test_training_draws_one_of_the_thinned_networks():
    model, x = network(), inputs(1)
    logits, chances = ensemble(model, x)
    assert chances.sum().item() == pytest.approx(1)
    drawn = seeded(model.train(), x.expand(20_000, -1))  # (20000, 3)
    distance = torch.cdist(drawn, logits[:, 0])  # (20000, 2⁷)
    assert distance.min(1).values.max() < 1e-7
    counts = torch.bincount(distance.argmin(1), minlength=len(chances))
    expected = 20_000 * chances
    chi = ((counts - expected) ** 2 / expected).sum().item()  # 127 degrees of freedom: mean 127, sd 16
    assert abs(chi - 127) < 5 * 16


def test_mean_over_all_masks_of_a_linear_output_is_the_evaluation():
    for activation in ("tanh", "identity"):
        model, x = network(activation), inputs()
        logits, chances = ensemble(model, x)
        mean = torch.einsum("m,mnk->nk", chances, logits)
        torch.testing.assert_close(mean, model.eval()(x).detach(), rtol=1e-12, atol=1e-12)


def test_evaluation_is_the_geometric_mean_of_the_ensembles_predictions():
    model, x = network(), inputs()
    logits, chances = ensemble(model, x)
    geometric = torch.einsum("m,mnk->nk", chances, logits.log_softmax(2)).exp()
    geometric = geometric / geometric.sum(1, keepdim=True)
    torch.testing.assert_close(geometric, model.eval()(x).softmax(1).detach())
    arithmetic = torch.einsum("m,mnk->nk", chances, logits.softmax(2))
    assert (geometric - arithmetic).abs().max() > 0.005  # which Monte Carlo tends to


@pytest.mark.usefixtures("global_randomness_untouched")
def test_monte_carlo_tends_to_the_ensemble():
    model, x = network(), inputs()
    logits, chances = ensemble(model, x)
    p = logits.softmax(2)
    mean = torch.einsum("m,mnk->nk", chances, p)
    std = torch.einsum("m,mnk->nk", chances, (p - mean) ** 2).sqrt()
    entropy = -(mean * mean.log()).sum(1)
    information = entropy + torch.einsum("m,mnk->n", chances, p * p.log())
    found = nets.monte_carlo(model, x, samples=2000, progress=False)
    assert found.samples == 2000 and found.mean.shape == found.std.shape == (5, 3)
    assert ((found.mean - mean).abs() < 5 * std / math.sqrt(2000)).all()
    torch.testing.assert_close(found.std.double(), std, rtol=0.1, atol=0)
    torch.testing.assert_close(found.entropy.double(), entropy, rtol=0.03, atol=0)
    torch.testing.assert_close(found.mutual_information.double(), information, rtol=0.15, atol=0)
    torch.testing.assert_close(found.mean.sum(1), torch.ones(5))


def test_numbers_are_those_of_the_draws():
    """With samples kept by the model itself, mean, spread and entropies by their definitions."""

    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.kept = network(), []

        def forward(self, x):
            self.kept.append(self.net(x))
            return self.kept[-1]

    model = Keeping()
    found = nets.monte_carlo(model, inputs(), samples=12, progress=False)
    p = torch.stack(model.kept).softmax(2)  # (12, 5, 3)
    mean = p.mean(0)
    entropy = -(mean * mean.log()).sum(1)
    expected = (mean, p.std(0), entropy, entropy + (p * p.log()).sum(2).mean(0))
    for name, value in zip(("mean", "std", "entropy", "mutual_information"), expected, strict=True):
        torch.testing.assert_close(getattr(found, name), value.float())


@pytest.mark.parametrize("train", [True, False])
def test_only_dropout_is_switched_on_and_the_model_is_left_alone(train):
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
    model.train()(torch.randn(50, 4, generator=generator(2)) * 3 + 1)  # statistics that are not 0 and 1
    model.train(train)
    model[2].eval()
    model[0].requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x, state = inputs().float(), torch.get_rng_state()
    together = nets.monte_carlo(model, x, samples=400, progress=False)
    alone = nets.monte_carlo(model, x[:1], samples=400, progress=False)  # in training mode batch norm would refuse
    torch.testing.assert_close(alone.mean[0], together.mean[0], atol=0.1, rtol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in model] == [train, train, False, train] and model.training is train
    assert [parameter.requires_grad for parameter in model[0].parameters()] == [False, False]
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model[1:].parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not together.mean.requires_grad
    hidden = model[:2].eval()(x)  # batch norm with its fixed statistics: the ensemble of 2⁶ networks by its masks
    masks = torch.tensor(list(itertools.product((0.0, 2.0), repeat=6)))
    mean = model[3](masks[:, None] * hidden).softmax(2).mean(0).detach()
    torch.testing.assert_close(together.mean, mean, atol=0.06, rtol=0)


def test_the_seed_fixes_the_draws_and_more_samples_go_on():
    model, x = network(), inputs()

    def draw(**settings):
        return nets.monte_carlo(model, x, **{"samples": 6, "progress": False, **settings})

    first, again, other = draw(), draw(), draw(seed=1)
    torch.manual_seed(77)
    assert torch.equal(first.mean, again.mean) and torch.equal(first.std, draw().std)
    assert not torch.allclose(first.mean, other.mean) and other.seed == 1
    both = [(draw(samples=samples).mean * samples).double() for samples in (6, 7)]
    seventh = both[1] - both[0]
    assert seventh.min() > -1e-5
    torch.testing.assert_close(seventh.sum(1), torch.ones(5, dtype=torch.float64), atol=1e-4, rtol=0)
    logits, _ = ensemble(model, x)
    nearest = (logits.softmax(2) - seventh).abs().amax(2).min(0).values
    assert nearest.max() < 1e-5  # the seventh network is one of the ensemble
    parts = draw(batch_size=2)
    assert parts.mean.shape == (5, 3)
    assert torch.equal(parts.mean[:2], nets.monte_carlo(model, x[:2], samples=6, progress=False).mean)


class Written(nn.Module):
    """Dropout called as a function, of whole channels, and within attention."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p, self.linear = p, nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(nn.functional.dropout(x, self.p, self.training))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Written(), (8,)),
        (nn.Sequential(nn.Unflatten(1, (8, 1, 1)), nn.Dropout2d(), nn.Flatten(), nn.Linear(8, 3)), (8,)),
        (nn.Sequential(nn.AlphaDropout(), nn.Linear(8, 3)), (8,)),
        (
            nn.Sequential(
                nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True), nn.Flatten(), nn.Linear(32, 3)
            ),
            (4, 8),
        ),
    ],
    ids=["function", "channels", "alpha", "transformer"],
)
def test_every_way_to_write_dropout_is_switched_on(model, shape):
    x = torch.ones(3, *shape)
    found = nets.monte_carlo(model.eval(), x, samples=8, progress=False)
    assert found.std.amax(1).min() > 1e-3 and found.mutual_information.min() > 0
    assert torch.equal(model(x), model(x))


def test_a_network_that_agrees_with_itself_has_no_mutual_information():
    model = nets.make("mlp", 4, 8, 3, seed=0, dropout=0.5)
    nn.init.zeros_(model.linear2.weight)  # type: ignore[union-attr]
    model.linear2.bias.data = torch.tensor([0.0, 1.0, 2.0])  # type: ignore[union-attr]
    found = nets.monte_carlo(model, torch.ones(2, 4), samples=5, progress=False)
    p = torch.tensor([0.0, 1.0, 2.0]).softmax(0)
    torch.testing.assert_close(found.entropy, (-(p * p.log()).sum()).expand(2))
    assert found.mutual_information.abs().max() < 1e-6 and found.std.max() < 1e-6


def test_errors_say_what_was_given_and_what_to_do():
    x = torch.ones(2, 4)
    for model in (nets.mlp(4, 8, 3), nn.Sequential(nn.Dropout(0.0), nn.Linear(4, 3))):
        with pytest.raises(ArgumentError, match=r"Sequential drops nothing.*dropout=0\.5"):
            nets.monte_carlo(model, x, progress=False)
        assert model.training
    model = nets.mlp(4, 8, 3, dropout=0.5)
    for settings in ({"samples": 1}, {"batch_size": 0}):
        (name, value), *_ = settings.items()
        with pytest.raises(ArgumentError, match=f"{name}={value}"):
            nets.monte_carlo(model, x, **settings)
    with pytest.raises(ArgumentError, match="0 inputs"):
        nets.monte_carlo(model, x[:0])
    for wrong, given in ((nn.Dropout(), r"\(2, 4, 1\) to 2"), (nn.Sequential(nn.Dropout(), nn.Flatten()), r"\(2, 1\)")):
        with pytest.raises(ArgumentError, match=rf"{given}.*\(2, K\) with K ≥ 2"):
            nets.monte_carlo(wrong, torch.ones(2, 4, 1)[:, : 4 if isinstance(wrong, nn.Dropout) else 1], progress=False)
    bad = x.clone()
    bad[1, 2] = math.nan
    with pytest.raises(NonFiniteError, match="answers input 1 with NaN"):
        nets.monte_carlo(model, bad, batch_size=1, progress=False)


def test_result_is_frozen_saved_and_drawn(tmp_path):
    found = nets.monte_carlo(network(), inputs(), samples=5, seed=3, progress=False)
    with pytest.raises(AttributeError):
        found.samples = 7  # type: ignore[misc]
    with np.load(found.save(tmp_path / "a.npz")) as held:
        assert json.loads(str(held["about"])) == {"samples": 5, "seed": 3}
        for name in ("mean", "std", "entropy", "mutual_information"):
            assert np.array_equal(held[name], getattr(found, name).numpy())
    assert found.save(tmp_path / "a.png").stat().st_size > 1000
    axes = found.plot(inputs=2, classes=2).axes
    assert len(axes) == 2
    assert [bar.get_height() for bar in axes[1].patches] == pytest.approx(found.mean[1].topk(2).values.tolist())
    with pytest.raises(ArgumentError, match=r"a\.txt"):
        found.save(tmp_path / "a.txt")
