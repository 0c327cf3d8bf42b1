"""Geometry against definitions: projections by numerical optimisation, steepest points by linear programming."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from cutaway.attack.draws import Draws
from cutaway.attack.norms import LENGTHS, NORMS, lengths_l0

RADII = {"linf": 0.3, "l2": 0.9, "l1": 1.7}


@pytest.fixture
def points():
    g = torch.Generator().manual_seed(3)
    x = torch.rand(40, 1, 3, 3, generator=g, dtype=torch.float64)
    x[:5] = x[:5].round()  # pixels exactly at 0 and 1
    return x, x + torch.randn(40, 1, 3, 3, generator=g, dtype=torch.float64)


def by_solver(x, point, norm, radius):
    """The nearest point of ball and box, by a general solver: variables are the two signs' movements."""
    x, point = x.flatten().numpy(), point.flatten().numpy()
    d = len(x)
    bounds = [(0, 1 - v) for v in x] + [(0, v) for v in x]
    moved = lambda v: v[:d] - v[d:]  # noqa: E731
    limits = {
        "l1": lambda v: radius - v.sum(),
        "l2": lambda v: radius**2 - (moved(v) ** 2).sum(),
        "linf": lambda v: radius - np.abs(moved(v)),
    }
    found = minimize(
        lambda v: ((x + moved(v) - point) ** 2).sum(),
        np.zeros(2 * d) + 1e-3,
        jac=lambda v: np.concatenate([2 * (x + moved(v) - point), -2 * (x + moved(v) - point)]),
        bounds=bounds,
        constraints={"type": "ineq", "fun": limits[norm]},
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-14},
    )
    return x + moved(found.x)


@pytest.mark.parametrize("norm", NORMS)
def test_projection_is_the_nearest_point(points, norm):
    x, point = points
    radii = torch.full((len(x),), RADII[norm], dtype=torch.float64)
    mine = NORMS[norm].project(x, point, radii)
    for row in range(0, len(x), 4):
        theirs = torch.tensor(by_solver(x[row], point[row], norm, RADII[norm]))
        reached = (mine[row].flatten() - point[row].flatten()).norm()
        assert reached <= (theirs - point[row].flatten()).norm() + 1e-6
        assert (mine[row].flatten() - theirs).abs().max() < 1e-3


@pytest.mark.parametrize("norm", NORMS)
def test_projection_stays_inside_and_keeps_what_is_inside(points, norm):
    x, point = points
    radii = torch.linspace(0, 2, len(x), dtype=torch.float64)
    once = NORMS[norm].project(x, point, radii)
    assert (NORMS[norm].lengths(once - x) <= radii + 1e-12).all()
    assert once.min() >= 0
    assert once.max() <= 1
    assert torch.allclose(NORMS[norm].project(x, once, radii), once, atol=1e-12)
    assert torch.equal(once[0], x[0])  # radius 0


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_ascent_is_the_linear_programme(points, norm):
    x, g = points[0], points[1] - 0.4
    radius = RADII[norm]
    mine = NORMS[norm].ascend(x, g, torch.full((len(x),), radius, dtype=torch.float64))
    for row in range(len(x)):
        v, c = x[row].flatten().numpy(), g[row].flatten().numpy()
        reach = radius if norm == "linf" else np.inf
        bounds = [(0, min(1 - p, reach)) for p in v] + [(0, min(p, reach)) for p in v]
        total = {"A_ub": np.ones((1, 2 * len(v))), "b_ub": [radius]} if norm == "l1" else {}
        best = -linprog(np.concatenate([-c, c]), bounds=bounds, **total).fun
        assert ((mine[row] - x[row]) * g[row]).sum().item() == pytest.approx(best, abs=1e-9)


def test_l2_ascent_beats_random_points_and_meets_the_radius(points):
    x, g = points[0], points[1] - 0.4
    radii = torch.full((len(x),), 0.9, dtype=torch.float64)
    best = NORMS["l2"].ascend(x, g, radii)
    gain = ((best - x) * g).flatten(1).sum(1)
    for draw in range(200):
        other = NORMS["l2"].noise(x, radii, Draws(draw, torch.arange(len(x))), "point")
        other = NORMS["l2"].project(x, other + 0.5 * (best - other) * (draw % 2), radii)
        assert (((other - x) * g).flatten(1).sum(1) <= gain + 1e-9).all()
    room = torch.where(g > 0, 1 - x, x).flatten(1).norm(dim=1)
    assert torch.allclose((best - x).flatten(1).norm(dim=1), torch.minimum(radii, room))


@pytest.mark.parametrize("norm", NORMS)
def test_noise_is_on_the_sphere_and_starts_are_inside(points, norm):
    x = points[0]
    radii = torch.full((len(x),), RADII[norm] / 2, dtype=torch.float64)
    row, draws = NORMS[norm], Draws(0, torch.arange(len(x)))
    noisy, inside = row.noise(x, radii, draws, "a"), row.inside(x, radii, draws, "a")
    assert torch.allclose(row.lengths(noisy - x), radii, atol=1e-9)
    assert (row.lengths(inside - x) <= radii + 1e-9).all()
    assert row.lengths(inside - x).std() > 0
    for made in (noisy, inside):
        assert made.min() >= 0
        assert made.max() <= 1


@pytest.mark.parametrize("norm", NORMS)
def test_steps_have_their_size_in_the_norm(points, norm):
    x, g = points
    size = torch.full((len(x),), 0.2, dtype=torch.float64)
    moved = NORMS[norm].step(x, g, size) - x
    assert torch.allclose(NORMS[norm].lengths(moved), size, atol=1e-12)
    assert ((moved * g).flatten(1).sum(1) > 0).all()
    assert torch.equal(NORMS[norm].step(x, torch.zeros_like(g), size), x)


def test_lengths_are_the_definitions(points):
    change = points[1] - points[0]
    flat = change.flatten(1)
    for norm, order in (("linf", float("inf")), ("l2", 2), ("l1", 1)):
        assert torch.allclose(LENGTHS[norm](change), torch.linalg.vector_norm(flat, order, dim=1))
    sparse = torch.zeros(2, 3, 2, 2)
    sparse[0, :, 0, 1] = 0.5  # three channels of one pixel
    sparse[1, 0, 0, 0] = sparse[1, 1, 1, 1] = -0.1
    assert lengths_l0(sparse).tolist() == [1, 2]
