"""Capture: from a module or function to its computation graph, by `torch.export`."""

import contextlib
import copy
import functools
import inspect
import io
import logging
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.fx import proxy
from torch.utils import _pytree as pytree

from cutaway.errors import ArgumentError, CaptureError
from cutaway.graph.convert import convert
from cutaway.graph.custom import custom_functions
from cutaway.graph.graph import Graph
from cutaway.graph.record import record

_cache: "weakref.WeakKeyDictionary[Any, dict[Any, Graph]]" = weakref.WeakKeyDictionary()


class FunctionModule(nn.Module):
    """A function as a module; modules it closes over become submodules, so that their parameters have names."""

    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.function = function
        for name, value in _closed_over(function):
            if isinstance(value, nn.Module) and value is not function:
                self.add_module(name, value)

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        """Call the function."""
        return self.function(*inputs, **keywords)


def _closed_over(function: Callable) -> Iterator[tuple[str, Any]]:
    """The objects a function reads besides its arguments, with names."""
    if isinstance(function, functools.partial):
        for position, value in enumerate(function.args):
            yield f"argument{position}", value
        yield from function.keywords.items()
        yield from _closed_over(function.func)
        return
    if (owner := getattr(function, "__self__", None)) is not None:
        yield "self", owner
    plain = inspect.unwrap(getattr(function, "__func__", function))
    code = getattr(plain, "__code__", None)
    if code is None:
        yield from (getattr(function, "__dict__", None) or {}).items()
        return
    for name, cell in zip(code.co_freevars, plain.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # a cell that is still empty
            yield name, cell.cell_contents
    for name in code.co_names:
        if name in plain.__globals__:
            yield name, plain.__globals__[name]


BASE = frozenset(nn.Module().__dict__) - {"training"}  # what every module has and no computation depends on
PLAIN = frozenset((bool, int, float, str))  # settings of modules that are compared as they are


def capture(
    model: nn.Module | Callable,
    *inputs: Any,
    train: bool | None = False,
    dynamic: bool = True,
    specialise: bool = False,
    **keywords: Any,
) -> Graph:
    """Capture the computation graph of a module or function.

    Args:
        model: any `nn.Module`, or a function of tensors (the modules it closes over are found by themselves).
        inputs, keywords: example arguments: tensors, or nested lists, tuples and dicts of them.
        train: capture in evaluation mode (False), training mode (True) or each module's own mode (None). The model's
            modes are as before afterwards.
        dynamic: leave the batch size (dimension 0 of the inputs) free where the model allows it.
        specialise: where a model cannot be captured because it branches on the values it sees, record the run on these
            inputs instead. The graph then holds for them only (`graph.specialised`), and is not kept for a second call.

    Raises:
        CaptureError: the model cannot be captured; the message names the source line and the reason.

    The same module with the same kinds of input is captured once; the graph reads parameters live from the module.

    >>> import torch, cutaway as ct
    >>> graph = ct.capture(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()), torch.randn(2, 4))
    >>> graph["1"]
    <1: relu (N, 3)>
    """
    if not isinstance(model, nn.Module) and not callable(model):
        raise ArgumentError(f"capture takes an nn.Module or a function, but got {type(model).__name__}: {model!r}")
    if not any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves((inputs, keywords))):
        raise ArgumentError("capture needs example inputs: pass at least one tensor, shaped like the model's input")
    module = model if isinstance(model, nn.Module) else FunctionModule(model)
    key = _key(module, inputs, keywords, train, dynamic)
    entries = _entries(model)
    if key not in entries:
        try:
            made = _capture(module, inputs, keywords, train, dynamic)
        except CaptureError:
            if not specialise:
                raise
            return _record(module, inputs, keywords, train)
        made.module = None  # type: ignore[assignment]  # the cache must not keep the module alive
        entries[key] = made
    graph = copy.copy(entries[key])
    graph.module = module
    return graph


def _record(module: nn.Module, inputs: tuple, keywords: Mapping[str, Any], train: bool | None) -> Graph:
    with _undisturbed(module, train):
        try:
            graph = record(module, inputs, keywords, _input_names(module, inputs, keywords))
        except Exception as error:
            raise CaptureError(_explain(module, error)) from error
        _check_recorded(graph, module, inputs, keywords)
    return graph


def _check_recorded(graph: Graph, module: nn.Module, inputs: tuple, keywords: Mapping[str, Any]) -> None:
    """What was recorded gives what the model gives; code outside of PyTorch could have come between."""
    if any(torch.Tag.nondeterministic_seeded in getattr(node.op, "tags", ()) for node in graph.nodes):
        return  # another draw, another value
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, (inputs, dict(keywords)))
    with torch.no_grad():
        pairs = zip(
            *map(_tensors, (graph(*args, **kwargs), functional_call(module, buffers, args, kwargs))), strict=True
        )
        if not all(torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True) for a, b in pairs):
            raise CaptureError(
                f"{type(module).__name__} cannot be recorded: what was recorded gives other values than the model. "
                "Code outside of PyTorch (NumPy, C++) is the usual cause; capture the parts before and after it"
            )


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _entries(model: Any) -> dict[Any, Graph]:
    try:
        return _cache.setdefault(model, {})
    except TypeError:  # not weakly referable or not hashable: a capture of its own each time
        return {}


def _key(module: nn.Module, inputs: Any, keywords: Any, train: bool | None, dynamic: bool) -> Any:
    """What a capture depends on: input kinds, the module's structure and plain settings, modes, dtypes and devices."""
    leaves, spec = pytree.tree_flatten((inputs, keywords))
    kinds = tuple(
        (tuple(leaf.shape), leaf.dtype, leaf.device) if isinstance(leaf, torch.Tensor) else repr(leaf)
        for leaf in leaves
    )
    return str(spec), kinds, tuple(_structure(module)), train, dynamic


def _structure(module: nn.Module) -> Iterator[Any]:
    """A module's parts with their plain settings and modes, and the kinds of their parameters.

    It is walked before every capture, so it goes through the modules' own dicts, much faster than `named_parameters`.
    """
    seen: set[int] = set()
    stack = [("", module)]
    while stack:
        path, part = stack.pop()
        wrapped = isinstance(part, FunctionModule)  # made anew for each capture of a function
        yield path, None if wrapped else id(part)
        if id(part) in seen:
            continue
        seen.add(id(part))
        if not wrapped:
            for name, value in part.__dict__.items():
                if name in BASE:
                    continue
                if type(value) in PLAIN:
                    yield name, value
                elif isinstance(value, (int, float, str, tuple)):  # a union is four times as slow
                    yield name, repr(value)
        for name, parameter in part._parameters.items():
            if parameter is not None:
                yield name, parameter.dtype, parameter.device, parameter.shape
        stack.extend((f"{path}.{name}", each) for name, each in part._modules.items() if each is not None)


@contextlib.contextmanager
def _undisturbed(module: nn.Module, train: bool | None) -> Iterator[None]:
    """Set the mode for a moment; modes, buffers, flags and random state are as before afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    flat = [(part, list(part._flat_weights)) for part in module.modules() if isinstance(part, nn.RNNBase)]
    fast, quiet = torch.backends.mha.get_fastpath_enabled(), logging.root.manager.disable
    try:
        logging.disable(logging.CRITICAL)  # what goes wrong is said by the error alone
        torch.backends.mha.set_fastpath_enabled(False)  # one operation for a whole encoder layer has no derivative
        if train is not None:
            for part, _ in modes:
                part.training = train
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), custom_functions():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(quiet)
        torch.backends.mha.set_fastpath_enabled(fast)
        for part, mode in modes:
            part.training = mode
        for part, weights in flat:
            part._flat_weights = weights


def _capture(module: nn.Module, inputs: tuple, keywords: Mapping[str, Any], train: bool | None, dynamic: bool) -> Graph:
    with _undisturbed(module, train):
        batch = _batch(inputs, keywords) if dynamic else None
        if batch is not None:
            widened = pytree.tree_map_only(torch.Tensor, lambda t: _widen(t, batch), (inputs, dict(keywords)))
            with contextlib.suppress(Exception):  # said below, if the plain capture fails too
                graph = _convert(module, *widened, batch=max(batch, 2))
                if graph.dynamic or batch > 1:
                    return graph
        try:
            return _convert(module, inputs, dict(keywords), batch=None)
        except Exception as error:
            raise CaptureError(_explain(module, error)) from error


def _convert(module: nn.Module, inputs: tuple, keywords: dict, batch: int | None) -> Graph:
    exported = _export(module, inputs, keywords, batch)
    return convert(module, exported, (inputs, keywords), _input_names(module, inputs, keywords))


def _batch(inputs: Any, keywords: Any) -> int | None:
    """The batch size: dimension 0 of the first tensor with at least two dimensions."""
    for leaf in pytree.tree_leaves((inputs, keywords)):
        if isinstance(leaf, torch.Tensor) and leaf.ndim >= 2:
            return leaf.shape[0] or None
    return None


def _widen(tensor: torch.Tensor, batch: int) -> torch.Tensor:
    """A batch of one is traced as a batch of two: size 1 would be taken for a fixed size."""
    if batch == 1 and tensor.ndim and tensor.shape[0] == 1:
        return torch.cat([tensor, tensor])
    return tensor


def _export(module: nn.Module, inputs: tuple, keywords: dict, batch: int | None) -> Any:
    shapes = None
    if batch is not None:
        collection = torch.export.ShapesCollection()
        for leaf in pytree.tree_leaves((inputs, keywords)):
            if isinstance(leaf, torch.Tensor) and leaf.ndim and leaf.shape[0] == batch:
                collection[leaf] = {0: torch.export.Dim.AUTO}
        shapes = collection.dynamic_shapes(module, inputs, keywords)
    silent = contextlib.redirect_stderr(io.StringIO())  # export prints half a graph there when it fails
    with _source_lines_of(module), silent:
        return torch.export.export(module, inputs, keywords, dynamic_shapes=shapes, strict=False)


@contextlib.contextmanager
def _source_lines_of(module: nn.Module) -> Iterator[None]:
    """Let the nodes of a captured function name its lines: the tracer itself only looks for methods named `forward`."""
    function = inspect.unwrap(module.function) if isinstance(module, FunctionModule) else None
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    anchors = getattr(proxy, "_STACK_TRACE_ANCHORS", None)  # private: without it lines are only less precise
    anchor = (code.co_filename, code.co_name) if code is not None else None
    if anchor is None or not isinstance(anchors, set) or anchor in anchors:
        yield
        return
    anchors.add(anchor)
    try:
        yield
    finally:
        anchors.discard(anchor)


def _input_names(module: nn.Module, inputs: tuple, keywords: Mapping[str, Any]) -> list[str]:
    """Names for the flat inputs: the parameters of the function or of `forward`, numbered where they hold several."""
    try:
        signature = inspect.signature(module.function if isinstance(module, FunctionModule) else module.forward)
    except ValueError:  # a built-in function does not tell
        signature = inspect.Signature()
    parameters = list(signature.parameters.values())
    names = []
    for position, value in enumerate(inputs):
        parameter = parameters[min(position, len(parameters) - 1)] if parameters else None
        name = parameter.name if parameter else f"input_{position}"
        if parameter is not None and parameter.kind is parameter.VAR_POSITIONAL:
            name = f"{name}_{position - len(parameters) + 1}"
        names += _numbered(name, value)
    for key in keywords:
        names += _numbered(key, keywords[key])
    return names


def _numbered(name: str, value: Any) -> list[str]:
    count = len(pytree.tree_leaves(value))
    return [name] if count == 1 and isinstance(value, torch.Tensor) else [f"{name}_{i}" for i in range(count)]


def _explain(module: nn.Module, error: Exception) -> str:
    """Why a capture failed, where, and what to do."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    where = ""
    trace = error.__traceback__
    while trace is not None:
        filename = trace.tb_frame.f_code.co_filename
        if "/torch/" not in filename and "/cutaway/graph/" not in filename:
            where = f"{filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    reason = lines[0] if lines else type(error).__name__
    return (
        f"{type(module).__name__} cannot be captured: {reason}"
        + (f"\n  at {where}" if where else "")
        + "\n  A branch that depends on the values of a tensor, or code outside of PyTorch, is the usual cause. "
        "Capture with specialise=True to record the run on this input alone, capture the part before or after it as a "
        "function of its own, or replace the branch by torch.where."
    )
