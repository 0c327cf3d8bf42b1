"""Surfaces, the second-derivative test, descent and restarts against autograd and closed forms."""

import math

import pytest
import torch

from cutaway.errors import ArgumentError, LookupFailure, NonFiniteError
from cutaway.train import OPTIMIZERS, SURFACES, critical_point, descend, restarts


def test_minima_are_minima_and_nothing_lies_below() -> None:
    for name, surface in SURFACES.items():
        point = torch.tensor(surface.minimum, dtype=torch.float64)
        assert torch.autograd.functional.jacobian(surface, point).norm() < 1e-6, name
        left, right, bottom, top = surface.box
        x, y = torch.linspace(left, right, 80).double(), torch.linspace(bottom, top, 80).double()
        heights = surface(torch.stack(torch.meshgrid(x, y, indexing="ij"), -1))
        assert heights.shape == (80, 80) and float(heights.min()) >= surface.least - 1e-12, name
        assert left < surface.start[0] < right and bottom < surface.start[1] < top


@pytest.mark.parametrize("name", list(SURFACES))
def test_hessians_are_autograds(name: str) -> None:
    point = torch.tensor(SURFACES[name].start, dtype=torch.float64) + 0.05
    expected = torch.autograd.functional.hessian(SURFACES[name], point)
    torch.testing.assert_close(critical_point(SURFACES[name], point).hessian, expected)


@pytest.mark.parametrize(
    ("name", "at", "verdict"),
    [
        ("saddle", (0.0, 0.0), "saddle"),
        ("saddle", (0.0, -1.0), "minimum"),
        ("himmelblau", (-0.270845, -0.923039), "maximum"),
        ("himmelblau", (0.0866775, 2.8842547), "saddle"),
        ("himmelblau", (3.584428, -1.848127), "minimum"),
        ("monkey saddle", (0.0, 0.0), "flat"),  # neither a minimum …
        ("quartic", (0.0, 0.0), "flat"),  # … nor not one: the test cannot tell them apart
        ("cliff", (0.0, math.log(7 / 3)), "undecided"),  # a whole line of minima
        ("bowl", (0.1, 0.0), "not critical"),
        ("sigmoid unit", (1.0, 30.0), "flat"),
    ],
)
def test_verdicts_by_the_signs_of_the_eigenvalues(name: str, at: tuple[float, float], verdict: str) -> None:
    found = critical_point(SURFACES[name], at)
    assert found.verdict == verdict and str(found).startswith(verdict)


def test_the_test_takes_any_number_of_dimensions_and_functions_without_curvature() -> None:
    found = critical_point(lambda p: (p * torch.tensor([1.0, -2.0, 3.0])).square().sum() - 2 * p[1] ** 4, (0.0,) * 3)
    assert found.verdict == "minimum" and found.eigenvalues.tolist() == pytest.approx([2, 8, 18])
    assert critical_point(lambda p: p.sum(), (1.0, 2.0)).verdict == "not critical"
    assert critical_point(lambda p: 0 * p[0] + 3, (1.0, 2.0)).verdict == "flat"
    with pytest.raises(ArgumentError, match="one point"):
        critical_point(SURFACES["bowl"], [(0.0, 0.0)])
    with pytest.raises(ArgumentError, match="one number each"):
        critical_point(lambda p: p * 2, (0.0, 1.0))


def test_descent_of_a_quadratic_is_the_closed_form() -> None:
    way = descend(SURFACES["ravine"], (1.0, 0.5), lr=0.015, steps=30)
    powers = torch.arange(31.0, dtype=torch.float64)
    torch.testing.assert_close(way.path[:, 0], (1 - 0.015) ** powers)
    torch.testing.assert_close(way.path[:, 1], 0.5 * (1 - 1.5) ** powers)
    torch.testing.assert_close(way.values, SURFACES["ravine"](way.path))
    assert not way.diverged and way.steps_to(1e-9) is None
    assert way.steps_to(float(way.values[4])) == 4
    assert descend(SURFACES["ravine"], (1.0, 0.5), lr=0.03, steps=30).diverged  # above 2 / 100
    assert descend(SURFACES["ravine"], (1.0, 0.5), lr=30.0, steps=300).diverged  # not finite


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_starts_at_once_descend_each_for_itself(name: str) -> None:
    surface, starts = SURFACES["rosenbrock"], torch.tensor([[-1.2, 1.0], [0.3, 0.2], [1.5, 2.0]])
    together = descend(surface, starts, name, lr=0.002, steps=12, clip=5.0)
    assert together.path.shape == (13, 3, 2) and together.values.shape == (13, 3)
    for number, start in enumerate(starts):
        torch.testing.assert_close(together.path[:, number], descend(surface, start, name, 0.002, 12, clip=5.0).path)


def test_clipping_bounds_every_step_and_keeps_the_direction() -> None:
    surface = SURFACES["cliff"]
    thrown, clipped = (descend(surface, surface.start, lr=0.1, steps=60, clip=clip) for clip in (None, 0.5))
    assert float(thrown.path.diff(dim=0).norm(dim=1).max()) > 5
    moves = clipped.path.diff(dim=0)
    assert float(moves.norm(dim=1).max()) == pytest.approx(0.05)
    slopes = torch.autograd.functional.jacobian(lambda p: surface(p).sum(), clipped.path[:-1])
    assert torch.cosine_similarity(moves, -slopes).min() > 0.999999
    assert float(clipped.values[-1]) < 0.01 < float(thrown.values[-1])


def test_noise_leaves_the_saddle_and_is_fixed_by_its_seed() -> None:
    surface = SURFACES["saddle"]
    still, first, second, other = (
        descend(surface, surface.start, lr=0.1, steps=150, noise=noise, seed=seed)
        for noise, seed in ((0, 0), (0.01, 0), (0.01, 0), (0.01, 1))
    )
    assert critical_point(surface, still.path[-1], 1e-3).verdict == "saddle"
    assert float(first.values[-1]) == pytest.approx(-0.25, abs=1e-3)
    assert torch.equal(first.path, second.path) and not torch.equal(first.path, other.path)


def test_restarts_keep_the_best_and_say_so() -> None:
    surface = SURFACES["rastrigin"]
    found = restarts(surface, 20, surface.box, seed=3, optimizer="adam", lr=0.1, steps=150)
    ends = found.values[-1]
    assert float(ends[found.best]) == float(ends.min()) < float(ends[0])
    assert f"kept start {found.best} of 20" in str(found)
    left, right, bottom, top = surface.box
    starts = found.path[0]
    assert starts[:, 0].min() > left and starts[:, 0].max() < right and starts[:, 1].min() > bottom
    assert starts[:, 1].max() < top and starts.std(0).min() > 2
    lost = restarts(SURFACES["rosenbrock"], [(50.0, 50.0), (0.9, 0.8)], lr=0.001, steps=50)
    assert lost.best == 1 and not lost.values[-1, 0].isfinite()
    with pytest.raises(NonFiniteError, match="clip"):
        restarts(SURFACES["rosenbrock"], [(50.0, 50.0)], lr=0.1)


def test_bad_input_says_what_is_wanted() -> None:
    bowl = SURFACES["bowl"]
    for start, bad in (((1.0, math.nan), {}), ((1.0, 1.0), {"steps": 0}), ((1.0, 1.0), {"clip": 0.0})):
        with pytest.raises(ArgumentError, match="expected"):
            descend(bowl, start, **bad)
    with pytest.raises(LookupFailure, match="adam"):
        descend(bowl, (1.0, 1.0), "adan")
    with pytest.raises(ArgumentError, match="at least one"):
        restarts(bowl, 0)


def test_a_path_is_drawn_and_said() -> None:
    way = descend(SURFACES["bowl"], (1.0, 1.0), lr=0.25, steps=5)
    assert str(way) == "sgd: 1.5 to 0.02913 in 5 steps"
    axis = way.plot().axes[0]
    assert axis.lines[0].get_xdata().shape == (6,) and axis.collections
