"""Recorded runs: models that branch on values, as graphs that hold for one input."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cutaway as ct
from cutaway.errors import CaptureError


class Branching(nn.Module):
    """Branches on a sum, reads a number, writes in place, and holds what recording could trip over."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.memory = nn.LSTM(4, 4, batch_first=True)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor, scale: float = 2.0, *, y: Tensor) -> dict[str, Any]:
        x = self.first(x)
        x = self.block(x) if x.sum() > 0 else self.block(self.block(-x))
        steps = int(x.sum().abs().item()) % 3 + 2
        with torch.no_grad():
            weight = x * 2
        x = x + 1
        x[:, 0] = x[:, 1] * 2
        h, _ = self.memory(x[:, None].repeat(1, steps, 1))
        return {"out": self.norm(h.sum(1) * weight * x.detach()), "steps": steps, "y": y * scale}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(2)
    return Branching().double()


def inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)


@pytest.mark.parametrize("train", [False, True])
def test_value_and_gradient_are_the_models(model: nn.Module, train: bool) -> None:
    x, y = inputs()
    graph = ct.capture(model, x, 2.0, y=y, train=train, specialise=True)
    assert graph.specialised and not graph.dynamic
    twin = copy.deepcopy(model).train(train)
    x.requires_grad_()
    expected = twin(x, 2.0, y=y)
    found = graph(x.detach(), 2.0, y=y)
    assert torch.allclose(found["out"], expected["out"], rtol=1e-12) and found["steps"] == expected["steps"]
    seed = torch.randn(3, 4, dtype=torch.float64)
    names = [name for name, _ in model.named_parameters()]
    theirs = torch.autograd.grad(
        expected["out"], [x, *twin.parameters()], seed, allow_unused=True, materialize_grads=True
    )
    program = graph.gradient(wrt=["x", *names])
    for name, a, b in zip(["x", *names], program(x.detach(), 2.0, y=y, seed=seed), theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12), name
    assert set(program.origins.values()) == {"rule"}
    assert set(graph.updates) == (
        {f"norm.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")} if train else set()
    )


def test_a_recorded_graph_reads_as_a_captured_one(model: nn.Module) -> None:
    x, y = inputs()
    graph = ct.capture(model, x, y=y, specialise=True)
    assert graph["first"].op_name == "linear" and graph["norm"].op_name == "batch_norm"
    assert graph["block.1"].op_name == "relu" and graph["first"].source.startswith("test_record.py")


def test_the_model_is_left_as_it_was(model: nn.Module) -> None:
    x, y = inputs()
    before, modes = copy.deepcopy(model.state_dict()), [part.training for part in model.modules()]
    kept = x.clone()
    ct.capture(model, x, y=y, train=True, specialise=True)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [part.training for part in model.modules()] == modes and torch.equal(x, kept)
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in model.parameters())


def test_each_run_is_recorded_anew() -> None:
    def function(x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x * 3

    up, down = torch.ones(2, 2), -torch.ones(2, 2)
    assert torch.equal(ct.capture(function, up, specialise=True).gradient()(up), 2 * up)
    assert torch.equal(ct.capture(function, down, specialise=True).gradient()(down), -3 * down)


def test_without_being_asked_nothing_is_specialised(model: nn.Module) -> None:
    x, y = inputs()
    with pytest.raises(CaptureError, match=r"(?s)test_record.py.*specialise=True"):
        ct.capture(model, x, y=y)


def test_convolutions_attention_and_pooling_are_raised() -> None:
    def function(x: Tensor) -> Tensor:
        if x.abs().sum() < 0:
            raise ValueError
        x = nn.functional.conv2d(x, torch.ones(4, 3, 3, 3), torch.ones(4), padding=1)
        x = nn.functional.max_pool2d(nn.functional.group_norm(x, 2), 2).flatten(2)  # (N, 4, 9)
        x = nn.functional.layer_norm(x, (9,))
        x = nn.functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], is_causal=True)
        return nn.functional.conv_transpose1d(x[:, 0], torch.ones(4, 2, 3), stride=2).log_softmax(-1)

    x = torch.randn(2, 3, 6, 6)
    graph = ct.capture(function, x, specialise=True)
    names = [node.op_name for node in graph.nodes if node.op is not None]
    for name in (
        "conv2d",
        "group_norm",
        "max_pool2d",
        "layer_norm",
        "scaled_dot_product_attention",
        "conv_transpose1d",
    ):
        assert name in names, name
    assert torch.allclose(graph(x), function(x), atol=1e-6)
    program = graph.gradient()
    leaf = x.clone().requires_grad_()
    seed = torch.randn(2, 2, 19)
    theirs = torch.autograd.grad(function(leaf), leaf, seed)[0]
    assert torch.allclose(program(x, seed=seed), theirs, atol=1e-5)


def test_code_outside_of_pytorch_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"(?s)numpy.*test_record.py"):
        ct.capture(lambda x: x * torch.from_numpy(x.detach().numpy()), torch.ones(2, 2), specialise=True)


def test_writes_into_fresh_memory_are_kept() -> None:
    def function(x: Tensor) -> Tensor:
        out = torch.zeros(2, 4) if x.sum() > -100 else torch.ones(2, 4)
        out[:, :2] = x * 3
        out[:, 2:].copy_(x * 2)
        return out

    x = torch.randn(2, 2)
    graph = ct.capture(function, x, specialise=True)
    assert torch.equal(graph(x), function(x))
    assert torch.equal(graph.gradient()(x), torch.full((2, 2), 5.0))


def test_checks_with_effects_leave_no_trace() -> None:
    def function(x: Tensor) -> Tensor:
        return torch.linalg.inv(x @ x.mT + torch.eye(3)) * (2 if x.sum() > 0 else 3)

    x = torch.randn(3, 3)
    graph = ct.capture(function, x, specialise=True)
    leaf = x.clone().requires_grad_()
    assert torch.allclose(graph.gradient()(x), torch.autograd.grad(function(leaf).sum(), leaf)[0], atol=1e-4)
