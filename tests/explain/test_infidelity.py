"""Infidelity and max-sensitivity are their definitions, summed example by example."""

import numpy as np
import pytest
import torch
from torch import nn

from cutaway import explain
from cutaway import graph as G
from cutaway.explain.curves import filling
from cutaway.explain.infidelity import foretold, infidelity, parts
from cutaway.explain.objective import objective
from cutaway.explain.sensitivity import neighbours

TARGET = torch.tensor([1, 0, 4])


@torch.no_grad()
def by_sums(net, x, rate, fill, masks):
    """(Σ I·Φ, f(x) − f(x − I)) for every example and mask, one forward pass at a time."""
    net = net.eval()
    foretelling, changes = (torch.zeros(len(masks), len(x), dtype=torch.float64) for _ in range(2))
    for row, mask in enumerate(masks):
        for column, image in enumerate(x):
            taken = torch.where(mask, image - fill, 0.0)  # I
            after = net((image - taken)[None])[0, TARGET[column]]
            changes[row, column] = net(image[None])[0, TARGET[column]] - after
            foretelling[row, column] = (taken * rate[column]).sum()
    return foretelling, changes


@pytest.mark.parametrize("name", ["gradient", "gradient_x_input"])
def test_infidelity_is_its_definition(name, mixed, x):
    """A gradient is multiplied by what is taken away; gradient × input is it already where the fill is zero."""
    found = explain.METHODS[name](mixed, x, TARGET, score=False)
    rate = explain.gradient(mixed, x, TARGET, score=False).values
    masks, fill = parts(x, 20, 5), torch.zeros_like(x)
    ours = infidelity(
        G.capture(mixed, x), x, objective(x, TARGET, "logit"), foretold(name, found.values, x, fill), fill, masks
    )
    foretelling, changes = by_sums(mixed, x, rate, 0.0, masks)
    torch.testing.assert_close(ours.unscaled, (foretelling - changes).square().mean(0))
    torch.testing.assert_close(ours.changes, changes.square().mean(0))
    for example in range(3):  # the best factor, by least squares, and what it leaves
        solved = np.linalg.lstsq(foretelling[:, [example]].numpy(), changes[:, example].numpy(), rcond=None)
        assert ours.scale[example].item() == pytest.approx(solved[0][0], rel=1e-6)
        assert ours.values[example].item() == pytest.approx(solved[1][0] / 20, rel=1e-6)
    assert (ours.values <= ours.unscaled).all() and (ours.values <= ours.changes).all()


def test_a_layers_map_is_brought_to_the_inputs_places(mixed, x):
    found = explain.grad_cam(mixed, x, TARGET, layer="max_pool2d", score=False)
    filled = filling(x, "mean")
    expected = nn.functional.interpolate(found.values, (8, 8), mode="bilinear", align_corners=False).sum(1)
    torch.testing.assert_close(foretold("grad_cam", found.values, x, filled), expected)


def test_any_scale_of_a_map_has_the_same_infidelity(mixed, x):
    graph, goal, fill = G.capture(mixed, x), objective(x, TARGET, "logit"), torch.zeros_like(x)
    weights, masks = torch.rand(3, 8, 8, dtype=torch.float64), parts(x, 10, 0)
    first, second = (infidelity(graph, x, goal, factor * weights, fill, masks) for factor in (1.0, -7.0))
    torch.testing.assert_close(first.values, second.values)
    torch.testing.assert_close(first.scale, -7 * second.scale)
    nothing = infidelity(graph, x, goal, 0 * weights, fill, masks)
    torch.testing.assert_close(nothing.values, nothing.changes)
    assert (nothing.unexplained == 1).all()


def test_parts_are_rectangles_intervals_and_sets():
    squares = parts(torch.zeros(1, 3, 20, 30), 400, 1)
    sides = [squares.any(2).sum(1), squares.any(1).sum(1)]
    assert torch.equal(squares.flatten(1).sum(1), sides[0] * sides[1])  # full rectangles
    assert (sides[0].min(), sides[0].max(), sides[1].min(), sides[1].max()) == (1, 10, 1, 15)
    assert squares.float().mean(0).min() > 0  # every place is reached
    intervals = parts(torch.zeros(1, 2, 30), 300, 1)
    assert intervals.sum(1).max() == 15 and (intervals[:, 1:] != intervals[:, :-1]).sum(1).max() <= 2
    columns = parts(torch.zeros(1, 9), 300, 1)
    assert columns.sum(1).unique().tolist() == [1, 2, 3, 4]
    assert torch.equal(parts(torch.zeros(5, 9), 300, 1), columns)  # the same for every batch


def test_max_sensitivity_is_its_definition(mixed, x):
    found = explain.gradient(mixed, x, TARGET, score=False)
    checked = explain.check(
        found, mixed, x, stages=1, steps=1, samples=2, radius=0.05, neighbours=4, seed=3, progress=False
    )
    net, largest = mixed.eval(), torch.zeros(3, dtype=torch.float64)
    for change in neighbours(x, 0.05, 4, 3):
        assert change.abs().max() <= 0.05
        for example in range(3):
            moved = (x[example] + change[0])[None].requires_grad_()
            (gradient,) = torch.autograd.grad(net(moved)[0, TARGET[example]], moved)
            ratio = (gradient[0] - found.values[example]).norm() / found.values[example].norm()
            largest[example] = max(largest[example], ratio)
    torch.testing.assert_close(checked.sensitivity, largest)


def test_smoothing_makes_a_map_less_sensitive(digits):
    net, x, _ = digits
    sharp, smooth = (
        explain.check(found, net, x, stages=1, steps=1, samples=2, neighbours=3, radius=0.1, progress=False)
        for found in (explain.gradient(net, x, score=False), explain.smooth_grad(net, x, samples=40, score=False))
    )
    assert smooth.sensitivity.mean() < 0.7 * sharp.sensitivity.mean()


def test_a_map_that_knows_places_beats_the_same_values_elsewhere(digits):
    net, x, _ = digits
    good = explain.check(explain.occlusion(net, x, window=1, progress=False), net, x, stages=1, steps=1, progress=False)
    row = next(row for row in good.rows() if row["test"] == "infidelity")
    assert row["passed"] and row["value"] < 0.8 * row["against"]


def test_a_map_of_zeros_has_no_sensitivity():
    net = nn.Linear(4, 2)
    with torch.no_grad():
        net.weight.zero_()
    x = torch.rand(2, 4)
    checked = explain.check(explain.gradient(net, x, 0, score=False), net, x, progress=False)
    assert checked.sensitivity.isnan().all() and (checked.infidelity.values == 0).all()
    assert not checked.infidelity.unexplained.isnan().any()
