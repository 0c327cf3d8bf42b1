"""On softmax regression the best attacks are known: distances to hyperplanes, steepest directions, exact losses."""

from functools import partial

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


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_deepfool_finds_the_nearest_hyperplane(case, norm, dual):
    linear, x, y = case
    found = attack.deepfool(linear, x, y, norm=norm, overshoot=1e-4, progress=False)
    assert found.success.all()
    needed = smallest(linear, x, y, dual)
    free = (found.x.flatten(1).amin(1) > 0) & (found.x.flatten(1).amax(1) < 1)  # the box was not met
    assert free.double().mean() > 0.9
    assert torch.allclose(found.distance[free], needed[free], rtol=1e-3, atol=2e-5)  # a firm lead costs a little
    assert (found.distance >= needed).all()


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", float("inf"))])
def test_fab_finds_the_nearest_hyperplane(case, norm, dual):
    linear, x, y = case
    found = attack.fab(linear, x, y, norm=norm, steps=60, progress=False)
    assert found.success.all()
    needed = smallest(linear, x, y, dual)
    inside = (needed < 0.2) if norm != "l1" else torch.zeros(len(x), dtype=torch.bool)
    assert (found.distance >= needed - 1e-6).all()  # nothing is nearer than the nearest
    assert (found.distance[inside] <= needed[inside] * 1.006).all()  # 0.9 of the way back, 1.05 of the rest forth


def test_carlini_wagner_finds_the_nearest_hyperplane(case):
    linear, x, y = case
    found = attack.carlini_wagner(linear, x[:20], y[:20], steps=300, rate=0.02, weight=0.1, progress=False)
    needed = smallest(linear, x[:20], y[:20], 2)
    assert found.success.all()
    assert (found.distance >= needed - 1e-6).all()
    assert (found.distance / needed).median() < 1.005
    assert (found.distance <= needed * 1.2).all()


@pytest.mark.parametrize("shift", [0.0, -500.0], ids=["as trained", "all logits negative"])
def test_carlini_wagner_with_negative_logits_and_pixels_at_the_ends(linear, digits, shift):
    x, y = digits[0][:20].double().round(), digits[1][:20]  # every pixel is exactly 0 or 1
    found = attack.carlini_wagner(
        lambda images: linear(images) + shift, x, y, steps=150, rate=0.05, searches=6, weight=0.1, progress=False
    )
    assert found.success.all()
    assert found.distance.max() < 2


def test_failures_are_given_back_as_they_were(linear, digits):
    x, y = digits[0][:10].double(), digits[1][:10]
    constant = lambda images: linear(images) * 0 + torch.nn.functional.one_hot(y[:1], 10)  # noqa: E731
    rows = y == y[0]
    methods = (partial(attack.carlini_wagner, steps=10, searches=2), partial(attack.deepfool, steps=5))
    for method in methods:
        with pytest.warns(attack.MaskedGradientWarning):
            found = method(constant, x[rows], y[rows], progress=False)
        assert not found.success.any()
        assert torch.equal(found.x, x[rows])


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", float("inf"))])
@pytest.mark.parametrize("loss", ["cross_entropy", "dlr"])
def test_apgd_succeeds_exactly_beyond_the_hyperplane(case, norm, dual, loss):
    linear, x, y = case
    needed = smallest(linear, x, y, dual)
    eps = float(needed.median())
    found = attack.apgd(linear, x, y, eps=eps, norm=norm, loss=loss, restarts=3, progress=False)
    assert not found.success[needed > eps * 1.0001].any()
    # Cross-entropy may climb towards a class that is not the nearest one.
    assert found.success[needed < eps * 0.9].double().mean() > (0.95 if loss == "dlr" and norm != "l1" else 0.8)


def test_auto_attack_is_the_exact_answer_on_a_linear_model(case):
    linear, x, y = case
    needed = smallest(linear, x, y, 1)
    eps = float(needed.median())
    few = attack.Effort(steps=30, targets=9, queries=20)
    found = attack.auto_attack(linear, x, y, eps=eps, effort=few, progress=False)
    sure = (needed - eps).abs() > 0.005 * eps
    assert torch.equal(found.success[sure], (needed < eps)[sure])
