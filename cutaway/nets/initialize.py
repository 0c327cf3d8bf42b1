"""Initialisation schemes by name."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from cutaway.errors import nearest
from cutaway.nets.layers import TableConv2d
from cutaway.nets.local import LocallyConnected1d, LocallyConnected2d
from cutaway.rng import generator

Scheme = Callable[[Tensor, torch.Generator, float], object]

# name -> (weight, generator, gain); gain is the standard deviation for "normal" and the value for "constant".
INITS: dict[str, Scheme] = {
    "zero": lambda weight, _, __: nn.init.zeros_(weight),
    "constant": lambda weight, _, gain: nn.init.constant_(weight, gain),
    "normal": lambda weight, source, gain: nn.init.normal_(weight, 0, gain, generator=source),
    "xavier": lambda weight, source, gain: nn.init.xavier_normal_(weight, gain, generator=source),
    "xavier_uniform": lambda weight, source, gain: nn.init.xavier_uniform_(weight, gain, generator=source),
    "kaiming": lambda weight, source, gain: nn.init.kaiming_normal_(weight, generator=source).mul_(gain),
    "kaiming_uniform": lambda weight, source, gain: nn.init.kaiming_uniform_(weight, generator=source).mul_(gain),
    "orthogonal": lambda weight, source, gain: nn.init.orthogonal_(weight, gain, generator=source),
}

GAINS = {"constant": 0.1, "normal": 0.01}


def initialize(model: nn.Module, scheme: str, seed: int = 0, gain: float | None = None) -> nn.Module:
    """Draw all weights of a model anew, in place; biases become 0.

    Every parameter of two or more dimensions is a weight: its first dimension are the outputs, the second the inputs,
    the rest the window. The scale of normalisations stays as it is. Kaiming's standard deviation is
    sqrt(2 / inputs), for ReLU.

    Args:
        model: any module; it is changed and returned.
        scheme: one of `INITS`.
        seed: fixes the numbers; torch's global random state is left alone.
        gain: factor of the weights (1); the standard deviation for "normal" (0.01), the value for "constant" (0.1).

    Raises:
        LookupFailure: for an unknown scheme.

    Source: Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010 (xavier);
    He et al., "Delving deep into rectifiers", 2015, section 2.2 (kaiming); Saxe et al., "Exact solutions to the
    nonlinear dynamics of learning in deep linear neural networks", 2014 (orthogonal).

    >>> initialize(nn.Linear(4, 2), "constant", gain=0.5).weight.unique()
    tensor([0.5000], grad_fn=<Unique2Backward0>)
    """
    if scheme not in INITS:
        raise nearest(scheme, INITS, "initialisation")
    source = generator(seed, "init", scheme)
    chosen = GAINS.get(scheme, 1.0) if gain is None else gain
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if "bias" in name:
                    parameter.zero_()
                elif parameter.dim() > 1:
                    for weight in _weights(module, parameter):
                        INITS[scheme](weight, source, chosen)
    return model


def _weights(module: nn.Module, parameter: Tensor) -> Iterable[Tensor]:
    """The weight as views of the form (outputs, inputs, window), from which the number of inputs is read."""
    if isinstance(module, LocallyConnected1d | LocallyConnected2d):
        return parameter  # one (outputs, inputs) matrix at every position
    if isinstance(module, TableConv2d):
        return [kernels.unsqueeze(0) for kernels in parameter.split([len(row) for row in module.table])]
    return [parameter]
