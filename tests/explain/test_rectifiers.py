"""Guided backprop and the deconvnet against their definitions, written as autograd functions or by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cutaway import explain


class Guided(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (grad > 0) * (x > 0)


class Deconv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, grad):
        return grad * (grad > 0)


@pytest.mark.parametrize(("method", "rule"), [(explain.guided_backprop, Guided), (explain.deconvnet, Deconv)])
def test_every_way_to_write_a_relu_follows_the_rule(mixed, x, method, rule):
    found = method(mixed, x, [1, 2, 3], score=False).values
    reference = copy.deepcopy(mixed).eval()
    reference.rectify = lambda value, kind: rule.apply(value)
    tracked = x.clone().requires_grad_()
    output = reference(tracked).gather(1, torch.tensor([[1], [2], [3]])).sum()
    expected = torch.autograd.grad(output, tracked)[0]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
    plain = explain.gradient(mixed, x, [1, 2, 3], score=False).values
    assert (found - plain).abs().max() > 1e-3  # the rule changes something


def test_guided_backprop_by_hand():
    """y = w · relu(V x): units with negative input or negative weight pass nothing on."""
    net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False))
    net[0].weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0], [-1.0, -1.0]])
    net[2].weight.data = torch.tensor([[1.0, -1.0, 5.0]])
    x = torch.tensor([[1.0, 1.0]])
    assert explain.guided_backprop(net, x, 0).values.tolist() == [[1.0, 2.0]]  # unit 0 alone
    assert explain.deconvnet(net, x, 0).values.tolist() == [[-4.0, -3.0]]  # units 0 and 2
    assert explain.gradient(net, x, 0).values.tolist() == [[-2.0, -2.0]]  # units 0 and 1


@pytest.mark.parametrize(
    "relu", [F.relu6, lambda x: F.hardtanh(x, 0.0, 6.0), lambda x: F.threshold(x, 0.0, 0.0), torch.relu_]
)
def test_relatives_of_the_relu_are_guided_too(relu):
    first, second = nn.Linear(5, 16).double(), nn.Linear(16, 1).double()
    x = torch.randn(4, 5, dtype=torch.float64)
    found = explain.guided_backprop(nn.Sequential(first, Lambda(relu), second), x, 0, score=False).values
    hidden = first(x)  # well below 6 here
    assert hidden.max() < 6
    expected = ((hidden > 0) * second.weight.clamp(min=0)) @ first.weight
    torch.testing.assert_close(found, expected.detach())


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def test_without_rectifiers_both_are_the_gradient():
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    expected = explain.gradient(net, x, 1, score=False).values
    torch.testing.assert_close(explain.guided_backprop(net, x, 1, score=False).values, expected)
    torch.testing.assert_close(explain.deconvnet(net, x, 1, score=False).values, expected)
