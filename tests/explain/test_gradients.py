import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cutaway import explain
from cutaway.errors import ArgumentError


def autograd(net, x, function):
    net = copy.deepcopy(net).eval()
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(net(x)).sum(), x)[0]


def test_gradient_of_the_predicted_logit_is_autograds(mixed, x):
    found = explain.gradient(mixed, x)
    assert torch.equal(found.target, copy.deepcopy(mixed).eval()(x).argmax(1))
    expected = autograd(mixed, x, lambda z: z.gather(1, found.target[:, None]))
    torch.testing.assert_close(found.values, expected, rtol=1e-10, atol=1e-14)


def test_gradient_of_the_log_probability(mixed, x):
    found = explain.gradient(mixed, x, [4, 0, 2], of="log_probability", score=False)
    expected = autograd(mixed, x, lambda z: -F.cross_entropy(z, torch.tensor([4, 0, 2]), reduction="none"))
    torch.testing.assert_close(found.values, expected, rtol=1e-10, atol=1e-14)
    assert found.scores is None and found.score is None


def test_gradient_of_any_function_of_the_outputs(mixed, x):
    found = explain.gradient(mixed, x, of=lambda z: z[:, 0] - z.logsumexp(1), score=False)
    expected = autograd(mixed, x, lambda z: z[:, 0] - z.logsumexp(1))
    torch.testing.assert_close(found.values, expected, rtol=1e-10, atol=1e-14)
    assert found.target is None


def test_gradient_x_input(mixed, x):
    found = explain.gradient_x_input(mixed, x, 1, score=False)
    torch.testing.assert_close(found.values, explain.gradient(mixed, x, 1, score=False).values * x)


def test_gradient_x_input_sums_to_the_logit_without_biases():
    net = nn.Sequential(nn.Linear(6, 9, bias=False), nn.ReLU(), nn.Linear(9, 3, bias=False)).double()
    x = torch.randn(4, 6, dtype=torch.float64)
    found = explain.gradient_x_input(net, x, 2, score=False)
    torch.testing.assert_close(found.values.sum(1), net(x)[:, 2])


def test_a_plain_function_can_be_explained():
    x = torch.rand(3, 4)
    found = explain.gradient(lambda x: torch.stack([(x**2).sum(1), x.sum(1)], 1), x, 0)
    torch.testing.assert_close(found.values, 2 * x)
    assert found.score is None and not found.warning


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(0, 4), "at least one example"),
        (torch.zeros(4), "batch"),
        (torch.zeros(2, 4, dtype=torch.long), "embeddings"),
        (torch.tensor([[0.0, float("nan")]]), r"nan at index \(0, 1\)"),
        ([[0.0]], "list"),
    ],
)
def test_inputs_without_a_gradient_are_refused(x, message):
    with pytest.raises(ArgumentError, match=message):
        explain.gradient(nn.Linear(4, 2), x)
