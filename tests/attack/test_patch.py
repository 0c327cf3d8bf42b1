"""The patch: where it is put, what its gradient is, and what it does against a patch of random pixels."""

import copy

import pytest
import torch

from cutaway import attack
from cutaway.attack.draws import Draws
from cutaway.errors import ArgumentError


@pytest.fixture(scope="module")
def case(digits):
    rows = digits[1] != 3
    return digits[0][rows], digits[1][rows]


@pytest.fixture(scope="module")
def made(net, case):
    return attack.patch(net, *case, target=3, scale=(0.6, 0.8), steps=80, progress=False)


def test_a_patch_covers_its_share_and_nothing_else():
    x = torch.full((400, 1, 20, 30), 0.25, dtype=torch.float64)
    patch, mask = torch.ones(1, 10, 10).double(), torch.ones(10, 10).double()
    placed = attack.Placing((0.5, 0.5), 0.0).put(patch, mask, x, Draws(0, torch.arange(400)), "a")
    share = (placed - 0.25) / 0.75  # of each pixel that is covered
    assert torch.allclose(share.sum((1, 2, 3)), torch.tensor(100.0).double(), rtol=0.03)  # ten by ten pixels, inside
    rows, columns = (share.amax(dim) > 0.99 for dim in ((1, 3), (1, 2)))
    assert (rows.sum(1) >= 9).all() and (rows.sum(1) <= 10).all()
    first = columns.double().argmax(1)
    assert first.min() <= 1 and first.max() >= 19  # from end to end
    assert (first.double().mean() - 10.5).abs() < 1


def test_a_turned_patch_is_turned():
    x, ramp = torch.zeros(200, 1, 40, 40).double(), torch.linspace(0.2, 1, 32).double().expand(1, 32, 32)
    disc = ((torch.arange(32)[:, None] - 15.5) ** 2 + (torch.arange(32) - 15.5) ** 2 < 200).double()
    draws = Draws(0, torch.arange(200))
    placed = attack.Placing((0.8, 0.8), 90.0).put(ramp, disc, x, draws, "b")
    place = (torch.arange(40) - 19.5).double()
    weight = placed[:, 0] / placed[:, 0].sum((1, 2), keepdim=True)
    covered = (placed[:, 0] > 0.1).double()
    covered = covered / covered.sum((1, 2), keepdim=True)
    lean_x, lean_y = ((weight - covered) * place).sum((1, 2)), ((weight - covered) * place[:, None]).sum((1, 2))
    angle = torch.atan2(lean_y, lean_x).rad2deg()  # the bright side of the ramp, to the right at rest
    wanted = (2 * draws.uniform((), "b", "turn") - 1) * 90
    assert torch.minimum((angle - wanted).abs(), (angle + wanted).abs()).max() < 6
    assert angle.abs().max() > 60


def test_placing_is_differentiable_in_the_patch():
    x = torch.rand(3, 1, 9, 9, generator=torch.Generator().manual_seed(0)).double()
    mask, draws = torch.ones(4, 4).double(), Draws(0, torch.arange(3))
    placing = attack.Placing((0.4, 0.6), 20.0)
    patch = torch.full((1, 4, 4), 0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: placing.put(p, mask, x, draws, "c"), patch)


def test_a_patch_beats_random_pixels_on_images_it_never_saw(made, net, case):
    assert made.held_out.success.shape == (5, len(case[0]) - len(made.made_on.before))
    assert made.held_out.rate > made.held_out.control_rate + 0.4
    assert made.trace[-10:].mean() > made.trace[:10].mean()
    assert made.patch.min() >= 0 and made.patch.max() <= 1
    mine = net(made.place(case[0], seed=7)).argmax(1) == 3
    assert mine.double().mean() == pytest.approx(made.held_out.rate, abs=0.15)
    assert not torch.equal(made.place(case[0], seed=7), made.place(case[0], seed=8))


def test_without_a_target_it_leads_away_from_the_label(net, digits):
    made = attack.patch(net, *digits, scale=(0.4, 0.5), steps=40, shape="square", progress=False)
    assert made.held_out.rate > made.held_out.control_rate
    assert made.mask.all() and made.target is None


def test_model_generators_and_images_are_untouched(net, case, global_randomness_untouched):
    model = copy.deepcopy(net).train()
    state, x = copy.deepcopy(model.state_dict()), case[0][:20].clone()
    run = {"target": 3, "steps": 4, "progress": False}
    with pytest.warns(attack.ModelModeWarning):
        made = attack.patch(model, x, case[1][:20], **run)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(part.training for part in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(x, case[0][:20])
    assert torch.equal(made.patch, attack.patch(net, x, case[1][:20], **run).patch)
    assert not torch.equal(made.patch, attack.patch(net, x, case[1][:20], seed=1, **run).patch)
    assert not made.patch.requires_grad


def test_bad_input_is_refused(net, case):
    x, y = case[0][:6], case[1][:6]
    for given, words in (
        ({"scale": (0.5, 0.3)}, "least ≤ largest"),
        ({"steps": 0}, "steps=0"),
        ({"held_out": -0.1}, "held_out"),
        ({"target": int(y[0])}, "is the label of image 0"),
        ({"target": 11}, "0 … 9"),
        ({"shape": "star"}, "unknown shape 'star'"),
    ):
        with pytest.raises((ArgumentError, LookupError), match=words):
            attack.patch(net, x, y, **{"target": 3, "progress": False} | given)
    with pytest.raises(ArgumentError, match=r"no gradient .* hop_skip_jump"):
        attack.patch(lambda images: net(images.detach()), x, y, target=3, progress=False)


def test_saving_and_plotting(made, tmp_path):
    figure = made.plot([f"digit {k}" for k in range(10)])
    assert "patch for digit 3" in figure.get_suptitle()
    assert "random pixels" in figure.axes[-1].get_xlabel()
    assert len(figure.axes) == 6
    assert made.save(tmp_path / "p.png").stat().st_size > 5000
    assert made.save(tmp_path / "p.safetensors").stat().st_size > 256
