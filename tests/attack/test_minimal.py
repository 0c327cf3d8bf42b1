"""Attacks that minimise distance and loss: the solver against scipy's, their pieces against definitions."""

from itertools import combinations

import pytest
import torch
from scipy.optimize import minimize as by_scipy

from cutaway import attack
from cutaway.attack.boxed import minimize
from cutaway.attack.elastic import shrink
from cutaway.attack.jsma import best_pair, best_single
from cutaway.attack.losses import Goal, log_success
from cutaway.attack.norms import lengths_l1
from cutaway.errors import ArgumentError

from .test_linear import smallest


@pytest.fixture
def case(linear, digits):
    x, y = digits[0][:30].double() * 0.5 + 0.25, digits[1][:30]
    right = linear(x).argmax(1) == y
    return linear, x[right], y[right]


@pytest.fixture
def quadratics():
    """Twelve convex quadratics of eight variables, most of whose minima lie outside the box."""
    g = torch.Generator().manual_seed(0)
    root = torch.randn(12, 8, 8, generator=g, dtype=torch.float64)
    matrix = root @ root.mT + 0.3 * torch.eye(8)
    return matrix, torch.randn(12, 8, generator=g, dtype=torch.float64) * 2, torch.rand(12, 8, generator=g).double()


def test_the_solver_finds_scipys_minima(quadratics):
    matrix, shift, start = quadratics

    def ask(points, rows):
        pull = (matrix[rows] @ points[:, :, None])[:, :, 0]
        return (0.5 * points * pull).sum(1) + (shift[rows] * points).sum(1), pull + shift[rows]

    found = minimize(ask, start, 300)
    assert found.min() == 0 and found.max() == 1  # some variables end at the box
    for row in range(len(start)):
        a, b = matrix[row].numpy(), shift[row].numpy()
        theirs = by_scipy(
            lambda v, a=a, b=b: (0.5 * v @ a @ v + b @ v, a @ v + b),
            start[row].numpy(),
            jac=True,
            method="L-BFGS-B",
            bounds=[(0, 1)] * 8,
            options={"ftol": 1e-14, "gtol": 1e-10},
        )
        mine = ask(found[row : row + 1], torch.tensor([row]))[0].item()
        assert mine == pytest.approx(theirs.fun, abs=1e-6)


def test_rows_of_the_solver_leave_and_do_not_disturb_the_others(quadratics):
    matrix, shift, start = quadratics
    asked = []

    def ask(points, rows):
        asked.append(len(rows))
        pull = (matrix[rows] @ points[:, :, None])[:, :, 0]
        return (0.5 * points * pull).sum(1) + (shift[rows] * points).sum(1), pull + shift[rows]

    together = minimize(ask, start, 100)
    assert asked[0] == 12 and asked[-1] < 12
    assert sorted(asked, reverse=True) == asked
    alone = minimize(lambda p, rows: ask(p, rows + 5), start[5:6], 100)
    assert torch.allclose(alone, together[5:6], atol=1e-9)


@pytest.mark.parametrize("goal", [Goal(torch.arange(20) % 6), Goal(torch.arange(20) % 6, torch.arange(1, 21) % 6)])
def test_log_success_is_its_formula(goal):
    z = torch.randn(20, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    p = z.softmax(1)[range(20), goal.pivot]
    expected = (1 - p).log() if goal.target is None else p.log()
    value, seed = log_success(z.detach(), goal)
    assert torch.allclose(value, expected.detach())
    assert torch.allclose(seed, torch.autograd.grad(expected.sum(), z)[0], atol=1e-12)


def test_log_success_pulls_where_a_network_is_sure():
    sure = torch.tensor([[90.0, 0.0]])
    value, seed = log_success(sure, Goal(torch.tensor([0])))
    assert value.item() == pytest.approx(-90)
    assert torch.allclose(seed, torch.tensor([[-1.0, 1.0]]))


def test_lbfgs_finds_the_nearest_hyperplane(case):
    linear, x, y = case
    needed = smallest(linear, x, y, 2)
    # The loss counts all classes; large logits make it that of the nearest one, with the same boundaries.
    found = attack.lbfgs(lambda images: 20 * linear(images), x, y, progress=False)
    assert found.success.all()
    assert (found.distance >= needed - 1e-6).all()
    assert (found.distance / needed).median() < 1.01
    assert (found.distance <= needed * 1.2).all()


def test_lbfgs_is_no_worse_than_carlini_and_wagner(net, digits):
    x, y = digits[0][:20], digits[1][:20]
    found = attack.lbfgs(net, x, y, progress=False)
    other = attack.carlini_wagner(net, x, y, steps=100, searches=6, rate=0.05, weight=0.1, progress=False)
    assert found.success.all()
    assert found.distance.mean() <= other.distance.mean() * 1.05
    assert found.asked["gradients"] < 20 * 9 * 50  # those whose minimum is found leave


def test_shrinking_is_the_sources_three_cases():
    x, point = torch.full((1, 1, 1, 5), 0.5), torch.tensor([[[[0.55, 0.45, 0.7, 0.2, 1.4]]]])
    assert torch.allclose(shrink(x, point, 0.1), torch.tensor([[[[0.5, 0.5, 0.6, 0.3, 1.0]]]]))


def test_elastic_net_changes_fewer_pixels_than_l2(net, digits):
    x, y = digits[0][:30], digits[1][:30]
    run = {"steps": 100, "searches": 4, "weight": 0.1, "progress": False, "control": False}
    sparse = attack.elastic_net(net, x, y, rate=0.05, beta=0.01, **run)
    dense = attack.carlini_wagner(net, x, y, rate=0.05, **run)
    assert sparse.success.all() and dense.success.all()
    assert (sparse.perturbation != 0).double().mean() < 0.5 * (dense.perturbation != 0).double().mean()
    assert sparse.distance.mean() < lengths_l1(dense.perturbation).mean()


def test_rules_of_the_elastic_net_choose_by_their_own_distance(net, digits):
    x, y = digits[0][:20], digits[1][:20]
    run = {"steps": 60, "searches": 4, "rate": 0.05, "weight": 0.1, "beta": 1e-3, "progress": False}
    l1, mixed = (attack.elastic_net(net, x, y, rule=rule, **run) for rule in ("l1", "elastic_net"))
    size = lambda found: 1e-3 * found.distance + found.perturbation.flatten(1).norm(dim=1).square()  # noqa: E731
    assert (l1.distance <= mixed.distance + 1e-6).all()
    assert (size(mixed) <= size(l1) + 1e-6).all()
    assert (l1.distance < mixed.distance - 1e-3).any() and (size(mixed) < size(l1) - 1e-4).any()
    with pytest.raises(LookupError, match="unknown rule 'l3'"):
        attack.elastic_net(net, x, y, rule="l3")


def test_the_best_pair_is_the_best_of_all_pairs():
    g = torch.Generator().manual_seed(0)
    gain, loss = torch.randn(60, 14, generator=g), torch.randn(60, 14, generator=g)
    gain[30:], loss[30:] = gain[30:].round(), loss[30:].round()  # ties
    can = torch.rand(60, 14, generator=g) < 0.8
    chosen, found = best_pair(gain, loss, can)
    for row in range(60):
        best = 0.0
        for p, q in combinations(can[row].nonzero()[:, 0].tolist(), 2):
            a, b = (gain[row, p] + gain[row, q]).item(), (loss[row, p] + loss[row, q]).item()
            best = max(best, a * b if a > 0 and b > 0 else 0.0)
        assert bool(found[row]) == (best > 0)
        if best > 0:
            p, q = chosen[row].tolist()
            assert p != q and can[row, p] and can[row, q]
            assert ((gain[row, p] + gain[row, q]) * (loss[row, p] + loss[row, q])).item() == pytest.approx(best)


def test_the_best_single_change_needs_both_signs():
    gain, loss = torch.tensor([[3.0, 2.0, -1.0, 9.0]]), torch.tensor([[-1.0, 2.0, -8.0, 9.0]])
    chosen, found = best_single(gain, loss, torch.tensor([[True, True, True, False]]))
    assert chosen.item() == 1 and found.item()
    assert not best_single(gain, loss, torch.tensor([[True, False, True, False]]))[1].item()


def test_jsma_moves_few_pixels_all_the_way(net, digits):
    x, y = digits[0][:40], digits[1][:40]
    found = attack.jsma(net, x, y, share=0.5, progress=False)
    moved = found.perturbation != 0
    assert (found.x[moved] == 1).all()  # brighter, to the end
    assert torch.equal(found.distance, moved.flatten(1).double().sum(1))
    assert (found.distance <= 32).all()
    assert not moved[~found.success].any()  # failures are given back as they were
    both = attack.jsma(net, x, y, share=0.5, direction="both", progress=False)
    assert both.success_rate >= found.success_rate
    assert both.control is not None and both.control.success_rate < both.success_rate
    assert torch.equal(both.control.distance, both.distance)
    with pytest.raises(ArgumentError, match="share"):
        attack.jsma(net, x, y, share=0)
    with pytest.raises(LookupError, match="direction 'upwards'"):
        attack.jsma(net, x, y, direction="upwards")


def test_jsma_counts_a_pixel_of_three_channels_once():
    model = lambda x: torch.stack([x.new_full((len(x),), 0.9), x[:, :, 0, 0].sum(1) - 0.5], 1)  # noqa: E731
    grey, label = torch.full((1, 3, 2, 2), 0.1), torch.tensor([0])
    with pytest.warns(attack.MaskedGradientWarning):
        found = attack.jsma(model, grey, label, share=0.5, pairs=False)
    assert not found.success.any()  # the label's logit is constant: no single change lowers it and raises the other
    moving = lambda x: model(x) - x.mean((1, 2, 3))[:, None] * torch.tensor([1.0, 0.0])  # noqa: E731
    found = attack.jsma(moving, grey, label, share=0.5, pairs=False)
    assert found.success.item() and found.distance.item() == 1


@pytest.mark.parametrize(("name", "norm"), [("lbfgs", "l1"), ("elastic_net", "l2"), ("jsma", "l1"), ("boundary", "l1")])
def test_other_norms_are_refused(name, norm, net, digits):
    with pytest.raises(ArgumentError, match=f"norm='{norm}': this attack works in"):
        getattr(attack, name)(net, digits[0][:2], digits[1][:2], norm=norm)
