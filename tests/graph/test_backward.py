"""The reverse pass against autograd in float64, against sums over paths, and with rules of one's own."""

import copy

import pytest
import torch
from torch import nn

import cutaway as ct
from cutaway.errors import ArgumentError
from tests.graph.subjects import images, reused

TOLERANCE = 1e-10


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12)).item()


def autograd(model: nn.Module, x: torch.Tensor, seed: torch.Tensor) -> list[torch.Tensor]:
    """Gradients by autograd with respect to the input and every parameter, on a copy of the model."""
    model = copy.deepcopy(model)
    x = x.clone().requires_grad_()
    for parameter in model.parameters():
        parameter.requires_grad_()
    return list(
        torch.autograd.grad(model(x), [x, *model.parameters()], seed, allow_unused=True, materialize_grads=True)
    )


@pytest.mark.parametrize("train", [False, True])
def test_gradients_agree_with_autograd(train: bool) -> None:
    model, x = reused().train(train), images()
    seed = torch.randn(3, 4, dtype=torch.float64)
    graph = ct.capture(model, x, train=train)
    names = [name for name, _ in model.named_parameters()]
    ours = graph.gradient(wrt=["x", *names])(x, seed=seed)
    for name, mine, theirs in zip(["x", *names], ours, autograd(model, x, seed), strict=True):
        assert relative(mine, theirs) < TOLERANCE, name


def test_trace_holds_value_and_adjoint_of_every_node() -> None:
    model, x = reused().eval(), images()
    graph = ct.capture(model, x)
    seed = torch.randn(3, 4, dtype=torch.float64)
    trace = graph.run(x).backward("output", seed)
    for node in graph.nodes:
        if node.kind == "operation" and node.shape is not None:
            assert trace[node].adjoint is not None, node
            alone = graph.gradient(wrt=node)(x, seed=seed)
            assert torch.equal(trace[node].adjoint, alone), node
            assert trace[node].value.shape == trace[node].adjoint.shape
    assert torch.equal(trace["output"].adjoint, seed)


def test_contributions_of_several_users_are_summed_before_they_are_multiplied() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        y = x.exp()
        return (y * y + y.sin() * 3 - y).sum()

    x = torch.randn(5, dtype=torch.float64)
    y = x.exp()
    program = ct.capture(function, x).gradient()
    assert relative(program(x), (2 * y + 3 * y.cos() - 1) * y) < TOLERANCE
    assert program.code.count("vjp_exp_self(") == 1  # one multiplication by the local derivative, however many users


def test_a_node_without_a_path_has_adjoint_zero() -> None:
    graph = ct.capture(lambda a, b: a * 2, torch.ones(2), torch.ones(3))
    assert torch.equal(graph.gradient(wrt="b")(torch.ones(2), torch.ones(3)), torch.zeros(3))


def test_detach_and_no_grad_stop_the_adjoint() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            weight = x * 3
        return x * weight + x.detach() * 5

    x = torch.randn(4, dtype=torch.float64)
    assert relative(ct.grad(function)(x), 3 * x) < TOLERANCE


def test_only_what_is_asked_for_is_computed() -> None:
    model, x = reused().eval(), images()
    graph = ct.capture(model, x)
    code = graph.gradient(of="stem.0", wrt="block.relu@3").code
    assert "layer_norm" not in code, "the forward pass goes no deeper than what is differentiated"
    assert "d_block_conv " not in code and "d_x " not in code, "the reverse pass stops at what is asked for"
    assert "weight=" not in code.split("d_stem_0 = start")[1].replace("weight=stem_0_weight", "")
    everything = graph.gradient(wrt=[node.name for node in graph.parameters]).code
    assert "d_x =" not in everything


def test_every_way_to_give_a_seed() -> None:
    graph = ct.capture(lambda x: x**2, torch.ones(3))
    x = torch.tensor([1.0, 2.0, 3.0])
    program = graph.gradient()
    assert torch.equal(program(x), 2 * x)
    assert torch.equal(program(x, seed=torch.tensor([0.0, 1.0, 0.0])), torch.tensor([0.0, 4.0, 0.0]))
    assert torch.equal(program(x, seed=lambda value: value), 2 * x**3)
    with pytest.raises(ArgumentError, match=r"seed has shape \(2,\).*\(3,\)"):
        program(x, seed=torch.ones(2))


def test_several_targets_are_summed() -> None:
    graph = ct.capture(lambda x: (x.sin(), x * 4), torch.ones(3))
    x = torch.randn(3)
    both = graph.gradient(of=["sin", "mul"])(x, seed=(None, torch.full((3,), 2.0)))
    assert torch.allclose(both, x.cos() + 8)


def test_second_derivatives_by_capturing_the_program() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return (x.tanh() * x.exp()).sum()

    x = torch.randn(4, dtype=torch.float64)
    program = ct.capture(function, x).gradient()
    ours = ct.grad(lambda x: program.differentiable(x)[1]["x"].sum())(x)
    theirs = torch.autograd.functional.hessian(function, x).sum(0)
    assert relative(ours, theirs) < TOLERANCE


def test_the_fallback_serves_what_the_table_does_not() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        values, _ = torch.linalg.eigh(x @ x.mT)
        return values.logcumsumexp(0)

    x = torch.randn(4, 4, dtype=torch.float64)
    program = ct.capture(function, x).gradient()
    assert "fallback" in program.origins.values()
    x.requires_grad_()
    theirs = torch.autograd.grad(function(x).sum(), x)[0]
    assert relative(program(x.detach()), theirs) < 1e-9


def test_a_rule_for_an_operation_and_for_one_node() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU())
    x = torch.randn(2, 3)
    graph = ct.capture(model, x)
    double = {"relu": lambda grad, result: 2 * grad * (result > 0)}
    plain, both = graph.gradient()(x), graph.gradient(rules=double)(x)
    assert torch.allclose(both, 4 * plain)
    one = graph.gradient(rules={"1": lambda grad, result: 2 * grad * (result > 0)})(x)
    assert torch.allclose(one, 2 * plain)
    weight = graph.gradient(wrt="0.weight", rules={"0": {"weight": lambda weight: torch.ones_like(weight)}})
    assert torch.equal(weight(x), torch.ones(3, 3))


def test_a_rule_that_asks_for_something_unknown_is_refused() -> None:
    graph = ct.capture(nn.ReLU(), torch.ones(2))
    with pytest.raises(ArgumentError, match=r"asks for 'output'.*grad, result"):
        graph.gradient(rules={"relu": lambda grad, output: grad})
    with pytest.raises(LookupError, match="'inputs'"):
        graph.gradient(rules={"relu": {"inputs": lambda grad: grad}})


def test_guided_backprop_on_a_functional_relu() -> None:
    weight = torch.tensor([[1.0, -1.0], [2.0, 1.0]])

    def function(x: torch.Tensor) -> torch.Tensor:
        return (torch.relu(x @ weight) * torch.tensor([1.0, -1.0])).sum(1)

    x = torch.tensor([[1.0, 2.0]])
    hidden = x @ weight  # (5, 1)
    assert (hidden > 0).all()
    assert torch.equal(ct.grad(function, rules=ct.rules.guided)(x), (torch.tensor([[1.0, 0.0]])) @ weight.T)
    assert torch.equal(ct.grad(function)(x), (torch.tensor([[1.0, -1.0]])) @ weight.T)


def test_integers_cannot_be_differentiated() -> None:
    graph = ct.capture(nn.Embedding(5, 2), torch.tensor([[1, 2]]))
    with pytest.raises(ArgumentError, match="not a real tensor"):
        graph.gradient(wrt=graph.inputs[0])
    assert graph.gradient(wrt="weight")(torch.tensor([[1, 2]])).sum() == 4


def test_values_are_freed_when_last_used() -> None:
    code = ct.capture(reused().eval(), images()).gradient().code
    assert "del d_head" in code and "del block_norm\n" in code
