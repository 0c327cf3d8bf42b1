"""Multi-layer perceptrons."""

import itertools
from collections import OrderedDict

from torch import nn

from cutaway.errors import ArgumentError
from cutaway.nets.layers import activation as make_activation
from cutaway.nets.norms import norm as make_norm


def mlp(
    *sizes: int,
    activation: str = "relu",
    norm: str | None = None,
    groups: int = 8,
    dropout: float = 0.0,
    bias: bool = True,
) -> nn.Sequential:
    """A multi-layer perceptron with affine output: linear, (norm), activation, (dropout), …, linear.

    Args:
        sizes: units of every layer, input and output included; two sizes make the linear model.
            The input `(N, …)` is flattened to `(N, sizes[0])`.
        activation: name of the activation, see `ACTIVATIONS`.
        norm: None, "batch", "layer" or "group", before every activation, see `norm`.
        groups: of units, for "group".
        dropout: probability of dropping a hidden unit, in [0, 1).
        bias: whether the linear layers have biases.

    Raises:
        ArgumentError: with fewer than two sizes or a size below 1, or a norm that does not fit the hidden sizes.
        LookupFailure: for an unknown activation or norm.

    >>> [name for name, _ in mlp(784, 128, 10).named_children()]
    ['flatten', 'linear1', 'relu1', 'linear2']
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ArgumentError(f"mlp{sizes}: expected at least two sizes of 1 or more, such as mlp(784, 128, 10)")
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for depth, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes), start=1):
        layers[f"linear{depth}"] = nn.Linear(fan_in, fan_out, bias)
        if depth == len(sizes) - 1:
            break
        if norm is not None:
            layers[f"norm{depth}"] = make_norm(norm, fan_out, dims=0, groups=groups)
        layers[f"{activation}{depth}"] = make_activation(activation)
        if dropout > 0:
            layers[f"dropout{depth}"] = nn.Dropout(dropout)
    return nn.Sequential(layers)
