"""Jacobians, paths, tangents, orders and checks against autograd, closed forms and counts by hand."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cutaway as ct
from cutaway.errors import ArgumentError
from cutaway.graph import check_gradient, linear_algebra
from tests.graph.subjects import images, reused


@pytest.fixture(scope="module")
def network() -> tuple[nn.Module, torch.Tensor]:
    return reused().eval(), images(2, 7)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_jacobian_of_the_output_by_a_layer(network: tuple[nn.Module, torch.Tensor], mode: str) -> None:
    model, x = network
    ours = ct.capture(model, x).jacobian("output", "x", mode)(x)
    theirs = torch.stack([torch.autograd.functional.jacobian(model, x[i : i + 1])[0, :, 0] for i in range(2)])
    assert ours.shape == (2, 4, 3, 7, 7)
    assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-14)


def test_jacobian_of_a_function_without_a_batch() -> None:
    a = torch.randn(3, 4, dtype=torch.float64)
    x = torch.randn(4, dtype=torch.float64)
    graph = ct.capture(lambda x: torch.tanh(a @ x), x)
    expected = (1 - torch.tanh(a @ x) ** 2)[:, None] * a
    for mode in ("auto", "forward", "reverse"):
        assert torch.allclose(graph.jacobian("output", "x", mode)(x), expected, rtol=1e-12)
    with pytest.raises(ArgumentError, match="'sideways'"):
        graph.jacobian("output", "x", "sideways")(x)


def test_an_affine_map_has_its_matrix_as_jacobian() -> None:
    layer, x = nn.Linear(5, 3).double(), torch.randn(2, 5, dtype=torch.float64)
    assert torch.equal(ct.capture(layer, x).jacobian("output", "x")(x)[1], layer.weight.detach())


@pytest.mark.parametrize("train", [False, True])
def test_tangents_agree_with_torch(train: bool) -> None:
    model, x = reused().train(train), images()
    direction = torch.randn_like(x)
    value, tangent = ct.capture(model, x, train=train).jvp()(x, tangents=direction)
    twin = reused().train(train)
    if train:
        for module in twin.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats, module.running_mean, module.running_var = False, None, None
    theirs = torch.func.jvp(twin, (x,), (direction,))
    assert torch.allclose(value, theirs[0], rtol=1e-10)
    assert torch.allclose(tangent, theirs[1], rtol=1e-9, atol=1e-12)


def test_forward_and_reverse_mode_are_adjoint_to_each_other(network: tuple[nn.Module, torch.Tensor]) -> None:
    model, x = network
    graph = ct.capture(model, x)
    u, v = torch.randn(2, 4, dtype=torch.float64), torch.randn_like(x)
    ju = graph.gradient()(x, seed=u)
    jv = graph.jvp()(x, tangents=v)[1]
    assert torch.allclose((ju * v).sum(), (u * jv).sum(), rtol=1e-11)


def test_attention_has_a_tangent() -> None:
    q, k, v = torch.randn(3, 2, 4, 3, dtype=torch.float64)
    direction = torch.randn_like(q)
    ours = ct.jvp(F.scaled_dot_product_attention)(q, k, v, tangents=direction)[1]

    def written_out(q: torch.Tensor) -> torch.Tensor:
        return torch.softmax(q @ k.mT / 3**0.5, -1) @ v

    assert torch.allclose(ours, torch.func.jvp(written_out, (q,), (direction,))[1], rtol=1e-10)


def test_the_sum_over_paths_is_backpropagation() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        a, b = x.sin(), x.exp()
        return a * b + b.cos() * x

    x = torch.randn(3, dtype=torch.float64)
    graph = ct.capture(function, x)
    listed = graph.paths("x", "output")(x)
    assert len(listed.paths) == 4  # by sin, by exp twice, and directly
    assert torch.allclose(listed.total, torch.autograd.functional.jacobian(function, x), rtol=1e-12)
    by_sin = next(path for path in listed.paths if "sin" in str(path))
    assert torch.allclose(by_sin.product, torch.diag(x.cos() * x.exp()), rtol=1e-12)
    for path in listed.paths:
        product = torch.eye(3, dtype=torch.float64)
        for factor in path.factors:
            product = factor @ product
        assert torch.allclose(product, path.product)
    assert len(listed.table()) == 4


def test_a_seed_is_pulled_back_along_each_path() -> None:
    model, x = reused().eval(), images()
    graph = ct.capture(model, x)
    seed = torch.randn(graph(x).shape, dtype=torch.float64)
    found = graph.paths("x", "output")(x, seed=seed)
    assert len(found.paths) > 1
    leaf = x.clone().requires_grad_()
    expected = torch.autograd.grad(model(leaf), leaf, seed)[0]
    assert torch.allclose(found.total, expected, rtol=1e-10, atol=1e-14)


def test_one_path_alone_is_the_product_of_its_edges() -> None:
    x = torch.randn(3, dtype=torch.float64)
    graph = ct.capture(lambda x: torch.sin(x) * torch.exp(x) + x, x)
    seed = torch.randn(3, dtype=torch.float64)
    written, pulled = graph.paths("x", "output")(x), graph.paths("x", "output")(x, seed=lambda value: seed)
    for whole, part in zip(written.paths, pulled.paths, strict=True):
        assert whole.nodes == part.nodes
        assert torch.allclose(seed @ whole.product, part.product, rtol=1e-12)


def test_too_many_paths_are_counted_not_listed() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        for _ in range(20):
            x = x.sin() + x.cos()
        return x

    graph = ct.capture(function, torch.ones(1))
    with pytest.raises(ArgumentError, match="1048576 paths"):
        graph.paths("x", "output")(torch.ones(1))


def test_ridge_regression_has_the_lectures_derivatives() -> None:
    rate = 0.1

    def objective(w: torch.Tensor, b: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        prediction = (w * x).sum() + b
        residual = y - prediction
        return residual**2 + rate * (w**2).sum()

    w, x = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.tensor([3.0, 0.5], dtype=torch.float64)
    b, y = torch.tensor(0.5, dtype=torch.float64), torch.tensor(4.0, dtype=torch.float64)
    trace = ct.capture(objective, w, b, x, y).run(w, b, x, y).backward()
    r = y - ((w * x).sum() + b)
    assert torch.allclose(trace["sub"].value, r)
    assert torch.allclose(trace["sub"].adjoint, 2 * r)  # ∂ℓ/∂r
    assert torch.allclose(trace["add"].adjoint, -2 * r)  # ∂ℓ/∂ŷ
    assert torch.allclose(trace["b"].adjoint, -2 * r)
    assert torch.allclose(trace["w"].adjoint, -2 * r * x + 2 * rate * w)  # ∂J/∂w


def test_backpropagation_of_an_mlp_read_as_linear_algebra() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    trace = ct.capture(model, x).run(x)
    with pytest.raises(ArgumentError, match="backward"):
        linear_algebra(trace)
    trace = trace.backward("output", torch.randn(5, 2, dtype=torch.float64))
    readings = linear_algebra(trace)
    assert [reading.name for reading in readings] == ["0", "2", "4"]
    assert all(reading.error < 1e-14 for reading in readings)
    derivative = trace["1"].value * (1 - trace["1"].value)  # s′(v̄) of the sigmoid
    assert torch.allclose(readings[0].delta_bar, derivative * readings[1].delta, rtol=1e-12)  # δ̄ = s′(v̄) × δ


def test_orders_on_a_chain_follow_the_matrix_chain_problem() -> None:
    widths = [2, 30, 3, 20, 4]
    model = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths))).double()
    x = torch.randn(1, 2, dtype=torch.float64)
    found = ct.capture(model, x).orders("output", "x")
    assert found.chain and found.exact and found.bound == found.best
    assert found.forward == 2 * 30 * 3 + 2 * 3 * 20 + 2 * 20 * 4
    assert found.reverse == 4 * 20 * 3 + 4 * 3 * 30 + 4 * 30 * 2
    assert found.best == 2 * 30 * 3 + 3 * 20 * 4 + 2 * 3 * 4  # split at the narrow layer
    expected = torch.autograd.functional.jacobian(model, x)[0, :, 0]
    for order in (None, ["0", "1", "2"], ["2", "1", "0"]):
        matrix, counted = found.jacobian(x, order=order)
        assert torch.allclose(matrix, expected, rtol=1e-12)
        assert counted == {None: found.best, "0": found.forward, "2": found.reverse}[order and order[0]]


def test_orders_on_a_graph_with_branches_agree_with_their_counts() -> None:
    a, b, c = (torch.randn(n, m, dtype=torch.float64) for n, m in ((8, 3), (2, 8), (2, 8)))

    def function(x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(a @ x)
        return torch.sin(b @ h) * torch.cos(c @ h)

    x = torch.randn(3, dtype=torch.float64)
    graph = ct.capture(function, x)
    found = graph.orders("output", "x")
    assert found.exact and not found.chain
    assert found.best <= min(found.forward, found.reverse)
    matrix, counted = found.jacobian(x)
    assert counted == found.best
    assert torch.allclose(matrix, torch.autograd.functional.jacobian(function, x), rtol=1e-12)


def test_the_heuristic_stays_above_its_bound() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        for _ in range(6):
            x = torch.sin(x) + torch.cos(x) * 0.5
        return x

    found = ct.capture(function, torch.ones(2)).orders("output", "x")
    assert not found.exact
    assert 0 < found.bound <= found.best <= min(found.forward, found.reverse)
    with pytest.raises(ArgumentError, match="no path"):
        ct.capture(lambda a, b: a * 2, torch.ones(2), torch.ones(2)).orders("output", "b")


def test_finite_differences_find_a_wrong_gradient() -> None:
    x = torch.randn(6, dtype=torch.float64)

    def function(x: torch.Tensor) -> torch.Tensor:
        return (x.sin() * x).sum()

    right = ct.grad(function)(x)
    good = check_gradient(function, x, right)
    assert good.agrees and good.error < 1e-9 and 1e-7 < good.step < 1e-2
    assert good.errors[0] > good.error < good.errors[-1]  # truncation on one side, rounding on the other
    assert not check_gradient(function, x, right * 1.001).agrees
