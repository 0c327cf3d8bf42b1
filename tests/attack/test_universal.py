"""One perturbation for all images: inside the ball, the same for all, better than noise on images it never saw."""

import pytest
import torch

from cutaway import attack
from cutaway.attack.norms import NORMS
from cutaway.attack.universal import _project
from cutaway.errors import ArgumentError

EPS = {"linf": 0.3, "l2": 1.8, "l1": 9.0}


@pytest.fixture(scope="module", params=list(NORMS))
def found(request, net, digits):
    return attack.universal(net, *digits, eps=EPS[request.param], norm=request.param, epochs=15, progress=False)


def test_it_is_one_perturbation_in_the_ball(found, digits):
    assert NORMS[found.made_on.norm].lengths(found.perturbation[None]).item() <= found.made_on.eps + 1e-6
    for part, x in ((found.made_on, digits[0][:238]), (found.held_out, digits[0][238:])):
        assert torch.equal(part.original, x)
        assert torch.allclose(part.x, (x + found.perturbation).clamp(0, 1), atol=1e-6)


def test_it_fools_on_images_it_never_saw(found):
    assert found.fooling_rate == (found.made_on.after != found.made_on.before).double().mean().item()
    assert found.held_out_rate > found.held_out.control.success_rate + 0.15
    assert found.trace[-1] > found.trace[0]


@pytest.mark.parametrize("norm", NORMS)
def test_projection_keeps_what_is_inside_and_meets_the_radius(norm):
    shift = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.5
    length = NORMS[norm].lengths(shift.clamp(-1, 1)[None]).item()
    assert torch.allclose(_project(NORMS[norm], shift, 2 * length), shift.clamp(-1, 1), atol=1e-6)
    assert NORMS[norm].lengths(_project(NORMS[norm], shift, 0.4 * length)[None]).item() == pytest.approx(0.4 * length)


def test_a_target_is_reached_and_images_may_be_given_to_measure(net, digits):
    rows = digits[1] != 8
    x, y = digits[0][rows], digits[1][rows]
    found = attack.universal(
        net, x[:150], y[:150], eps=0.3, target=8, held_out=(x[150:], y[150:]), epochs=20, progress=False
    )
    assert len(found.held_out.x) == len(x) - 150
    assert torch.equal(found.held_out.success, net(found.held_out.x).argmax(1) == 8)
    assert found.held_out.success_rate > found.held_out.control.success_rate + 0.15
    with pytest.raises(ArgumentError, match="held_out=1"):
        attack.universal(net, x, y, eps=0.1, held_out=1.0)


def test_saving_and_plotting(found, tmp_path):
    figure = found.plot([f"digit {k}" for k in range(10)])
    assert "held-out" in figure.get_suptitle()
    assert "digit" in figure.axes[1].get_xlabel()
    assert found.save(tmp_path / "u.png").stat().st_size > 5000
    assert found.save(tmp_path / "u.safetensors").stat().st_size > 256
    with pytest.raises(ArgumentError, match=r"u\.txt"):
        found.save(tmp_path / "u.txt")
