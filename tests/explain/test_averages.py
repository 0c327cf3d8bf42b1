import copy

import numpy as np
import pytest
import torch
from torch import nn

from cutaway import explain, rng
from cutaway.errors import ArgumentError
from cutaway.explain import frame
from cutaway.explain.averages import quadrature


def test_integrated_gradients_of_a_cube_with_few_steps_is_exact():
    x = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    found = explain.integrated_gradients(lambda x: (x**3).sum(1, keepdim=True), x, 0, steps=2)
    torch.testing.assert_close(found.values, x**3)
    assert found.gap.max() < 1e-12


def test_integrated_gradients_of_a_linear_model_from_a_baseline():
    net, x = nn.Linear(4, 2).double(), torch.rand(3, 4, dtype=torch.float64)
    baseline = torch.tensor([0.1, 0.2, 0.3, 0.4])
    found = explain.integrated_gradients(net, x, 1, baseline=baseline, steps=1)
    torch.testing.assert_close(found.values, (x - baseline) * net.weight[1], rtol=1e-6, atol=1e-7)


def test_integrated_gradients_is_the_integral(mixed, x):
    """Against a midpoint sum with many steps, by autograd."""
    net, target = copy.deepcopy(mixed).eval(), torch.tensor([0, 1, 2])
    total, steps = torch.zeros_like(x), 400
    for k in range(steps):
        point = (x * (k + 0.5) / steps).requires_grad_()
        total += torch.autograd.grad(net(point).gather(1, target[:, None]).sum(), point)[0] / steps
    found = explain.integrated_gradients(mixed, x, target, steps=100, score=False)
    assert (found.values - x * total).abs().max() < 0.02 * (x * total).abs().max()


def test_completeness_gap_is_the_error_of_the_sum(mixed, x):
    found = explain.integrated_gradients(mixed, x, 3, steps=3, baseline=0.5, score=False)
    net = copy.deepcopy(mixed).eval()
    promised = net(x)[:, 3] - net(torch.full_like(x, 0.5))[:, 3]
    expected = (found.values.sum((1, 2, 3)) - promised).abs() / promised.abs()
    torch.testing.assert_close(found.gap, expected.detach())


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 21, 50, 61])
def test_quadrature_is_exact_for_polynomials(steps):
    places, weights = quadrature(steps)
    assert len(places) == len(weights) == steps and (places > 0).all() and (places < 1).all()
    degree = 2 * (steps if steps <= 20 else steps // -(-steps // 20)) - 1
    for power in {0, 1, degree}:
        assert weights @ places**power == pytest.approx(1 / (power + 1), rel=1e-10)


def test_a_tolerance_is_met_and_a_gap_is_reported(mixed, x):
    met = explain.integrated_gradients(mixed, x, 3, steps=2, tolerance=0.01, score=False)
    assert met.gap.max() <= 0.01 and not met.warning
    again = explain.integrated_gradients(mixed, x, 3, score=False, **met.settings)  # the steps that were chosen
    assert torch.equal(again.values, met.values)
    coarse = explain.integrated_gradients(mixed, x, 3, steps=1, score=False)
    assert (coarse.gap.max() > 0.05) == ("miss the sum" in coarse.warning)
    assert coarse.gap.max() > 0.05
    unmet = explain.integrated_gradients(mixed, x[:1], 3, steps=1280, tolerance=1e-12, score=False)
    assert "miss the sum" in unmet.warning


def test_smooth_grad_is_the_mean_over_noisy_copies(mixed, x):
    found = explain.smooth_grad(mixed, x, 2, samples=5, noise=0.2, seed=7, score=False)
    generator = rng.generator(7, "smooth_grad")
    spread = 0.2 * (x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True))
    net, total = copy.deepcopy(mixed).eval(), torch.zeros_like(x)
    for _ in range(5):
        noise = torch.randn(1, 3, 8, 8, generator=generator, dtype=torch.float64)
        noisy = (x + spread * noise).requires_grad_()
        total += torch.autograd.grad(net(noisy)[:, 2].sum(), noisy)[0] / 5
    torch.testing.assert_close(found.values, total, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("method", [explain.smooth_grad, explain.integrated_gradients])
def test_passes_may_be_cut_anyhow(mixed, x, method, monkeypatch):
    whole = method(mixed, x, [0, 1, 2], score=False)
    monkeypatch.setattr(frame, "CHUNK", 3 * x.numel())
    torch.testing.assert_close(method(mixed, x, [0, 1, 2], score=False).values, whole.values)


def test_wrong_arguments_are_refused(mixed, x):
    with pytest.raises(ArgumentError, match="samples=0"):
        explain.smooth_grad(mixed, x, samples=0)
    with pytest.raises(ArgumentError, match="steps=0"):
        explain.integrated_gradients(mixed, x, steps=0)
    with pytest.raises(ArgumentError, match=r"\(7,\) does not broadcast"):
        explain.integrated_gradients(mixed, x, baseline=torch.from_numpy(np.zeros(7)))


def test_var_grad_is_the_variance_over_noisy_copies(mixed, x):
    found = explain.var_grad(mixed, x, 2, samples=6, noise=0.2, seed=7, score=False)
    generator = rng.generator(7, "smooth_grad")
    spread = 0.2 * (x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True))
    net, gradients = copy.deepcopy(mixed).eval(), []
    for _ in range(6):
        noisy = (x + spread * torch.randn(1, 3, 8, 8, generator=generator, dtype=torch.float64)).requires_grad_()
        gradients.append(torch.autograd.grad(net(noisy)[:, 2].sum(), noisy)[0])
    torch.testing.assert_close(found.values, torch.stack(gradients).var(0), rtol=1e-8, atol=1e-12)
    with pytest.raises(ArgumentError, match="samples >= 2"):
        explain.var_grad(mixed, x, samples=1)


def test_twenty_steps_are_exact_where_others_are_off_by_percents():
    """x³ from 0 to 1: with end points at full weight, or left sums, twenty steps miss by 2.6 % and 7.6 %."""
    found = explain.integrated_gradients(lambda x: x**3, torch.ones(1, 1), 0, steps=20, score=False)
    assert found.values.item() == pytest.approx(1.0, abs=1e-3)
