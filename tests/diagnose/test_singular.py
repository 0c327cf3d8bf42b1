import pytest
import torch
from torch import nn

from cutaway import graph as G
from cutaway.diagnose.singular import pushforward, singular
from cutaway.graph.walks import pullback


def pulled(net, x):
    graph = G.capture(net, x)
    trace = graph.run(x)
    return pullback(trace, graph.outputs[0], graph.inputs[0], graph.nodes), trace[graph.outputs[0]].value


def jacobians(net, x):
    """By torch.func, example by example: (N, outputs, inputs)."""
    rows = [torch.func.jacrev(lambda e: net(e[None])[0])(example) for example in x]
    return torch.stack([row.reshape(row.shape[: net(x).dim() - 1].numel(), -1) for row in rows])


@pytest.mark.parametrize(("inputs", "outputs"), [(5, 9), (9, 5)])
def test_all_singular_values_of_small_jacobians(inputs, outputs):
    net = nn.Sequential(nn.Linear(inputs, outputs), nn.Tanh()).double()
    x = torch.randn(3, inputs, dtype=torch.float64)
    found = singular(*pulled(net, x), x)
    expected = torch.linalg.svdvals(jacobians(net, x).detach())
    torch.testing.assert_close(found.values, expected)
    torch.testing.assert_close(found.largest, expected[:, 0])
    torch.testing.assert_close(found.gain, expected.square().sum(1).div(outputs).sqrt())
    assert not found.values.requires_grad


def test_large_jacobians_by_iteration():
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU()).double()
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    found = singular(*pulled(net, x), x, exact=16, iterations=60)
    values = torch.linalg.svdvals(jacobians(net, x).detach())
    assert found.values is None
    torch.testing.assert_close(found.largest, values[:, 0], rtol=0.02, atol=0)
    assert (found.largest <= values[:, 0] * (1 + 1e-9)).all()
    torch.testing.assert_close(found.gain, values.square().sum(1).div(256).sqrt(), rtol=0.15, atol=0)


def test_pushforward_is_the_jacobian_times_a_tangent():
    net = nn.Sequential(nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 3)).double()
    x, tangent = torch.randn(2, 2, 4, dtype=torch.float64)
    pull, value = pulled(net, x)
    expected = (jacobians(net, x) @ tangent[..., None])[..., 0]
    torch.testing.assert_close(pushforward(pull, value)(tangent), expected.detach())


def test_a_constant_has_no_singular_values_above_zero():
    found = singular(lambda u: torch.zeros(2, 3), torch.zeros(2, 500), torch.zeros(2, 3))
    assert found.largest.tolist() == [0, 0] and found.gain.tolist() == [0, 0]
