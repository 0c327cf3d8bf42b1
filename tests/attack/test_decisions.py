"""Attacks that ask for decisions only: their starts, the boundary, and that nothing else is asked."""

import pytest
import torch

from cutaway import attack
from cutaway.attack.boundary import _sideways as sideways
from cutaway.attack.decisions import to_boundary
from cutaway.attack.oracle import Oracle
from cutaway.attack.problem import pose
from cutaway.errors import ArgumentError

from .test_contract import likely
from .test_linear import smallest

DECISIONS = [attack.boundary, attack.hop_skip_jump]
both = pytest.mark.parametrize("method", DECISIONS, ids=lambda method: method.__name__)
FEW = {attack.boundary: {"steps": 60}, attack.hop_skip_jump: {"steps": 2, "probes": 20}}


@pytest.fixture
def case(linear, digits):
    x, y = digits[0][:20].double() * 0.5 + 0.25, digits[1][:20]
    right = linear(x).argmax(1) == y
    return linear, x[right], y[right]


@both
def test_a_label_is_all_that_is_asked(method, net, digits, monkeypatch):
    def refuse(*_):
        raise AssertionError("a gradient was asked for")

    monkeypatch.setattr(Oracle, "ascent", refuse)
    monkeypatch.setattr(Oracle, "leads", refuse)
    decided = lambda x: torch.eye(10)[net(x).argmax(1)]  # noqa: E731
    x, y = digits[0][:10], digits[1][:10]
    found = method(decided, x, y, progress=False, **FEW[method])
    assert found.asked["gradients"] == 0
    assert found.success.all()
    assert torch.equal(net(found.x).argmax(1) != y, found.success)


def test_boundary_comes_near_the_nearest_hyperplane(case):
    linear, x, y = case
    found = attack.boundary(linear, x, y, steps=1500, pace=0.1, progress=False)
    needed = smallest(linear, x, y, 2)
    assert found.success.all()
    assert (found.distance >= needed - 1e-6).all()
    assert (found.distance / needed).median() < 1.1


@pytest.mark.parametrize(("norm", "dual"), [("l2", 2), ("linf", 1)])
def test_hop_skip_jump_comes_near_the_nearest_hyperplane(case, norm, dual):
    linear, x, y = case
    found = attack.hop_skip_jump(linear, x, y, norm=norm, steps=12, progress=False)
    needed = smallest(linear, x, y, dual)
    assert found.success.all()
    assert (found.distance >= needed - 1e-6).all()
    assert (found.distance / needed).median() < 1.3


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_bisection_ends_at_the_boundary(case, norm):
    linear, x, y = case
    problem = pose(linear, x, y, eps=None, norm=norm, target=None, seed=0)
    far = likely(lambda images: linear(images.double()), (y + 1) % 10).double()
    found = to_boundary(problem, far, 30)
    assert problem.goal.reached(linear(found)).all()
    back = x + (found - x) * (1 - 1e-4)
    assert not problem.goal.reached(linear(back)).any()


def test_a_sideways_step_is_across_the_line_and_keeps_the_distance(case):
    linear, _, y = case
    x = torch.full((len(y), 1, 8, 8), 0.5, dtype=torch.float64)  # far from the ends of the box
    problem = pose(linear, x, y, eps=None, norm="l2", target=None, seed=0)
    point = x + 0.1 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).double()
    size = torch.linspace(0.05, 0.4, len(x), dtype=torch.float64)
    before, after = (point - x).flatten(1), (sideways(problem, point, size, 0) - x).flatten(1)
    assert torch.allclose(after.norm(dim=1), before.norm(dim=1))
    cosine = (before * after).sum(1) / before.norm(dim=1).square()
    assert torch.allclose(cosine, (1 + size.square()).rsqrt())  # a right angle between line and step


@both
def test_targets_start_at_given_images(method, net, digits):
    x, y = digits[0][:12], digits[1][:12]
    wanted = (y + 3) % 10
    start = likely(net, wanted)
    found = method(net, x, y, target=wanted, start=start, progress=False, **FEW[method])
    assert found.success.all()
    assert (found.distance < (start - x).flatten(1).norm(dim=1)).all()
    assert found.settings["start"] == "given"
    with pytest.raises(ArgumentError, match="give start="):
        method(net, x, y, target=wanted, progress=False)


@both
def test_bad_starts_are_named(method, net, digits):
    x, y = digits[0][:4], digits[1][:4]
    right = net(x).argmax(1)
    for start, words in (
        (x[:2], r"\(2, 1, 8, 8\); expected images"),
        (x * 3, "in \\[0, 1\\]"),
        ("noise", "str"),
        (x, r"start\[0\] is not classified as another class than the label"),
    ):
        with pytest.raises(ArgumentError, match=words):
            method(net, x, right, start=start, progress=False)
    with pytest.raises(ArgumentError, match=r"start\[\d\] is not classified as the target"):
        method(net, x, y, target=(y + 1) % 10, start=x, progress=False)


@both
def test_no_start_means_failure_and_the_image_as_it_was(method, digits):
    same = lambda x: torch.eye(10)[[3]].expand(len(x), 10)  # noqa: E731
    x, y = digits[0][:4], torch.tensor([3, 3, 3, 1])  # the last is misclassified already
    found = method(same, x, y, progress=False, **FEW[method])
    assert found.success.tolist() == [False, False, False, True]
    assert torch.equal(found.x, x)


@both
def test_distances_only_fall(method, net, digits):
    found = method(net, digits[0][:8], digits[1][:8], progress=False, **FEW[method] | {"steps": 6})
    if method is attack.boundary:
        assert (found.trace[1:] <= found.trace[:-1] + 1e-6)[~found.trace[1:].isnan()].all()
    last = torch.stack([line[~line.isnan()].amin() for line in found.trace.T])
    assert torch.allclose(found.distance, last.double(), atol=1e-5)
