"""Capture: right values, readable names, live parameters, an untouched model, and errors that help."""

import copy
import gc
import time
import weakref

import pytest
import torch
from torch import nn

import cutaway as ct
from cutaway.errors import ArgumentError, CaptureError
from tests.graph.subjects import images, reused


def test_the_graph_computes_what_the_model_computes() -> None:
    model, x = reused().eval(), images()
    assert torch.equal(ct.capture(model, x)(x), model(x))


def test_names_say_where_a_node_stands() -> None:
    graph = ct.capture(reused().eval(), images())
    names = [node.name for node in graph.nodes if node.kind == "operation"]
    assert names[:5] == ["block.conv", "block.norm", "block.relu", "block.add", "block.relu@1"]
    assert names[5:10] == ["block.conv@1", "block.norm@1", "block.relu@2", "block@1.add", "block.relu@3"]
    assert len(set(names)) == len(names)
    assert graph["block"].name == "block.relu@1" and graph["block@1"].name == "block.relu@3"
    assert graph["stem"].name == "stem.1"
    assert graph["output"] is graph["head"]
    assert graph["head"].module_class == "Linear" and graph["gelu"].source.endswith(
        "return self.head(F.gelu(self.norm(x)))"
    )
    assert graph["block.conv"].shape == ("N", 3, 9, 9) and graph["block.conv"].dtype == torch.float64


def test_the_nodes_of_a_function_name_its_lines() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        y = x.sin()
        return y * 2

    graph = ct.capture(function, torch.ones(3))
    assert graph["sin"].source.endswith("y = x.sin()") and graph["mul"].source.endswith("return y * 2")


def test_tied_parameters_are_one_node_with_the_sum_of_both_adjoints() -> None:
    layer = nn.Linear(3, 3).double()
    model, x = nn.Sequential(layer, nn.Tanh(), layer), torch.randn(2, 3, dtype=torch.float64)
    graph = ct.capture(model, x)
    assert graph["2.weight"] is graph["0.weight"] and len(graph.parameters) == 2
    theirs = torch.autograd.grad(model(x).sum(), layer.weight)[0]
    assert torch.allclose(graph.gradient(wrt="2.weight")(x), theirs, rtol=1e-12)


def test_a_module_called_output_does_not_hide_the_output() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.output = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.output(x).tanh()

    model, x = Odd(), torch.randn(2, 3)
    graph = ct.capture(model, x)
    assert graph["output"].name == "tanh"
    assert torch.equal(graph.gradient().evaluate(x)[0]["output"], model(x))


def test_an_unknown_name_lists_the_nearest() -> None:
    graph = ct.capture(reused().eval(), images())
    with pytest.raises(LookupError, match=r"unknown node 'block.con'; nearest: 'block.conv'"):
        graph["block.con"]


def test_the_batch_size_is_free() -> None:
    model = reused().eval()
    graph = ct.capture(model, images(1))
    assert graph.dynamic
    for batch in (1, 2, 5):
        x = images(batch)
        assert torch.allclose(graph(x), model(x), rtol=1e-12)
        assert graph.gradient()(x).shape == x.shape


def test_a_wrong_input_is_named() -> None:
    graph = ct.capture(reused().eval(), images())
    with pytest.raises(ArgumentError, match=r"input 'x' has shape \(2, 3, 8, 8\).*\(N, 3, 9, 9\)"):
        graph(images(2, 8))
    with pytest.raises(ArgumentError, match="at least one tensor"):
        ct.capture(nn.ReLU())
    with pytest.raises(ArgumentError, match="'relu'"):
        ct.capture("relu", torch.ones(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("train", [False, True, None])
def test_the_model_is_left_as_it_was(train: bool | None) -> None:
    model, x = reused(), images()
    model.block.eval()  # mixed modes
    model.head.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    modes = [part.training for part in model.modules()]
    state = torch.random.get_rng_state()
    graph = ct.capture(model, x, train=train)
    graph.run(x).backward("output")
    graph.gradient(wrt=[node.name for node in graph.parameters])(x)
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not model.head.weight.requires_grad and all(p.grad is None for p in model.parameters())


def test_the_graph_follows_the_parameters() -> None:
    model, x = nn.Linear(3, 2), torch.randn(4, 3)
    graph = ct.capture(model, x)
    with torch.no_grad():
        model.weight.mul_(2)
    assert torch.equal(graph(x), model(x))
    model.weight = nn.Parameter(torch.zeros(2, 3))
    assert torch.equal(graph(x), model(x))


def test_training_mode_has_batch_statistics_and_their_updates() -> None:
    model, x = reused().train(), images()
    graph = ct.capture(model, x, train=True)
    trace = graph.run(x)
    twin = copy.deepcopy(model)
    assert torch.allclose(trace["output"].value, twin(x), rtol=1e-12)  # twin's buffers change as it runs
    assert set(graph.updates) == {
        f"block.norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
    }
    for target, node in graph.updates.items():
        assert torch.allclose(trace[node].value, twin.get_buffer(target), rtol=1e-12), target


def test_dropout_runs_once_and_its_mask_is_shared_by_forward_and_backward() -> None:
    model, x = nn.Sequential(nn.Dropout(0.5), nn.Flatten()), torch.ones(50, 40)
    graph = ct.capture(model, x, train=True)
    values, adjoints = graph.gradient(wrt="x").evaluate(x)
    assert 0.4 < (values["output"] == 0).float().mean() < 0.6
    assert torch.equal(values["output"], adjoints["x"])  # x = 1: the output is the mask over the keep probability


def test_nested_keyword_and_integer_inputs_and_several_outputs() -> None:
    table = nn.Embedding(7, 3)

    def function(pair: tuple, *, scale: torch.Tensor, shift: float = 0.0) -> dict:
        ids, x = pair
        return {"sum": table(ids) * scale + x, "parts": [x + shift, 3]}

    ids, x, scale = torch.tensor([[1, 2], [3, 4]]), torch.randn(2, 2, 3), torch.tensor(2.0)
    graph = ct.capture(function, (ids, x), scale=scale, shift=1.5)
    ours, theirs = graph((ids, x), scale=scale, shift=1.5), function((ids, x), scale=scale, shift=1.5)
    assert torch.equal(ours["sum"], theirs["sum"]) and torch.equal(ours["parts"][0], theirs["parts"][0])
    assert ours["parts"][1] == 3
    assert [node.name for node in graph.inputs] == ["pair_0", "pair_1", "scale"]
    assert graph.gradient(wrt="table.weight")((ids, x), scale=scale, shift=1.5).sum() == 2.0 * 12
    with pytest.raises(ArgumentError, match=r"captured with the argument 1.5, but got 2.5"):
        graph((ids, x), scale=scale, shift=2.5)


def test_a_second_capture_is_the_first_one() -> None:
    model, x = reused().eval(), images()
    first = ct.capture(model, x)
    begin = time.perf_counter()
    second = ct.capture(model, x)
    assert time.perf_counter() - begin < 0.1
    assert second.nodes is first.nodes
    model.block.relu = nn.Tanh()  # type: ignore[assignment]
    assert ct.capture(model, x).nodes is not first.nodes, "a changed model is captured anew"
    assert torch.equal(ct.capture(model, x)(x), model(x))


def test_the_cache_keeps_no_model_alive() -> None:
    model = nn.Linear(3, 2)
    watch = weakref.ref(model)
    ct.capture(model, torch.ones(2, 3))
    del model
    gc.collect()
    assert watch() is None


def test_a_model_that_cannot_be_captured_says_why_and_where() -> None:
    class Foreign(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(x.numpy() * 2)  # leaves PyTorch

    with pytest.raises(CaptureError, match=r"(?s)Foreign cannot be captured.*test_capture.py"):
        ct.capture(Foreign(), torch.ones(2, 3))


def test_dropout_may_be_the_last_operation() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)).eval()
    x = torch.randn(2, 3)
    assert torch.equal(ct.capture(model, x)(x), model(x))
    both = ct.capture(lambda x: (nn.functional.dropout(x * 2, 0.5, training=False), x), x)(x)
    assert torch.equal(both[0], x * 2) and torch.equal(both[1], x)


def test_a_function_is_captured_once_too() -> None:
    layer, x = nn.Linear(3, 2), torch.randn(2, 3)

    def function(x: torch.Tensor) -> torch.Tensor:
        return layer(x).sum()

    first, second = ct.capture(function, x), ct.capture(function, x)
    assert first.nodes is second.nodes
