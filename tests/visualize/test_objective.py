"""Objectives compose, and the engine's gradient of them is autograd's."""

import pytest
import torch

from cutaway.errors import ArgumentError, LookupFailure
from cutaway.visualize import channel, custom, direction, diversity, guide, interpolation, l2, layer, logit, unit
from cutaway.visualize.network import nearest_rectifiers, network, of_layers


def value(objective, net, x):
    first, second = net.maps(x)
    values = {"relu": first, "add": second, "output": net.head(second.mean((2, 3))), "image": x}
    return objective.value({name: values[name] for name in [*objective.layers, "image"]})


OBJECTIVES = {
    "channel": channel("relu", 2),
    "unit": unit("add", 1, (3, 4)),
    "class": logit([0, 3]),
    "layer": layer("add"),
    "direction": direction("add", torch.arange(6.0), power=2),
    "interpolation": interpolation("relu", 0, 5, count=2),
    "guide": guide("add", torch.rand(1, 6, 5, 5)),
    "diversity": diversity("add"),
    "sum over layers": 2 * channel("relu", 1) - 0.5 * layer("add") + logit(1),
    "product over layers": channel("relu", 1) * channel("add", 2) - logit(0) * 3,
    "number": 1 - channel("add", 0) * 2 + 3,
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_autograds(small, x, name):
    objective = OBJECTIVES[name]
    small = small.double().eval()
    x = x.double().requires_grad_()
    expected = value(of_layers(objective), small, x)
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    seen = network(small, x.detach(), objective.layers)
    values, adjoint = seen.gradient(x.detach(), of_layers(objective))
    torch.testing.assert_close(values, expected.detach())
    torch.testing.assert_close(adjoint, gradient)


def test_copies_are_averaged(small, x):
    small, x = small.double().eval(), torch.rand(4, 3, 12, 12, dtype=torch.float64)
    objective = channel("relu", [1, 2]) + diversity("add")
    seen = network(small, x, objective.layers)
    values, adjoint = seen.gradient(x, objective, copies=2)
    both = [seen.gradient(half, objective) for half in x.chunk(2)]
    torch.testing.assert_close(values, (both[0][0] + both[1][0]) / 2)
    torch.testing.assert_close(adjoint, torch.cat([both[0][1], both[1][1]]) / 2)


def test_arithmetic_is_that_of_numbers(small, x):
    small = small.eval()
    a, b, c = channel("relu", 0), layer("add"), l2()
    va, vb, vc = (value(each, small, x) for each in (a, b, c))
    torch.testing.assert_close(value((a + 2) * b - 3 * c, small, x), (va + 2) * vb - 3 * vc)
    torch.testing.assert_close(value(-(a - b), small, x), vb - va)
    torch.testing.assert_close(value(1 - a, small, x), 1 - va)


def test_objectives_read_as_what_they_are():
    assert (channel("conv", 3) - 0.1 * l2()).words == "channel 3 of conv − 0.1 × L2"
    assert channel("conv", [3, 4]).titles == ("channel 3", "channel 4")
    assert ((logit(1) + logit(2)) * 2).words == "2 × (class 1 + class 2)"


def test_what_does_not_fit_is_refused(small, x):
    with pytest.raises(LookupFailure, match="'conv1'"):
        network(small, x, ["conv11"])
    with pytest.raises(ArgumentError, match="0 … 5"):
        value(channel("relu", 6), small, x)
    with pytest.raises(ArgumentError, match="place"):
        value(unit("relu", 0, (12, 0)), small, x)
    with pytest.raises(ArgumentError, match="2 images"):
        channel("relu", [0, 1]) + logit([1, 2, 3])
    with pytest.raises(ArgumentError, match="do not multiply"):
        of_layers(channel("relu", 0) * l2())
    with pytest.raises(ArgumentError, match="shape"):
        value(custom("relu", lambda z: z.sum()), small, x)


def test_only_the_rectifiers_next_to_the_layer_are_opened(small, x):
    """The redirected gradient of a shut channel is that of what stands before its rectifier."""
    small = small.double().eval()
    with torch.no_grad():
        small.conv2.bias[2] = -50
    x = x.double().requires_grad_()
    objective = channel("relu_1", 2)
    seen = network(small, x.detach(), objective.layers)
    assert [node.name for node in nearest_rectifiers([seen.plain["relu_1"]])] == ["relu_1"]
    assert {node.name for node in nearest_rectifiers([seen.plain["output"]])} == {"relu", "relu_1"}
    value, plain = seen.gradient(x.detach(), objective)
    _, redirected = seen.gradient(x.detach(), objective, redirect=True)
    before = small.conv2(torch.relu(small.norm(small.conv1(x))))[:, 2].mean((1, 2))
    (expected,) = torch.autograd.grad(before.sum(), x)
    assert value.abs().max() == 0 and plain.abs().max() == 0
    torch.testing.assert_close(redirected, expected)
