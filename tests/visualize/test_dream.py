"""Dreams strengthen their layer; a gradient by tiles is the gradient."""

import pytest
import torch
from torch import nn

from cutaway.errors import ArgumentError, LookupFailure
from cutaway.rng import generator
from cutaway.visualize import channel, custom, dream, logit
from cutaway.visualize.dream import tiled_gradient
from cutaway.visualize.network import network

FAST = {"octaves": 2, "steps": 3, "jitter": 2, "progress": False}


def test_a_dream_strengthens_its_layer(small, x, tmp_path):
    found = dream(small, x[:1], "add", rate=0.02, **FAST)
    small.eval()
    before, after = (small.maps(image)[1].square().mean() for image in (found.original, found.image))
    assert after > before
    assert found.image.shape == (1, 3, 12, 12) and found.image.min() >= 0 and found.image.max() <= 1
    assert len(found.history) == 6
    assert found.save(tmp_path / "dream.jpg").stat().st_size > 300
    assert found.save(tmp_path / "dream.npz").exists() and found.plot().axes


def test_a_class_and_a_channel_can_be_dreamt_of(small, x):
    small.eval()
    found = dream(small, x[0], logit(1), rate=0.02, **FAST)
    assert small(found.image)[0, 1] > small(x[:1])[0, 1]
    found = dream(small, x[0], channel("relu", 2), rate=0.02, **FAST)
    assert small.maps(found.image)[0][0, 2].mean() > small.maps(x[:1])[0][0, 2].mean()


def test_a_guide_image_draws_the_layer_towards_it(small, x):
    small.eval()
    found = dream(small, x[:1], "add", guide=x[1:], rate=0.02, **FAST)
    assert "guide" in found.words
    wanted = small.maps(x[1:])[1][0].flatten(1)
    match = [(wanted.T @ small.maps(image)[1][0].flatten(1)).amax(0).mean() for image in (x[:1], found.image)]
    assert match[1] > match[0]


@pytest.mark.parametrize("size", [(8, 8), (12, 8), (17, 9)])
def test_tiles_make_up_the_image(size):
    """The gradient of a sum over pixels does not depend on the cut; overlapping tiles count once."""
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Sigmoid()).double()
    goal = custom("1", lambda z: z.flatten(1).sum(1))
    x = torch.rand(1, 1, *size, dtype=torch.float64)
    seen = network(net, torch.zeros(1, 1, 8, 8, dtype=torch.float64), ["1"])
    value, gradient = tiled_gradient(seen, goal, x, (8, 8), 3, generator(0))
    y = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net(y).sum(), y)
    torch.testing.assert_close(gradient, expected)
    if size == (8, 8):
        assert value == pytest.approx(float(net(x).sum().detach()))


def test_a_network_of_one_size_dreams_into_any():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2))
    found = dream(net, torch.rand(1, 3, 19, 30), logit(0), tile=8, octaves=1, steps=2, progress=False)
    assert found.image.shape == (1, 3, 19, 30) and not torch.equal(found.image, found.original)


def test_the_seed_decides(small, x):
    first, second, other = (dream(small, x[:1], "add", seed=seed, **FAST).image for seed in (0, 0, 1))
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert small.training and all(p.grad is None for p in small.parameters())


def test_what_does_not_fit_is_refused(small, x):
    for wrong in ({"octaves": 0}, {"scale": 1.0}, {"steps": 0}, {"tile": 0}):
        with pytest.raises(ArgumentError, match="octaves="):
            dream(small, x[:1], "add", **{**FAST, **wrong})
    with pytest.raises(ArgumentError, match="one image"):
        dream(small, x, "add", **FAST)
    with pytest.raises(LookupFailure, match="'add'"):
        dream(small, x[:1], "ad", **FAST)
    with pytest.raises(ArgumentError, match="name one"):
        dream(small, x[:1], logit(0), guide=x[1:], **FAST)
