"""Every row of the table against autograd in float64: first and second derivatives, and the fallback beside it."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from cutaway.graph import TABLE
from cutaway.graph.graph import Graph
from cutaway.graph.nodes import Node, link
from cutaway.graph.record import record
from cutaway.graph.rows import Row, fallback_row
from tests.contracts.calls import Call, T
from tests.contracts.rows import ROWS
from tests.contracts.rows_elementwise import ACTIVATIONS, ELEMENTWISE
from tests.contracts.rows_network import RECURRENT

TOLERANCE, SINGLE = 1e-8, 1e-5
CASES = [
    pytest.param(name, call, id=f"{name}-{position}")
    for name, calls in ROWS.items()
    for position, call in enumerate(calls)
]


def operation(name: str, call: Call) -> Any:
    """The ATen operation a row's name stands for: with its overload, the call's, or the default one."""
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or call.overload or "default")


def materialise(call: Call) -> tuple[tuple, dict]:
    """The call's arguments with tensors in them."""
    generator = torch.Generator().manual_seed(sum(map(ord, repr(call))) % 1000)
    return pytree.tree_map(
        lambda leaf: leaf.make(generator) if isinstance(leaf, T) else leaf, (call.args, call.keywords)
    )


def differentiated(call: Call, args: Any) -> list[bool]:
    """For each tensor of the call whether it is differentiated."""
    specs = [leaf for leaf in pytree.tree_leaves((call.args, call.keywords)) if isinstance(leaf, T)]
    tensors = [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, torch.Tensor)]
    return [not spec.fixed and tensor.is_floating_point() for spec, tensor in zip(specs, tensors, strict=True)]


def graph_of(op: Any, args: Any) -> Graph:
    """A graph of one operation whose inputs are the tensors of its arguments."""
    leaves, spec = pytree.tree_flatten(args)
    inputs: list[Node] = []

    def leaf_node(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        name = f"x{len(inputs)}"
        inputs.append(Node(name, "input", shape=tuple(leaf.shape), dtype=leaf.dtype, identifier=name))
        return inputs[-1]

    node_args, node_kwargs = pytree.tree_unflatten([leaf_node(leaf) for leaf in leaves], spec)
    with torch.no_grad():
        value = op(*args[0], **args[1])
    node = Node("y", "operation", op, node_args, node_kwargs, identifier="y")
    nodes = [*inputs, node]
    if isinstance(value, torch.Tensor):
        node.shape, node.dtype = tuple(value.shape), value.dtype
    else:
        node.parts = tuple((tuple(v.shape), v.dtype) if isinstance(v, torch.Tensor) else (None, None) for v in value)
        for position, (shape, dtype) in enumerate(node.parts):
            name = f"y{position}"
            nodes.append(Node(name, "operation", getitem, (node, position), shape=shape, dtype=dtype, identifier=name))
    link(nodes)
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    graph = Graph(nn.Module(), nodes, [], pytree.tree_flatten((tuple(tensors), {}))[1], None)
    graph.input_slots = list(inputs)
    return graph


getitem = __import__("operator").getitem


def tensors_of(args: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, torch.Tensor)]


def written_out_attention(q: Any, k: Any, v: Any, mask: Any = None, *rest: Any, **keywords: Any) -> torch.Tensor:
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=q.dtype).masked_fill(~mask, -torch.inf)
    return torch.ops.aten._scaled_dot_product_attention_math(q, k, v, mask, *rest, **keywords)[0]


def written_out_weight_norm(v: torch.Tensor, g: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    norm = v.square().sum([axis for axis in range(v.ndim) if axis != dim], keepdim=True).sqrt()
    return v * (g / norm), norm


# operations whose kernels have no second derivative, as others that have
REFERENCE = {
    torch.ops.aten.scaled_dot_product_attention.default: written_out_attention,
    torch.ops.aten._cdist_forward.default: lambda x1, x2, p, mode: torch.linalg.vector_norm(
        x1[..., :, None, :] - x2[..., None, :, :], p, -1
    ),
    torch.ops.aten._weight_norm_interface.default: written_out_weight_norm,
    torch.ops.aten.copy.default: lambda old, new: 0 * old + new,
    torch.ops.aten.hardsigmoid.default: lambda x: torch.nn.functional.relu6(x + 3) / 6,
}


def by_autograd(op: Any, args: Any, which: Sequence[bool]) -> tuple[Callable, list[torch.Tensor]]:
    """The operation as a function of the differentiated tensors, with which gradients can be asked for."""
    leaves, spec = pytree.tree_flatten(args)
    tensors = [t.detach().requires_grad_(d) for t, d in zip(tensors_of(args), which, strict=True)]
    remaining = iter(tensors)
    replaced = [next(remaining) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    positional, keywords = pytree.tree_unflatten(replaced, spec)
    op = REFERENCE.get(op, op)
    return lambda: op(*positional, **keywords), [t for t, d in zip(tensors, which, strict=True) if d]


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = TOLERANCE) -> bool:
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return False
    tolerance = tolerance if ours.dtype == torch.float64 else SINGLE
    return torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def setting(name: str, call: Call) -> tuple:
    """Operation, arguments, which tensors are differentiated, graph, the outputs that have gradients, and seeds."""
    op, args = operation(name, call), materialise(call)
    which = differentiated(call, args)
    graph = graph_of(op, args)
    function, leaves = by_autograd(op, args, which)
    torch.manual_seed(3)
    value = function().detach() if call.constant else function()
    outputs = [value] if isinstance(value, torch.Tensor) else list(value)
    wanted = [
        p for p, v in enumerate(outputs) if isinstance(v, torch.Tensor) and v.is_floating_point() and v.requires_grad
    ]
    wanted = wanted[: call.outputs] if call.outputs else wanted
    of = ["y"] if isinstance(value, torch.Tensor) else [f"y{p}" for p in wanted]
    wrt = [node.name for node, d in zip(graph.inputs, which, strict=True) if d]
    generator = torch.Generator().manual_seed(5)
    seeds = [
        torch.randn(outputs[p].shape, generator=generator, dtype=torch.float64).to(outputs[p].dtype) for p in wanted
    ]
    return op, args, which, graph, [outputs[p] for p in wanted], of, wrt, leaves, seeds


@pytest.mark.parametrize(("name", "call"), CASES)
def test_first_derivatives(name: str, call: Call) -> None:
    _, args, _, graph, outputs, of, wrt, leaves, seeds = setting(name, call)
    if not outputs:  # a constant: the row says that every derivative is zero
        program = graph.gradient(of=graph["y"], wrt=wrt) if graph["y"].differentiable else None
        assert program is None or all(not a.any() for a in program(*tensors_of(args)))
        return
    theirs = torch.autograd.grad(outputs, leaves, seeds, allow_unused=True, materialize_grads=True)
    program = graph.gradient(of=of, wrt=wrt)
    torch.manual_seed(3)
    values, adjoints = program.evaluate(*tensors_of(args), seed=seeds)
    assert "fallback" not in program.origins.values(), "served by the table"
    if not call.random:
        for ours, expected in zip(values.values(), outputs, strict=True):
            assert close(ours, expected.detach()), "the row's own forward changes the value"
    elif name != "native_dropout":
        return  # another draw: compared in tests of their own
    for key, expected in zip(wrt, theirs, strict=True):
        assert close(adjoints[key], expected), (key, adjoints[key], expected)


@pytest.mark.parametrize(("name", "call"), [case for case in CASES if not case.values[1].random])
def test_the_fallback_agrees(name: str, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    _, args, _, graph, outputs, of, wrt, leaves, seeds = setting(name, call)
    if not outputs or name in ONLY_BY_ROW:
        return
    theirs = torch.autograd.grad(outputs, leaves, seeds, allow_unused=True, materialize_grads=True)
    monkeypatch.setattr("cutaway.graph.rows.default_row", lambda node: None)
    program = graph.gradient(of=of, wrt=wrt)
    adjoints = program.evaluate(*tensors_of(args), seed=seeds)[1]
    assert set(program.origins.values()) <= {"fallback"}
    for key, expected in zip(wrt, theirs, strict=True):
        assert close(adjoints[key], expected), key


ONLY_BY_ROW = {"copy"}  # torch.func.vjp cannot differentiate it


class Adjoints(nn.Module):
    """The program of a graph as a function of its inputs and seeds: what the second derivative is taken of."""

    def __init__(self, program: Any, inputs: int) -> None:
        super().__init__()
        self.program, self.count = program, inputs

    def forward(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """Inputs, then seeds, to adjoints."""
        return list(self.program.differentiable(*tensors[: self.count], seed=list(tensors[self.count :]))[1].values())


def second_graph(name: str, call: Call) -> tuple[Graph, Any, list[torch.Tensor]]:
    """The recorded graph of a row's adjoints, and what it was recorded with."""
    _, args, which, graph, _, of, wrt, _, seeds = setting(name, call)
    tensors = tensors_of(args)
    model = Adjoints(graph.gradient(of=of, wrt=wrt), len(tensors))
    names = [*(f"x{i}" for i in range(len(tensors))), *(f"s{i}" for i in range(len(seeds)))]
    return record(model, (*tensors, *seeds), {}, names), which, [*tensors, *seeds]


def second_cases() -> list:
    """Two calls of each elementwise operation, one of each recurrent network, all calls of the others."""
    found = []
    for name, calls in ROWS.items():
        kept = 2 if name in ELEMENTWISE or name in ACTIVATIONS else 1 if name in RECURRENT else len(calls)
        for position, each in enumerate(calls):
            if each.second and not each.random:
                marks = [] if position < kept else [pytest.mark.slow]
                found.append(pytest.param(name, each, id=f"{name}-{position}", marks=marks))
    return found


SECOND = second_cases()


@pytest.mark.parametrize(("name", "call"), SECOND)
def test_second_derivatives(name: str, call: Call) -> None:
    _, _, _, _, outputs, _, _, leaves, seeds = setting(name, call)
    if not outputs:
        return
    seeds = [seed.requires_grad_() for seed in seeds]
    first = torch.autograd.grad(outputs, leaves, seeds, create_graph=True, allow_unused=True, materialize_grads=True)
    generator = torch.Generator().manual_seed(7)
    again = [torch.randn(g.shape, generator=generator, dtype=torch.float64).to(g.dtype) for g in first]
    live = [(g, v) for g, v in zip(first, again, strict=True) if g.requires_grad]
    theirs = torch.autograd.grad(
        [g for g, _ in live], [*leaves, *seeds], [v for _, v in live], allow_unused=True, materialize_grads=True
    ) if live else [torch.zeros_like(t) for t in [*leaves, *seeds]]  # fmt: skip

    twice, which, given = second_graph(name, call)
    wanted = [f"x{i}" for i, d in enumerate(which) if d] + [f"s{i}" for i in range(len(seeds))]
    outs = [(slot, v) for slot, v in zip(twice.output_values, again, strict=True) if isinstance(slot, Node)]
    program = twice.gradient(of=[slot for slot, _ in outs], wrt=wanted)
    ours = program.evaluate(*given, seed=[v for _, v in outs])[1]
    if call.served:
        fallen = [twice[n].op_name for n, origin in program.origins.items() if origin == "fallback"]
        assert fallen == [], "served by the table"
    tolerance = SINGLE if any(t.dtype == torch.float32 for t in [*leaves, *seeds]) else TOLERANCE
    for key, expected in zip(wanted, theirs, strict=True):
        assert close(ours[key], expected, tolerance), (key, ours[key], expected)


def test_every_row_has_calls() -> None:
    assert {f"aten.{name}" for name in ROWS} == {name for name in TABLE if name.startswith("aten.")}


# rows of backward kernels without calls of their own → the operation whose second derivative they serve
REACHED = {name: re.sub(r"_backward$", "", name) for name, calls in ROWS.items() if not calls}
REACHED |= {"native_layer_norm_backward": "layer_norm", "native_group_norm_backward": "group_norm"}
REACHED |= {"native_batch_norm_backward": "native_batch_norm", "max_pool2d_with_indices_backward": "max_pool2d"}


@pytest.mark.parametrize("name", REACHED)
def test_rows_of_backward_kernels_serve_second_derivatives(name: str) -> None:
    operation_name = REACHED[name] if REACHED[name] in ROWS else f"{REACHED[name]}.default"
    twice, _, _ = second_graph(operation_name, ROWS[operation_name][0])
    program = twice.gradient(of=twice.outputs, wrt=[node for node in twice.inputs if node.differentiable])
    served = {twice[n].op_name for n, origin in program.origins.items() if origin == "rule"}
    assert name.lstrip("_") in served


def test_a_row_is_a_plain_function_of_what_it_names() -> None:
    for name, row in TABLE.items():
        assert isinstance(row, Row) and row.adjoints, name


def test_the_fallback_runs_random_operations_once() -> None:
    node = Node(
        "y", "operation", torch.ops.aten.native_dropout.default, (Node("x", "input"), 0.5, True), parts=(None, None)
    )
    row = fallback_row(node, ("input",))
    (value, mask), pullback = row.forward(torch.ones(100), 0.5, True)
    (adjoint,) = pullback((torch.ones(100), None))
    assert torch.equal(adjoint, value) and torch.equal(mask, value > 0)
