"""Functions with a backward pass of their own (`torch.autograd.Function`) in captured graphs.

Where that backward pass is the derivative of the forward pass (a memory-saving swish), the forward pass is traced
through. Where it is not (a straight-through estimator, a gradient reversal), the call becomes one node, named like the
class, whose row runs the class's own backward.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from cutaway.graph.rows import TABLE, Row

NAMESPACE = "functions"
_apply: Callable = torch.autograd.Function.apply.__func__  # type: ignore[attr-defined]
_known: dict[
    Any, Callable | None
] = {}  # (class, plain arguments) → how to call it as an operation; None: trace through


@contextlib.contextmanager
def custom_functions() -> Iterator[None]:
    """Make nodes of functions whose backward pass is not the derivative of their forward pass."""

    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        if kwargs or cls.__module__.startswith("torch.") or not any(isinstance(a, Tensor) for a in args):
            return _apply(cls, *args, **kwargs)
        key = (cls, *("tensor" if isinstance(argument, Tensor) else repr(argument) for argument in args))
        if key not in _known:
            _known[key] = None if _is_derivative(cls, args) else _as_operation(cls, args)
        operation = _known[key]
        return _plain(cls)(*args) if operation is None else operation(*args)

    with mock.patch.object(torch.autograd.Function, "apply", classmethod(apply)):
        yield


def _is_derivative(cls: Any, args: Sequence[Any]) -> bool:
    """Whether a function's backward agrees with the derivative of its forward, on random numbers of the same shapes."""
    with _disable_current_modes(), torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        given = [_random(argument) for argument in args]
        leaves = [g for g in given if isinstance(g, Tensor) and g.requires_grad]
        if not leaves:
            return True
        try:
            found = [_derivative(lambda *a: _apply(cls, *a), given, leaves), _derivative(_plain(cls), given, leaves)]
        except Exception:  # it does not take random numbers: leave its backward pass to itself
            return False
    return all(torch.allclose(a, b, rtol=1e-6, atol=1e-8) for a, b in zip(*found, strict=True))


def _random(argument: Any) -> Any:
    if not isinstance(argument, Tensor):
        return argument
    sizes = [int(size) if isinstance(size, int) else 3 for size in argument.shape]
    if not argument.is_floating_point():
        return torch.zeros(sizes, dtype=argument.dtype)
    return torch.randn(sizes, dtype=torch.float64).requires_grad_()


def _derivative(function: Callable, given: list, leaves: list[Tensor]) -> list[Tensor]:
    outputs = [out for out in pytree.tree_leaves(function(*given)) if isinstance(out, Tensor)]
    outputs = [out for out in outputs if out.requires_grad]
    torch.manual_seed(1)
    seeds = [torch.randn_like(out) for out in outputs]
    return list(torch.autograd.grad(outputs, leaves, seeds, allow_unused=True, materialize_grads=True))


class _Context:
    """Stands in for autograd's context while a forward pass is run for itself."""

    def __init__(self, count: int) -> None:
        self.needs_input_grad = (True,) * count
        self.saved_tensors: tuple = ()

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep tensors."""
        self.saved_tensors = tensors

    def _nothing(self, *_: Any, **__: Any) -> None:
        """A note for autograd that means nothing here."""

    mark_dirty = mark_non_differentiable = set_materialize_grads = save_for_forward = _nothing


def _plain(cls: Any) -> Callable:
    """The forward pass alone, as autograd sees it."""
    if cls.setup_context is not torch.autograd.Function.setup_context:
        return cls.forward
    return lambda *args: cls.forward(_Context(len(args)), *args)


def _as_operation(cls: Any, args: Sequence[Any]) -> Callable:
    """Define an operation that runs the class's forward, and the row that runs its backward."""
    places = [position for position, argument in enumerate(args) if isinstance(argument, Tensor)]
    taken = sum(key[0].__name__ == cls.__name__ for key, value in _known.items() if value is not None)
    name = cls.__name__.lstrip("_") + (f"_{taken}" if taken else "")
    shape: dict[str, Any] = {}

    def call(tensors: Sequence[Tensor]) -> list[Tensor]:
        filled = list(args)
        for position, tensor in zip(places, tensors, strict=True):
            filled[position] = tensor
        flat, shape["spec"] = pytree.tree_flatten(_apply(cls, *filled))
        return flat

    def forward(tensors: list[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return [out.clone() for out in call(tensors)]

    operation = torch.library.custom_op(
        f"{NAMESPACE}::{name}", forward, mutates_args=(), schema="(Tensor[] tensors) -> Tensor[]"
    )
    operation.register_fake(forward)

    def with_pullback(tensors: list[Tensor]) -> tuple:
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_(t.is_floating_point()) for t in tensors]
            outputs = call(leaves)

        def pullback(grad: Sequence[Tensor | None]) -> list[Tensor | None]:
            live = [(out, g) for out, g in zip(outputs, grad, strict=True) if g is not None and out.requires_grad]
            wanted = [leaf for leaf in leaves if leaf.requires_grad]
            found = iter(
                torch.autograd.grad(
                    [out for out, _ in live], wanted, [g for _, g in live],
                    retain_graph=True, allow_unused=True, materialize_grads=True,
                )
            )  # fmt: skip
            return [next(found) if leaf.requires_grad else None for leaf in leaves]

        return [out.detach() for out in outputs], pullback

    TABLE[f"{NAMESPACE}.{name}"] = Row({"tensors": lambda grad, pullback: pullback(grad)}, with_pullback, ("pullback",))

    def run(*given: Any) -> Any:
        found = operation([given[position] for position in places])
        return pytree.tree_unflatten(list(found), shape["spec"])

    return run
