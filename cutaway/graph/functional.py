"""One-line derivatives of functions and models."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from cutaway.graph.capture import capture
from cutaway.graph.nodes import Node
from cutaway.graph.rows import RuleSet


def grad(
    function: Callable | nn.Module,
    wrt: str | Sequence[str] | None = None,
    rules: RuleSet | None = None,
    of: str | Node = "output",
    train: bool | None = False,
) -> Callable:
    """Make the function that computes the gradient of another.

    Args:
        function: a model or a function of tensors.
        wrt: the input, parameter or node (or several) to differentiate with respect to; the first input by default.
        rules: backward rules laid over the table.
        of: the node that is differentiated; the output by default, summed if it is not a single number.
        train: see `capture`.

    >>> import torch, cutaway as ct
    >>> ct.grad(lambda x: (x**3).sum())(torch.tensor([1.0, 2.0]))
    tensor([ 3., 12.])
    >>> ct.grad(lambda a, b: a * b, wrt=["a", "b"])(torch.tensor(2.0), torch.tensor(5.0))
    (tensor(5.), tensor(2.))
    """

    def gradient(*inputs: Any, seed: Any = None, **keywords: Any) -> Any:
        graph = capture(function, *inputs, train=train, **keywords)
        return graph.gradient(of, wrt, rules)(*inputs, seed=seed, **keywords)

    return gradient


def jvp(function: Callable, wrt: str | Sequence[str] | None = None, of: str = "output") -> Callable:
    """Make the function that computes value and Jacobian–vector product of another, in forward mode.

    Args:
        function: a model or a function of tensors.
        wrt: the inputs, parameters or nodes that move; the first input by default.
        of: the node whose tangent is wanted.

    >>> import torch, cutaway as ct
    >>> ct.jvp(lambda x: x**2)(torch.tensor([3.0]), tangents=torch.tensor([1.0]))
    (tensor([9.]), tensor([6.]))
    """

    def tangent(*inputs: Any, tangents: Any, **keywords: Any) -> tuple[Tensor, Tensor]:
        graph = capture(function, *inputs, **keywords)
        return graph.jvp(of, wrt)(*inputs, tangents=tangents, **keywords)

    return tangent
