"""CAM, Grad-CAM++, LayerCAM and Score-CAM against their papers' equations, written with autograd or loops."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cutaway import explain
from cutaway.errors import ArgumentError


@pytest.fixture
def found_by_autograd(pooled, x):
    """The last maps of the pooled network, the adjoints there and the logits, for the targets 0, 3, 1."""
    net = copy.deepcopy(pooled).eval()
    maps = net.maps(x).detach().requires_grad_()
    logits = net.head(maps.mean((2, 3)))[[0, 1, 2], [0, 3, 1]]
    return maps.detach(), torch.autograd.grad(logits.sum(), maps)[0], logits.detach()


def test_cam_is_the_weighted_sum_of_the_last_maps(pooled, x):
    found = explain.cam(pooled, x, [0, 3, 1], score=False)
    net = copy.deepcopy(pooled).eval()
    weights = net.head.weight[[0, 3, 1]][:, :, None, None]  # (N, 8, 1, 1)
    torch.testing.assert_close(found.values, (weights * net.maps(x)).sum(1, keepdim=True).detach())
    logits = net(x)[[0, 1, 2], [0, 3, 1]] - net.head.bias[[0, 3, 1]]
    torch.testing.assert_close(found.values.mean((1, 2, 3)), logits.detach())


def test_cam_equals_grad_cam_up_to_scale(pooled, x):
    pooled.head.weight.data.abs_()
    cam = explain.cam(pooled, x, [0, 3, 1], score=False)
    grad_cam = explain.grad_cam(pooled, x, [0, 3, 1], layer=cam.layer, score=False)
    assert grad_cam.values.amax((1, 2, 3)).min() > 0
    torch.testing.assert_close(cam.values.relu(), 16 * grad_cam.values)


@pytest.mark.parametrize(
    "head",
    [
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(4, 3)),
        nn.Sequential(nn.AvgPool2d(6), nn.Flatten(), nn.Linear(4, 6), nn.Linear(6, 3)),
        nn.Sequential(nn.Conv2d(4, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ],
)
def test_cam_knows_every_way_to_pool(head):
    net, x = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), head).eval(), torch.rand(2, 1, 8, 8)
    found = explain.cam(net, x, 1, score=False)
    places = found.values.flatten(1).mean(1)
    last = next((module for module in reversed(list(head)) if isinstance(module, nn.Linear)), None)
    if last is None:
        torch.testing.assert_close(places, net(x)[:, 1].detach())
    elif isinstance(head[-2], nn.Linear):
        bias = head[-1](head[-2].bias)[1]
        torch.testing.assert_close(places, (net(x)[:, 1] - bias).detach(), rtol=1e-4, atol=1e-5)
    else:
        torch.testing.assert_close(places, (net(x)[:, 1] - last.bias[1]).detach(), rtol=1e-4, atol=1e-5)


def test_cam_says_why_a_model_has_none(mixed, x):
    with pytest.raises(ArgumentError, match=r"stands 'clamp'.*use grad_cam"):
        explain.cam(mixed, x)
    uneven = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d((1, 2)), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(ArgumentError, match="count differently"):
        explain.cam(uneven, torch.rand(1, 1, 8, 8))


def test_grad_cam_plus_plus_is_its_definition(pooled, x, found_by_autograd):
    """With Y = exp(S), the derivatives of Y are exp(S)·g, exp(S)·g² and exp(S)·g³ (eq. 17)."""
    maps, g, logits = found_by_autograd
    y = logits.exp()[:, None, None, None]
    alpha = y * g**2 / (2 * y * g**2 + (maps * y * g**3).sum((2, 3), keepdim=True))  # eq. 19
    weights = (alpha * (y * g).relu()).sum((2, 3), keepdim=True)  # eq. 10
    expected = (weights * maps).sum(1, keepdim=True).relu() / y
    found = explain.grad_cam_plus_plus(pooled, x, [0, 3, 1], score=False).values
    assert expected.max() > 0
    torch.testing.assert_close(found, expected.nan_to_num())


def test_layer_cam_is_its_definition(mixed, x):
    found = explain.layer_cam(mixed, x, [0, 3, 1], layer="conv1", score=False).values
    net = copy.deepcopy(mixed).eval()
    seen = []
    conv1 = net.conv1.forward
    net.conv1.forward = lambda value: seen.append(conv1(value)) or seen[-1]
    logits = net(x)[[0, 1, 2], [0, 3, 1]]
    adjoint = torch.autograd.grad(logits.sum(), seen[0])[0]
    expected = (adjoint.relu() * seen[0]).sum(1, keepdim=True).relu()
    assert expected.max() > 0
    torch.testing.assert_close(found, expected.detach())


@pytest.mark.parametrize("channels", [None, 3])
def test_score_cam_is_its_definition(channels, pooled, x):
    found = explain.score_cam(pooled, x, [0, 3, 1], channels=channels, score=False).values
    net = copy.deepcopy(pooled).eval()
    with torch.no_grad():
        maps = net.maps(x)
        for n, target in enumerate([0, 3, 1]):
            chosen = range(8) if channels is None else maps[n].flatten(1).std(1).topk(channels).indices.tolist()
            scores = []
            for k in chosen:
                mask = F.interpolate(maps[n, k][None, None], (8, 8), mode="bilinear", align_corners=False)
                mask = (mask - mask.min()) / (mask.max() - mask.min()).clamp(min=1e-300)
                scores.append(net(x[n : n + 1] * mask)[0, target])
            weights = torch.stack(scores).softmax(0)
            expected = sum(w * maps[n, k] for w, k in zip(weights, chosen)).relu()
            torch.testing.assert_close(found[n, 0], expected, rtol=1e-6, atol=1e-9)


def test_channels_must_be_some(pooled, x):
    with pytest.raises(ArgumentError, match="channels >= 1 or None for all, got 0"):
        explain.score_cam(pooled, x, channels=0)
