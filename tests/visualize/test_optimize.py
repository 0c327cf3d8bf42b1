"""Optimised images excite what they are made for; what nothing excites is said, not drawn."""

import pytest
import torch
from torch import nn

from cutaway.errors import ArgumentError, NonFiniteError
from cutaway.visualize import MACO, Crop, channel, custom, diversity, layer, logit, optimize, total_variation

FAST = {"size": 12, "steps": 12, "transformation": (), "progress": False}


@pytest.mark.parametrize("parametrization", ["pixels", "fourier", "maco"])
def test_every_parametrisation_excites_the_channel(small, parametrization):
    found = optimize(small, channel("relu", [0, 1, 2]), parametrization=parametrization, lr=0.2, **FAST)
    assert found.images.shape == (3, 3, 12, 12)
    assert found.images.min() >= 0 and found.images.max() <= 1
    assert (found.history[-1] > found.history[0]).all()
    assert not found.dead.any()
    small.eval()
    torch.testing.assert_close(found.scores, small.maps(found.images)[0].mean((2, 3)).diagonal())


def test_a_classs_image_beats_noise(small):
    found = optimize(small, 2, lr=0.2, **{**FAST, "steps": 30})
    small.eval()
    noise = small(torch.rand(50, 3, 12, 12))[:, 2]
    assert found.scores[0] > noise.max()


def test_the_linear_optimum_is_found():
    """A linear unit's best image is white where its weight is positive and black where it is negative."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 1))
    found = optimize(net, 0, size=4, parametrization="pixels", transformation=(), steps=150, lr=0.3, progress=False)
    weight = net[1].weight.detach().reshape(3, 4, 4)
    sure = weight.abs() > 0.02
    assert torch.equal(found.images[0][sure] > 0.9, weight[sure] > 0)
    against = optimize(net, -logit(0), size=4, parametrization="pixels", transformation=(), steps=150, lr=0.3)
    assert torch.equal(against.images[0][sure] > 0.9, weight[sure] < 0)


def test_a_dead_unit_is_reported_and_not_drawn(small):
    with torch.no_grad():
        small.conv2.weight[3], small.conv2.bias[3], small.conv2.bias[4] = 0, -1, 1
    found = optimize(small, channel("relu_1", [3, 4]), **FAST)
    assert found.dead.tolist() == [True, False]
    first, second = found.plot().axes[:2]
    assert not first.images and "dead" in first.texts[0].get_text()
    assert len(second.images) == 1 and not second.texts
    assert "1 dead" in repr(found)
    apart = optimize(small, channel("relu_1", 3) + diversity("add"), count=2, **FAST)
    assert apart.dead.all()  # that the images differ does not make the unit less dead


def test_a_unit_that_is_shut_at_the_start_is_opened():
    """Where the plain gradient is zero, the rectifier lets through what opens it."""
    net = nn.Sequential(nn.Conv2d(3, 1, 3), nn.ReLU())
    with torch.no_grad():
        net[0].weight.fill_(0.1)
        net[0].bias.fill_(-1.6)  # grey gives 1.35 − 1.6 < 0, white 1.1
    found = optimize(net, channel("1", 0), size=8, parametrization="pixels", transformation=(), lr=0.5, steps=25)
    assert found.history[0] == 0 and found.scores[0] > 0.5 and not found.dead.any()


def test_images_of_a_batch_become_diverse(small):
    plain = optimize(small, layer("add"), count=3, lr=0.1, **FAST)
    apart = optimize(small, layer("add") + 100 * diversity("add"), count=3, lr=0.1, **FAST)
    small.eval()
    alike = [
        float(diversity("add").value({"add": small.maps(each.images)[1].detach()}).mean()) for each in (plain, apart)
    ]
    assert alike[1] > alike[0]


def test_priors_smooth_the_image(small):
    rough, calm = (
        optimize(small, channel("relu", 1) - weight * total_variation(), parametrization="pixels", lr=0.2, **FAST)
        for weight in (0, 20)
    )
    measured = [float(total_variation().value({"image": each.images})) for each in (rough, calm)]
    assert measured[1] < 0.5 * measured[0]


def test_starts_from_an_image_and_takes_crops(small, x):
    found = optimize(small, channel("relu", 1), image=x[:1], steps=1, lr=1e-4, transformation=(), progress=False)
    torch.testing.assert_close(found.images, x[:1].clamp(0.01, 0.99), atol=2e-3, rtol=0)
    many = optimize(
        small, logit(1), size=12, parametrization=MACO(), transformation=(Crop(0.3, 0.6),), samples=4, steps=10
    )
    assert many.history.shape == (10, 1) and many.scores[0] > many.history[0, 0]


def test_the_seed_decides_and_the_model_stays(small, global_randomness_untouched):
    before = {name: value.clone() for name, value in small.state_dict().items()}
    first, second = (optimize(small, layer("add"), size=12, steps=4, seed=3, progress=False) for _ in range(2))
    assert torch.equal(first.images, second.images)
    assert not torch.equal(first.images, optimize(small, layer("add"), size=12, steps=4, seed=4).images)
    assert small.training and all(p.requires_grad and p.grad is None for p in small.parameters())
    assert all(torch.equal(before[name], value) for name, value in small.state_dict().items())


def test_signals_and_other_shapes():
    net = nn.Sequential(nn.Conv1d(2, 3, 5), nn.ReLU())
    found = optimize(net, channel("1", 1), size=(2, 32), steps=10, transformation=(), progress=False)
    assert found.images.shape == (1, 2, 32) and found.history[-1] > found.history[0]
    assert found.plot().axes


def test_saving(small, tmp_path):
    found = optimize(small, 1, **FAST)
    assert found.save(tmp_path / "a.png").stat().st_size > 1_000
    assert found.save(tmp_path / "a.npz").exists()
    with pytest.raises(ArgumentError, match="xyz"):
        found.save(tmp_path / "a.xyz")


def test_settings_out_of_range_are_refused(small):
    for wrong in ({"steps": 0}, {"samples": 0}, {"count": 0}, {"size": 0}):
        with pytest.raises(ArgumentError):
            optimize(small, 1, **{**FAST, **wrong})
    with pytest.raises(ArgumentError, match="2 images"):
        optimize(small, logit([1, 2]), count=3, **FAST)
    with pytest.raises(ArgumentError, match="no layer"):
        optimize(small, total_variation(), **FAST)
    with pytest.raises(NonFiniteError, match="step 0"):
        optimize(small, custom("relu", lambda z: z.flatten(1).mean(1) / 0, "broken"), **FAST)
