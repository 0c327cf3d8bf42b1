"""On softmax regression the best attacks are known: distances to hyperplanes, steepest directions, exact losses."""

import pytest
import torch

from cutaway import attack


@pytest.fixture
def case(linear, digits):
    x, y = digits[0][:60].double() * 0.5 + 0.25, digits[1][:60]  # away from the box, so that the ball alone decides
    right = linear(x).argmax(1) == y
    return linear, x[right], y[right]


def smallest(linear, x, y, dual):
    """Distance of each image to the nearest other class: min over k of (z_y − z_k)/‖w_y − w_k‖ in the dual norm."""
    z, w = linear(x).detach(), linear[1].weight.detach()
    gaps = z.gather(1, y[:, None]) - z  # (N, K)
    lengths = torch.linalg.vector_norm(w[y][:, None] - w[None], dual, dim=2)  # (N, K)
    return (gaps / lengths).scatter(1, y[:, None], torch.inf).amin(1)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_pgd_with_margin_succeeds_exactly_beyond_the_hyperplane(case, norm, dual):
    linear, x, y = case
    needed = smallest(linear, x, y, dual)
    eps = float(needed.median())
    best = torch.zeros(len(x), dtype=torch.bool)
    for target in range(10):
        rows = y != target
        found = attack.pgd(
            linear, x[rows], y[rows], eps=eps, norm=norm, target=target, steps=60, loss="margin", progress=False
        )
        best[rows.nonzero()[:, 0]] |= found.success
    assert not best[needed > eps * 1.0001].any()
    assert best[needed < eps * 0.97].all()


def test_fgsm_is_the_formula_and_its_loss_the_closed_form(case):
    linear, x, y = case
    leaf = x.clone().requires_grad_()
    torch.nn.functional.cross_entropy(linear(leaf), y, reduction="sum").backward()
    expected = (x + 0.05 * leaf.grad.sign()).clamp(0, 1)
    found = attack.fgsm(linear, x, y, eps=0.05)
    assert torch.allclose(found.x, expected, atol=1e-12)
    assert found.trace.shape == (1, len(x))


def test_trace_is_the_loss_and_rises(case):
    linear, x, y = case
    found = attack.pgd(linear, x, y, eps=0.02, steps=20, random_start=False, early_stop=False, progress=False)
    loss = torch.nn.functional.cross_entropy(linear(x), y, reduction="none").detach()
    assert torch.allclose(found.trace[0].double(), loss)
    assert (found.trace[-1] > found.trace[0]).all()


def test_early_stop_leaves_and_notes_nan(case):
    linear, x, y = case
    found = attack.pgd(linear, x, y, eps=0.2, steps=10, progress=False)
    gone = found.trace.isnan()
    assert gone.any()
    assert (gone[1:] >= gone[:-1]).all()  # who left stays away
    assert found.asked["gradients"] == int((~gone).sum())
    everything = attack.pgd(linear, x, y, eps=0.2, steps=10, early_stop=False, progress=False)
    assert everything.asked["gradients"] == 10 * len(x)


def test_restarts_only_help(net, digits):
    one = attack.pgd(net, *digits, eps=0.1, steps=5, progress=False)
    four = attack.pgd(net, *digits, eps=0.1, steps=5, restarts=4, progress=False)
    assert four.success_rate >= one.success_rate
    assert bool((four.success >= one.success).all())
