"""Results: verified, bounded, saved and drawn."""

import pytest
import torch

from cutaway import attack
from cutaway.attack.problem import pose
from cutaway.attack.result import settle
from cutaway.errors import ArgumentError, CutawayError


@pytest.fixture
def found(net, digits):
    return attack.pgd(net, digits[0][:8], digits[1][:8], eps=0.2, steps=5, progress=False)


def test_a_broken_bound_is_an_error(net, digits):
    x, y = digits[0][:3], digits[1][:3]
    problem = pose(net, x, y, eps=0.1, norm="linf", target=None, seed=0)
    for bad in (x + 0.1 + 1e-3, x - 0.05, x * float("nan")):
        with pytest.raises(CutawayError, match="broke its bound on image 0"):
            settle(problem, "planted", bad, torch.empty(0, 3), {}, False, 0, 0.1)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_rounding_is_pulled_back(net, digits, norm):
    x, y = digits[0][:30], digits[1][:30]
    problem = pose(net, x, y, eps=3.0, norm=norm, target=None, seed=0)
    noise = problem.geometry.noise(x, problem.radii, problem.draws, "n")
    outside = x + (noise - x) * (1 + 1e-6)
    assert (problem.geometry.lengths(outside - x) > 3 + 1e-6).any()
    made = settle(problem, "planted", outside.clamp(0, 1), torch.empty(0, 30), {}, False, 0, 3.0)
    assert (made.distance <= 3 + 1e-6).all()


def test_success_is_not_believed(net, digits):
    """A search that claims success on clean images gets what a forward pass says."""
    x, y = digits[0][:30], digits[1][:30]
    problem = pose(net, x, y, eps=0.1, norm="linf", target=None, seed=0)
    made = settle(problem, "planted", x, torch.empty(0, 30), {}, False, 0, 0.1)
    assert torch.equal(made.success, net(x).argmax(1) != y)


def test_saving_and_loading(found, tmp_path):
    back = attack.load(found.save(tmp_path / "a.safetensors"))
    assert torch.equal(back.x, found.x)
    assert back.settings == found.settings
    assert back.control is not None
    assert torch.equal(back.control.x, found.control.x)
    assert found.save(tmp_path / "a.png").stat().st_size > 5000
    with pytest.raises(ArgumentError, match=r"a\.txt"):
        found.save(tmp_path / "a.txt")

    from safetensors.torch import save_file

    save_file({"w": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ArgumentError, match="without an attack"):
        attack.load(tmp_path / "w.safetensors")


def test_panel_says_labels_and_confidences(found):
    figure = found.plot(rows=[1, 2], names=[f"digit {k}" for k in range(10)])
    words = " ".join(axis.get_xlabel() for axis in figure.axes)
    assert f"digit {int(found.after[1])}\n{100 * float(found.confidence_after[1]):.1f} %" in words
    assert len(figure.axes) == 10
    assert "perturbation × 10" in figure.axes[1].get_title()


def test_plot_shows_the_perturbation_ten_times(found):
    image = found.plot(rows=[0]).axes[1].images[0].get_array()
    expected = (0.5 + 10 * (found.x - found.original)[0, 0]).clamp(0, 1)
    assert torch.allclose(torch.tensor(image), expected, atol=1e-6)
