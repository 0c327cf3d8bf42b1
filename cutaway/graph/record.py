"""Record one run: for models whose path depends on the values they see, which cannot be captured for all inputs.

The model runs once on the given inputs; what it computed becomes the graph. Every branch is taken as in that run, every
number read out of a tensor is a constant. Such a graph says so: `graph.specialised`.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._subclasses.functional_tensor import FunctionalTensorMode, dispatch_functionalize
from torch.export.graph_signature import (
    ConstantArgument,
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx import traceback as fx_traceback
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from cutaway.errors import CaptureError
from cutaway.graph.convert import read
from cutaway.graph.convert import source as source_of
from cutaway.graph.graph import Graph
from cutaway.graph.raising import raise_operations

aten = torch.ops.aten
_NO_GRAD = "cutaway_no_grad"


class _Place(TorchFunctionMode):
    """Notes for every operation where it stands: the calls of modules around it, and whether gradients were off."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.paths = {part: path for path, part in module.named_modules()}
        self.stack: dict[str, tuple[str, str]] = {}
        self.calls: dict[str, int] = {}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        fx_traceback.current_meta["nn_module_stack"] = dict(self.stack)
        fx_traceback.current_meta["custom"] = {_NO_GRAD: not torch.is_grad_enabled()}
        if function is nn.functional.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    @contextlib.contextmanager
    def inside(self, part: nn.Module) -> Iterator[None]:
        """While a module runs, its name is on the stack."""
        path = self.paths.get(part)
        if path is None:
            yield
            return
        again = self.calls.get(path, 0)
        self.calls[path] = again + 1
        key = f"{path or '_root'}@{again}" if again else path or "_root"
        self.stack[key] = (path, type(part).__name__)
        try:
            yield
        finally:
            self.stack.pop(key, None)


def _batch_norm(x, mean, var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    """Batch norm that says in its schema which statistics it updates."""
    if not training or mean is None:
        return torch.batch_norm(x, weight, bias, mean, var, training, momentum, eps, False)
    return aten._native_batch_norm_legit.default(x, weight, bias, mean, var, True, momentum, eps)[0]


def record(module: nn.Module, inputs: tuple, keywords: Mapping[str, Any], names: Sequence[str]) -> Graph:
    """Run a module once and make the graph of what it computed, for these inputs only.

    Args:
        module: what runs, in the mode it is in; it is left as it was.
        inputs, keywords: its arguments.
        names: what to call the flat inputs.
    """
    leaves, spec = pytree.tree_flatten((inputs, dict(keywords)))
    places = [position for position, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    stored = {**{name: parameter.detach() for name, parameter in module.named_parameters()}, **buffers}
    where = _Place(module)
    result: dict[str, Any] = {}

    def run(stored_values: list[torch.Tensor], given: list[torch.Tensor]) -> list[torch.Tensor]:
        flat = list(leaves)
        for position, tensor in zip(places, given, strict=True):
            flat[position] = tensor
        args, kwargs = pytree.tree_unflatten(flat, spec)
        with _swapped(module, dict(zip(stored, stored_values, strict=True))) as current, _watched(where):
            result["out"], result["spec"] = pytree.tree_flatten(module(*args, **kwargs))
            return [t for t in result["out"] if isinstance(t, torch.Tensor)] + [current(name) for name in buffers]

    with _plain_kernels(), torch.enable_grad(), fx_traceback.preserve_node_meta():
        traced = make_fx(
            dispatch_functionalize(run, FunctionalTensorMode(_allow_token_discovery=True)),
            record_stack_traces=True,
            _error_on_data_dependent_ops=False,
        )(list(stored.values()), [leaves[position].detach() for position in places])
    _drop_effects(traced.graph)
    _keep_arguments(traced.graph)
    _refuse_mutation(traced.graph)
    _stop_no_grad(traced.graph)
    raise_operations(traced.graph)
    program = _as_exported(traced, list(stored), list(buffers), leaves, places, result)
    graph = read(module, program, (inputs, dict(keywords)), names)
    graph.specialised = True
    return graph


@contextlib.contextmanager
def _plain_kernels() -> Iterator[None]:
    """Without oneDNN, whose recurrent kernels have no derivative of their own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.backends.mkldnn.flags(enabled=False):
            yield


@contextlib.contextmanager
def _swapped(module: nn.Module, values: Mapping[str, torch.Tensor]) -> Iterator[Any]:
    """Run a module with other tensors in the place of its own; yields how to look one up."""
    kept = []
    for name, value in values.items():
        path, _, leaf = name.rpartition(".")
        part = module.get_submodule(path) if path else module
        store: dict[str, Any] = part._parameters if leaf in part._parameters else part._buffers  # type: ignore
        kept.append((store, leaf, store[leaf]))
        store[leaf] = value
    recurrent = [(part, part._flat_weights) for part in module.modules() if isinstance(part, nn.RNNBase)]
    for part, _ in recurrent:
        part._flat_weights = [part._parameters.get(name) for name in part._flat_weights_names]

    def current(name: str) -> torch.Tensor:
        path, _, leaf = name.rpartition(".")
        return getattr(module.get_submodule(path) if path else module, leaf)

    try:
        yield current
    finally:
        for store, leaf, value in reversed(kept):
            store[leaf] = value
        for part, weights in recurrent:
            part._flat_weights = weights


@contextlib.contextmanager
def _watched(where: _Place) -> Iterator[None]:
    """Keep track of which module runs."""
    plain = nn.Module.__call__

    def call(part: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with where.inside(part):
            return plain(part, *args, **kwargs)

    with mock.patch.object(nn.Module, "__call__", call), where:
        yield


def _drop_effects(graph: torch.fx.Graph) -> None:
    """Checks that the run passed, and the tokens that keep them in order."""
    for node in list(graph.nodes):
        if node.target is torch.ops.higher_order.with_effects:
            for part in list(node.users):
                part.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
                graph.erase_node(part)
    for node in reversed(list(graph.nodes)):
        token = node.op == "placeholder" and node.name.startswith("tangents_token")
        if not node.users and (token or node.target is torch.ops.higher_order.with_effects):
            graph.erase_node(node)


def _keep_arguments(graph: torch.fx.Graph) -> None:
    """What the run wrote into its arguments is left out: the values are returned instead."""
    for node in reversed(list(graph.nodes)):
        if node.target is aten.copy_.default and node.args[0].op == "placeholder" and not node.users:
            graph.erase_node(node)


def _refuse_mutation(graph: torch.fx.Graph) -> None:
    """A write that recording could not turn into a value would be lost."""
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            raise CaptureError(f"{node.target} writes into memory that recording does not see: {source_of(node)}")


def _stop_no_grad(graph: torch.fx.Graph) -> None:
    """Values computed while gradients were off are constants to what was computed while they were on."""
    for node in list(graph.nodes):
        if node.op == "call_function" and _without_grad(node):
            readers = [user for user in node.users if user.op == "output" or not _without_grad(user)]
            if readers and isinstance(node.meta.get("val"), torch.Tensor):
                with graph.inserting_after(node):
                    cut = graph.call_function(aten.detach.default, (node,))
                cut.meta = dict(node.meta)
                for reader in readers:
                    reader.replace_input_with(node, cut)


def _without_grad(node: torch.fx.Node) -> bool:
    return node.meta.get("custom", {}).get(_NO_GRAD, False)


def _as_exported(
    traced: Any, stored: list[str], buffers: list[str], leaves: list, places: list[int], result: dict[str, Any]
) -> Any:
    """The recorded graph with the signature an exported program has."""
    nodes = list(traced.graph.nodes)
    placeholders = [node for node in nodes if node.op == "placeholder"]
    inputs = []
    for node, name in zip(placeholders, stored, strict=False):
        kind = InputKind.BUFFER if name in buffers else InputKind.PARAMETER
        inputs.append(InputSpec(kind, TensorArgument(node.name), name, persistent=True))
    given = iter(placeholders[len(stored) :])
    for position, leaf in enumerate(leaves):
        if position in places:
            inputs.append(InputSpec(InputKind.USER_INPUT, TensorArgument(next(given).name), None))
        else:
            inputs.append(InputSpec(InputKind.USER_INPUT, ConstantArgument(f"argument_{position}", leaf), None))
    returned = iter(next(node for node in nodes if node.op == "output").args[0])
    outputs = []
    for position, leaf in enumerate(result["out"]):
        if isinstance(leaf, torch.Tensor):
            outputs.append(OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(next(returned).name), None))
        else:
            outputs.append(OutputSpec(OutputKind.USER_OUTPUT, ConstantArgument(f"result_{position}", leaf), None))
    for name, value in zip(buffers, returned, strict=True):
        if value.op != "placeholder":
            outputs.append(OutputSpec(OutputKind.BUFFER_MUTATION, TensorArgument(value.name), name))
    return SimpleNamespace(
        graph_module=traced,
        graph_signature=ExportGraphSignature(inputs, outputs),
        constants={},
        call_spec=SimpleNamespace(out_spec=result["spec"]),
    )
