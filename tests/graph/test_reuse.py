"""Overwriting values in their last use changes no answer and touches nothing that is still needed."""

import torch
from torch import nn

import cutaway as ct
from tests.graph.subjects import images, reused


def test_the_answer_is_bit_for_bit_the_same() -> None:
    model, x = reused().eval(), images()
    graph = ct.capture(model, x)
    kept = x.clone()
    names = ["x", "block", *(node.name for node in graph.parameters)]
    program = graph.gradient(wrt=names, values=["block.norm", "stem.0"])
    values, adjoints = program.evaluate(x)
    pure_values, pure_adjoints = program.differentiable(x)
    assert "_(" in program.code, "something is overwritten"
    assert torch.equal(x, kept)
    for name in names:
        assert torch.equal(adjoints[name], pure_adjoints[name]), name
    for name in ("output", "block.norm", "stem.0"):
        assert torch.equal(values[name], pure_values[name]), name


def test_what_has_a_second_name_is_not_overwritten() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        view = y.reshape(-1)  # the same memory
        return torch.relu(y).sum() + view.sum()

    x = torch.randn(3, 4)
    assert torch.equal(ct.capture(function, x)(x), function(x))


def test_a_seed_and_an_input_are_not_overwritten() -> None:
    model = nn.Sequential(nn.ReLU(), nn.ReLU())
    x, seed = torch.randn(4, 3), torch.randn(4, 3)
    kept_x, kept_seed = x.clone(), seed.clone()
    ct.capture(model, x).gradient()(x, seed=seed)
    assert torch.equal(x, kept_x) and torch.equal(seed, kept_seed)


def test_a_value_that_is_returned_is_not_overwritten() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    x = torch.randn(4, 3)
    values, _ = ct.capture(model, x).gradient(values=["0"]).evaluate(x)
    assert torch.equal(values["0"], model[0](x))
