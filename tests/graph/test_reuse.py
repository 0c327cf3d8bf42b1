"""Overwriting values in their last use changes no answer and touches nothing that is still needed."""

import pytest
import torch
from torch import nn

import cutaway as ct
from cutaway.graph import rules
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


@pytest.mark.parametrize("chosen", [None, rules.guided, rules.deconvnet], ids=["plain", "guided", "deconvnet"])
def test_fused_convolutions_overwrite_adjoints_without_changing_the_answer(chosen: dict | None) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.one, self.two = (nn.Conv2d(c, 4, 3, padding=1) for c in (3, 4, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = nn.functional.max_pool2d(self.stem(x).relu(), 2)
            x = (self.two(self.one(x).relu()) + x).relu()
            return (self.two(x) + x + self.one(x)).mean((2, 3))  # sums without a ReLU behind them

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = Net(), torch.rand(2, 3, 8, 8)
    graph = ct.capture(model, x).optimized()
    wanted = [node.name for node in graph.nodes if node.kind in ("input", "operation")]
    for wrt in (["x"], wanted):
        program = graph.gradient(wrt=wrt, rules=chosen)
        assert wrt != ["x"] or "vjp_convolution_(" in program.code
        ours, pure = program.evaluate(x)[1], program.differentiable(x)[1]
        assert all(torch.equal(ours[name], pure[name]) for name in wrt)


def test_a_value_that_is_returned_is_not_overwritten() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    x = torch.randn(4, 3)
    values, _ = ct.capture(model, x).gradient(values=["0"]).evaluate(x)
    assert torch.equal(values["0"], model[0](x))
