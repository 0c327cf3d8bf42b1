"""Layers and neurons against autograd and closed forms."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cutaway import explain
from cutaway.errors import ArgumentError, LookupFailure


def after_fc1(net, x):
    """What `Mixed` computes up to its first linear layer, and from there on."""
    h = F.relu(net.norm(net.conv1(x)))
    h = F.relu(net.conv2(h)) + h
    h = F.max_pool2d(F.relu(F.relu(net.conv2(h)) * 1.5 - 0.05), 2)
    return net.fc1(h.flatten(1))


def head(net, hidden):
    return net.fc2(F.relu(hidden))[[0, 1, 2], [0, 3, 1]]


def test_activation_times_adjoint(mixed, x):
    net = copy.deepcopy(mixed).eval()
    hidden = after_fc1(net, x).detach().requires_grad_()
    adjoint = torch.autograd.grad(head(net, hidden).sum(), hidden)[0]
    found = explain.layer_attribution(mixed, x, [0, 3, 1], layer="fc1", score=False)
    torch.testing.assert_close(found.values, (hidden * adjoint).detach())
    assert found.layer == "fc1" and found.gap is None


def test_conductance_is_the_integral_and_adds_up(mixed, x):
    net = copy.deepcopy(mixed).eval()
    total, steps = 0.0, 400
    points = [after_fc1(net, x * k / steps).detach() for k in range(steps + 1)]
    for before, after in pairwise(points):
        middle = ((before + after) / 2).requires_grad_()
        total = total + torch.autograd.grad(head(net, middle).sum(), middle)[0] * (after - before)
    found = explain.layer_attribution(mixed, x, [0, 3, 1], layer="fc1", by="conductance", steps=200, score=False)
    assert (found.values - total).abs().max() < 0.02 * total.abs().max()
    assert found.gap.max() < 0.05
    promised = net(x)[[0, 1, 2], [0, 3, 1]] - net(torch.zeros_like(x))[[0, 1, 2], [0, 3, 1]]
    gap = (found.values.sum(1) - promised).abs() / promised.abs()
    torch.testing.assert_close(found.gap, gap.detach())


def test_deep_lift_at_a_layer_is_its_slope_times_its_change(mixed, x):
    net = copy.deepcopy(mixed).eval()
    h, h0 = after_fc1(net, x), after_fc1(net, torch.zeros_like(x))
    slope = (F.relu(h) - F.relu(h0)) / (h - h0)
    found = explain.layer_attribution(mixed, x, [0, 3, 1], layer="fc1", by="deep_lift", score=False)
    torch.testing.assert_close(found.values, (net.fc2.weight[[0, 3, 1]] * slope * (h - h0)).detach())
    assert found.gap.max() < 1e-12


def test_relevance_at_a_layer_is_its_contribution(mixed, x):
    net = copy.deepcopy(mixed).eval()
    with torch.no_grad():
        z = F.relu(after_fc1(net, x)) * net.fc2.weight[[0, 3, 1]]
        logit = z.sum(1, keepdim=True) + net.fc2.bias[[0, 3, 1]][:, None]
    found = explain.layer_attribution(mixed, x, [0, 3, 1], layer="fc1", by="lrp", score=False)
    torch.testing.assert_close(found.values, z * logit / (logit + 1e-6 * logit.sign()))


@pytest.mark.parametrize("by", ["gradient", "conductance", "deep_lift", "lrp"])
def test_maps_keep_their_places_and_channels_add_them_up(by, mixed, x):
    found = explain.layer_attribution(mixed, x, 1, by=by, score=False)
    assert found.values.shape == (3, 6, 4, 4)
    torch.testing.assert_close(found.channels(), found.values.sum((2, 3)))


def test_a_unit_is_explained_by_its_gradient(mixed, x):
    net, tracked = copy.deepcopy(mixed).eval(), x.clone().requires_grad_()
    unit = F.relu(net.conv2(F.relu(net.norm(net.conv1(tracked)))))[:, [4, 0, 2]].mean((2, 3))
    expected = torch.autograd.grad(unit[[0, 1, 2], [0, 1, 2]].sum(), tracked)[0]
    graph = explain.units.G.capture(mixed, x)
    relu = next(node for node in graph.nodes if node.op_name == "relu" and "conv2" in node.inputs[0].name)
    found = explain.neuron_attribution(mixed, x, layer=relu, unit=[4, 0, 2], score=False)
    torch.testing.assert_close(found.values, expected)


def test_the_unit_that_counts_most_is_the_default(mixed, x):
    units = explain.layer_attribution(mixed, x, [0, 3, 1], layer="fc1", score=False).values.argmax(1)
    found = explain.neuron_attribution(mixed, x, [0, 3, 1], layer="fc1", score=False)
    assert found.settings["unit"] == units.tolist()
    asked = explain.neuron_attribution(mixed, x, layer="fc1", unit=units.tolist(), score=False)
    assert torch.equal(found.values, asked.values)


@pytest.mark.parametrize("by", list(explain.units.NEURON))
def test_any_method_by_the_input_explains_a_unit(by, mixed, x):
    together = explain.neuron_attribution(mixed, x, layer="fc1", unit=[3, 1, 7], by=by, score=False).values
    for n, unit in enumerate([3, 1, 7]):
        alone = explain.neuron_attribution(mixed, x[n : n + 1], layer="fc1", unit=unit, by=by, score=False).values
        torch.testing.assert_close(together[n : n + 1], alone)


def test_integrated_gradients_of_a_unit_adds_up_to_it(mixed, x):
    found = explain.neuron_attribution(mixed, x, layer="fc1", unit=3, by="integrated_gradients", score=False)
    net = copy.deepcopy(mixed).eval()
    promised = (after_fc1(net, x) - after_fc1(net, torch.zeros_like(x)))[:, 3]
    torch.testing.assert_close(found.values.sum((1, 2, 3)), promised.detach(), rtol=0.1, atol=0.02)
    exact = explain.neuron_attribution(mixed, x, layer="fc1", unit=3, by="deep_lift", score=False)
    torch.testing.assert_close(exact.values.sum((1, 2, 3)), promised.detach())


def test_tables_take_what_the_last_layer_reads():
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    found = explain.layer_attribution(net, torch.rand(2, 4), 1)
    assert found.values.shape == (2, 6) and found.layer == "1"


def test_wrong_arguments_are_refused(mixed, x):
    with pytest.raises(LookupFailure, match="conductance"):
        explain.layer_attribution(mixed, x, by="conductence")
    with pytest.raises(LookupFailure, match="guided_backprop"):
        explain.neuron_attribution(mixed, x, by="guided")
    with pytest.raises(ArgumentError, match=r"unit=99 .* units 0 … 11"):
        explain.neuron_attribution(mixed, x, layer="fc1", unit=99)
    with pytest.raises(ArgumentError, match="steps >= 1, got 0"):
        explain.layer_attribution(mixed, x, steps=0)
    with pytest.raises(LookupFailure, match="fc1"):
        explain.layer_attribution(mixed, x, layer="fc3")
