"""One-line derivatives of functions and models."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

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
