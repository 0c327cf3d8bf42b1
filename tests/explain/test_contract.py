"""What every method promises, one test per promise over the table of methods."""

import copy

import pytest
import torch
from torch import nn

from cutaway import explain
from cutaway.explain.methods import MAPS, METHODS

SUBJECTS = {"cam": "pooled", "attention_rollout": "vit"}  # methods that want a certain architecture
COVERED, LAYER = (3, 1, 8, 8), (3, 1, 4, 4)
SHAPES = {
    **dict.fromkeys(("occlusion", "rise"), COVERED),
    **dict.fromkeys(("grad_cam", "grad_cam_plus_plus", "layer_cam", "score_cam", "cam", "attention_rollout"), LAYER),
    "layer_attribution": (3, 6, 4, 4),
}
QUICK = {
    "smooth_grad": {"samples": 3},
    "var_grad": {"samples": 3},
    "integrated_gradients": {"steps": 3},
    "rise": {"samples": 7},
}
every = pytest.mark.parametrize("name", METHODS)


def quick(name):
    return QUICK.get(name, {})


@pytest.fixture
def subject(name, request):
    return request.getfixturevalue(SUBJECTS.get(name, "mixed"))


def test_the_two_tables_agree():
    assert set(MAPS) == set(METHODS)
    assert set(METHODS) <= set(explain.__all__)


@every
def test_maps_are_shaped_like_the_input_or_the_layer(name, subject, x):
    found = METHODS[name](subject, x, **quick(name))
    assert found.values.shape == SHAPES.get(name, x.shape)
    assert found.values.dtype == x.dtype and torch.isfinite(found.values).all()
    assert found.method == name and found.target.shape == (3,)
    assert found.scores.shape == (3,) and 0 <= found.score <= 1
    assert (found.layer is not None) == ("cam" in name or name in ("layer_attribution", "neuron_attribution"))


@every
def test_every_example_of_a_batch_is_explained_as_if_alone(name, subject, x):
    together = METHODS[name](subject, x, [0, 3, 1], score=False, **quick(name)).values
    for i, target in enumerate([0, 3, 1]):
        alone = METHODS[name](subject, x[i : i + 1], target, score=False, **quick(name)).values
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-9, atol=1e-12)


@every
def test_the_model_is_left_as_it_was(name, subject, x, global_randomness_untouched):
    subject.conv1.weight.requires_grad_(False)  # a frozen layer stays frozen, and is no obstacle
    next(module for module in subject.modules() if isinstance(module, nn.BatchNorm2d | nn.LayerNorm)).eval()
    state = copy.deepcopy(subject.state_dict())
    flags = [p.requires_grad for p in subject.parameters()]
    modes = [m.training for m in subject.modules()]
    METHODS[name](subject, x, **quick(name))
    assert all(torch.equal(before, after) for before, after in zip(state.values(), subject.state_dict().values()))
    assert [p.requires_grad for p in subject.parameters()] == flags
    assert [m.training for m in subject.modules()] == modes
    assert all(p.grad is None for p in subject.parameters()) and not x.requires_grad
    assert not any(m._forward_hooks or m._backward_hooks for m in subject.modules())


@every
def test_a_seed_fixes_the_result(name, subject, x):
    first, second = (METHODS[name](subject, x, seed=4, **quick(name)) for _ in range(2))
    assert torch.equal(first.values, second.values) and torch.equal(first.scores, second.scores)


@every
def test_the_map_follows_training(name, subject, x):
    before = METHODS[name](subject, x, 1, score=False, **quick(name)).values
    with torch.no_grad():
        subject.conv1.weight.mul_(-1.3)
    after = METHODS[name](subject, x, 1, score=False, **quick(name)).values
    fresh = METHODS[name](copy.deepcopy(subject), x, 1, score=False, **quick(name)).values
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, fresh)


@every
def test_inference_mode_and_tracked_inputs_are_no_obstacle(name, subject, x):
    expected = METHODS[name](subject, x, 1, score=False, **quick(name)).values
    with torch.inference_mode():
        inside = METHODS[name](subject, x.clone(), 1, score=False, **quick(name)).values.clone()
    tracked = METHODS[name](subject, x.clone().requires_grad_(), 1, score=False, **quick(name)).values
    assert not tracked.requires_grad
    torch.testing.assert_close(inside, expected)
    torch.testing.assert_close(tracked, expected)


def test_a_map_of_zeros_is_reported_and_not_scored():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
    nn.init.constant_(net[0].bias, -100.0)
    found = explain.gradient(net, torch.rand(2, 1, 8, 8))
    assert "zero everywhere for examples 0, 1" in found.warning
    assert found.scores.isnan().all() and found.score is None
    assert "no score" in repr(found)
