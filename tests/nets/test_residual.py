"""Residual connections: their values, their errors, and the identity term in the gradient."""

import pytest
import torch
from torch import nn

from cutaway import graph as G
from cutaway import nets
from cutaway.errors import ArgumentError

WIDTH, DEPTH = 6, 60


def body(seed: int, gain: float = 1.0) -> nn.Sequential:
    """F of one block: two linear layers about a tanh, in float64; its Jacobian is about gain² in size."""
    layers = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH)).double()
    return nets.initialize(layers, "orthogonal", seed=seed, gain=gain)  # type: ignore[return-value]


def jacobian(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Of the output by the input, (N, outputs, inputs)."""
    graph = G.capture(model, x)
    return graph.jacobian("output", graph.inputs[0].name)(x)


def test_output_is_the_body_and_the_input():
    f, x = body(0), torch.randn(4, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(nets.Residual(f)(x), f(x) + x)
    image = torch.randn(2, 3, 8, 8)
    conv, shortcut = nn.Conv2d(3, 5, 3, 2, 1), nn.Conv2d(3, 5, 1, 2)
    torch.testing.assert_close(nets.Residual(conv, shortcut)(image), conv(image) + shortcut(image))
    assert {key.split(".")[0] for key in nets.Residual(conv, shortcut).state_dict()} == {"body", "shortcut"}


def test_shapes_that_differ_are_refused_and_not_broadcast():
    for wrong in (nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 1)):
        with pytest.raises(ArgumentError, match=rf"\(4, {wrong.out_features}\) and the shortcut \(4, 6\).*1×1"):
            nets.Residual(wrong)(torch.randn(4, WIDTH))


def test_jacobian_is_the_bodys_plus_the_identity():
    f, x = body(1), torch.randn(3, WIDTH, dtype=torch.float64)
    plain, residual = jacobian(f, x), jacobian(nets.Residual(f), x)
    assert plain.shape == residual.shape == (3, WIDTH, WIDTH)
    identity = torch.eye(WIDTH, dtype=torch.float64).expand_as(plain)
    torch.testing.assert_close(residual - plain, identity, rtol=0, atol=1e-12)
    slope = 1 - torch.tanh(x @ f[0].weight.T) ** 2  # the chain rule by hand: W₂ diag(1 − tanh²) W₁ + I
    by_hand = torch.einsum("oh,nh,hi->noi", f[2].weight, slope, f[0].weight) + identity
    torch.testing.assert_close(residual, by_hand.detach(), rtol=0, atol=1e-12)


def test_stacked_blocks_have_a_path_for_every_choice_of_body_or_identity():
    x = torch.randn(1, WIDTH, dtype=torch.float64)
    bodies = [body(seed) for seed in range(3)]
    model = nn.Sequential(*map(nets.Residual, bodies))
    graph = G.capture(model, x)
    found = graph.paths(graph.inputs[0].name, "output")(x).paths
    assert len(found) == 2**3  # unrolled: Veit et al. 2016
    identity = torch.eye(WIDTH, dtype=torch.float64)
    shortest = min(found, key=lambda path: len(path.nodes))
    torch.testing.assert_close(shortest.product, identity)  # the gradient that no weight has touched
    total = sum(path.product for path in found)
    torch.testing.assert_close(total, jacobian(model, x)[0])
    expected, h = identity, x
    for f in bodies:
        expected = (jacobian(f, h)[0] + identity) @ expected
        h = (f(h) + h).detach()
    torch.testing.assert_close(total, expected)


def test_gradient_stays_near_one_where_the_plain_stacks_vanishes():
    x = torch.randn(2, WIDTH, dtype=torch.float64)
    bodies = [body(seed, gain=0.05) for seed in range(DEPTH)]  # J_F is 0.0025 or less in norm
    seed = nn.functional.normalize(torch.randn(2, WIDTH, dtype=torch.float64))
    norms = {}
    for name, model in (("plain", nn.Sequential(*bodies)), ("residual", nn.Sequential(*map(nets.Residual, bodies)))):
        graph = G.capture(model, x)
        adjoint = graph.gradient(of="output", wrt=graph.inputs[0])(x, seed=seed)
        at = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(model(at), at, seed)
        torch.testing.assert_close(adjoint, expected, rtol=1e-6, atol=0)
        norms[name] = adjoint.norm(dim=1)
    assert norms["plain"].max() <= 0.0025**DEPTH * (1 + 1e-9)  # about 1e-156
    slack = (1 + 0.0025) ** DEPTH  # every factor J_F + I is between 1 − ‖J_F‖ and 1 + ‖J_F‖
    assert norms["residual"].max() <= slack and norms["residual"].min() >= (1 - 0.0025) ** DEPTH
    assert abs(norms["residual"] - 1).max() < 0.1
