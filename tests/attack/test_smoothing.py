"""Randomised smoothing against the closed form for a linear classifier, and its bounds against scipy's."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from cutaway.attack import smoothing
from cutaway.attack.smoothing import Certificates, Smoothed, lower_bound, smoothed
from cutaway.errors import ArgumentError

SIGMA, SHAPE = 0.25, (1, 4, 4)


def linear() -> tuple[nn.Module, Tensor]:
    """Two classes, split by ⟨w, x⟩ = ⟨w, ½⟩ with |w| = 1; w."""
    draw = torch.Generator().manual_seed(0)
    direction = torch.randn(16, generator=draw)
    direction /= direction.norm()
    layer = nn.Linear(16, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([-direction, direction]))
        layer.bias.copy_(torch.stack([direction.sum(), -direction.sum()]) / 2)
    return nn.Sequential(nn.Flatten(), layer).eval(), direction


def at(distance: float, direction: Tensor) -> Tensor:
    """An image at this signed distance from the boundary."""
    return (0.5 + distance * direction).view(1, *SHAPE)


@pytest.mark.parametrize("distance", [0.1, 0.25, 0.45])
def test_radius_of_a_linear_classifier_is_its_distance(distance: float) -> None:
    """P(class) is Φ(d/σ), so that σ·Φ⁻¹(P) = d; the certified radius stays below it and comes close."""
    net, direction = linear()
    x = torch.cat([at(distance, direction), at(-distance, direction)])
    found = Smoothed(net, SIGMA).certify(x, torch.tensor([1, 0]), samples=20_000, progress=False)
    assert found.correct.all() and not found.abstained.any()
    assert ((found.radii <= distance) & (found.radii > distance - 0.03)).all()


def test_counts_are_binomial_with_the_closed_forms_probability() -> None:
    net, direction = linear()
    hits = int(Smoothed(net, SIGMA).counts(at(0.2, direction), 20_000)[0, 1])
    assert stats.binomtest(hits, 20_000, float(stats.norm.cdf(0.2 / SIGMA))).pvalue > 1e-3


def test_bounds_hold_as_often_as_they_say() -> None:
    """Of 300 certificates at confidence 0.9 about 10 % may be too large, whatever the seed."""
    net, direction = linear()
    x, y = at(0.15, direction), torch.tensor([1])
    radii = [
        float(Smoothed(net, SIGMA, seed=seed).certify(x, y, samples=200, confidence=0.9, progress=False).radii)
        for seed in range(300)
    ]
    wrong = int((np.array(radii) > 0.15).sum())
    assert wrong > 10 and stats.binomtest(wrong, 300, 0.1, alternative="greater").pvalue > 1e-3


@pytest.mark.parametrize("hits", [0, 1, 50, 99, 100])
def test_lower_bound_is_clopper_and_pearsons(hits: int) -> None:
    known = stats.binomtest(hits, 100, alternative="greater").proportion_ci(0.999, method="exact").low
    assert lower_bound(hits, 100, 0.001) == pytest.approx(known, abs=1e-9)


def test_all_samples_alike_give_the_largest_radius() -> None:
    net, direction = linear()
    found = Smoothed(net, 0.01).certify(at(0.4, direction), torch.tensor([1]), samples=500, progress=False)
    assert float(found.radii) == pytest.approx(0.01 * stats.norm.ppf(0.001 ** (1 / 500)))


def test_prediction_abstains_by_the_exact_test(monkeypatch: pytest.MonkeyPatch) -> None:
    net, direction = linear()
    x = at(0.3, direction)
    for first in range(50, 71):
        monkeypatch.setattr(Smoothed, "counts", lambda *rest, a=first: torch.tensor([[100 - a, a]]))
        sure = stats.binomtest(first, 100, 0.5).pvalue <= 0.01
        assert Smoothed(net, SIGMA).predict(x, samples=100, confidence=0.99).tolist() == [1 if sure else -1]


def test_at_the_boundary_it_abstains_and_far_away_it_does_not() -> None:
    net, direction = linear()
    x = torch.cat([at(0.0, direction), at(0.45, direction)])
    ours = smoothed(net, SIGMA)
    assert ours.predict(x).tolist() == [-1, 1]
    found = ours.certify(x, torch.tensor([1, 1]), samples=2000, progress=False)
    assert found.abstained.tolist() == [True, False] and float(found.radii[0]) == 0
    assert found.accuracy().value == 0.5 and found.accuracy(0.4).value in (0.0, 0.5) and found.accuracy(9).value == 0


def test_an_images_answer_depends_on_seed_and_place_only() -> None:
    net, direction = linear()
    x = torch.cat([at(d, direction) for d in (0.05, 0.1, 0.2)])
    y = torch.ones(3, dtype=torch.long)
    before = torch.get_rng_state()
    whole = Smoothed(net, SIGMA, batch_size=1000).certify(x, y, samples=1500, progress=False)
    pieces = Smoothed(net, SIGMA, batch_size=100).certify(x[:2], y[:2], samples=1500, progress=False)
    assert pieces.radii.shape == (2,) and torch.allclose(pieces.radii, whole.radii[:2], atol=0.05)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(whole.radii, Smoothed(net, SIGMA).certify(x, y, samples=1500, progress=False).radii)
    other = Smoothed(net, SIGMA, seed=1).certify(x, y, samples=1500, progress=False)
    assert not torch.equal(other.radii, whole.radii)


def test_the_model_keeps_its_mode() -> None:
    net, direction = linear()
    model = nn.Sequential(net, nn.Dropout()).train()
    with pytest.warns(UserWarning, match="training mode"):
        counts = Smoothed(model, SIGMA).counts(at(0.45, direction), 200)
    assert counts[0, 1] > 180 and model.training and model[1].training  # dropout was off


def test_plot_and_files(tmp_path: Path) -> None:
    found = Certificates(
        torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, -1]), torch.tensor([0.1, 0.5, 0.3, 0.0]), 0.5, 100, 0.999, 0
    )
    assert [found.accuracy(r).value for r in (0, 0.2, 0.6)] == [0.5, 0.25, 0]
    heights = np.asarray(found.plot().axes[0].lines[0].get_ydata())
    assert heights[0] == 50 and heights[-1] == 0
    words = json.loads(found.save(tmp_path / "a.json").read_text())
    assert words["classes"] == [0, 1, 0, -1] and words["sigma"] == 0.5
    assert found.save(tmp_path / "a.png").stat().st_size > 1000
    with pytest.raises(ArgumentError, match=r"a\.txt"):
        found.save(tmp_path / "a.txt")


def test_nonsense_is_refused() -> None:
    net, direction = linear()
    x, y = at(0.3, direction), torch.tensor([1])
    with pytest.raises(ArgumentError, match="sigma=0"):
        Smoothed(net, 0)
    with pytest.raises(ArgumentError, match="samples=0"):
        Smoothed(net, 1).certify(x, y, samples=0)
    with pytest.raises(ArgumentError, match="confidence=1"):
        Smoothed(net, 1).certify(x, y, confidence=1.0)
    with pytest.raises(ArgumentError, match=r"\[0, 1\]"):
        Smoothed(net, 1).predict(x * 9)
    with pytest.raises(ArgumentError, match="classes"):
        Smoothed(net, 1).certify(x, torch.tensor([7]))
    with pytest.raises(ArgumentError, match="hits"):
        smoothing.lower_bound(5, 3, 0.01)
