"""Copies of a model with parameters drawn anew: the controls that explanations are compared with."""

import copy
import threading
import weakref
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor, nn

from cutaway import graph as G
from cutaway import rng
from cutaway.errors import ArgumentError


def redraw_(parameter: Tensor, generator: torch.Generator) -> None:
    """Draw a parameter anew, in place: normal, with the mean and standard deviation of its own values.

    The scale of what flows through the network stays near the trained one, so that a difference between maps is one of
    structure. A constant tensor (a bias of zeros, a gain of ones, a single number) has no spread of its own: it gets
    its magnitude as standard deviation, or 0.02 where that is zero. Integers are permuted.

    >>> import torch
    >>> weight = torch.zeros(3)
    >>> redraw_(weight, torch.Generator().manual_seed(0))
    >>> bool((weight != 0).all())
    True
    """
    with torch.no_grad():
        if not (parameter.is_floating_point() or parameter.is_complex()):
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order.to(parameter.device)].view_as(parameter))
            return
        values = parameter.to(torch.promote_types(parameter.dtype, torch.float32))
        mean, spread = values.mean(), values.std(correction=0)
        spread = torch.where(spread > 1e-6 * mean.abs(), spread, mean.abs())
        spread = torch.where(spread > 0, spread, 0.02)
        noise = torch.randn(parameter.shape, generator=generator, dtype=values.dtype)  # drawn on the CPU: same anywhere
        parameter.copy_(mean + spread * noise.to(parameter.device))


def copied(model: nn.Module) -> nn.Module:
    """Copy a model, parameters and buffers included.

    Raises:
        ArgumentError: the model cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as failure:
        raise ArgumentError(
            f"{type(model).__name__} cannot be copied ({failure}), so its parameters cannot be drawn anew for the "
            "sanity score; pass score=False to explain without one"
        ) from failure


def randomized(model: nn.Module, seed: int, names: Collection[str] | None = None) -> nn.Module:
    """Copy a model and draw parameters anew; buffers stay, and the model itself is left alone.

    Args:
        model: any module.
        seed: fixes the draw; each parameter's draw depends on its name and the seed alone.
        names: qualified names of the parameters to draw; None for every one.

    >>> net = nn.Linear(2, 2)
    >>> bool((randomized(net, 0).weight != net.weight).all())
    True
    """
    made = copied(model)
    for name, parameter in made.named_parameters():
        if names is None or name in names:
            redraw_(parameter, rng.generator(seed, "randomize", name))
    return made


def cascade(graph: G.Graph, stages: int) -> list[tuple[str, list[str]]]:
    """Group a graph's parameters by the module that owns them, from the output down.

    Args:
        graph: the model's graph.
        stages: at most so many groups; neighbours are merged, named after their last member.

    Returns:
        (name, parameters' qualified names) for each stage.

    Raises:
        ArgumentError: the graph has no parameters.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> cascade(G.capture(net, torch.zeros(2, 2)), 2)
    [('2', ['2.weight', '2.bias']), ('0', ['0.weight', '0.bias'])]
    """
    owners: dict[str, list[str]] = {}
    first_use: dict[str, int] = {}
    for node in graph.parameters:
        owner = node.target.rpartition(".")[0]
        owners.setdefault(owner, []).append(node.target)
        first_use[owner] = min(first_use.get(owner, len(graph.nodes)), *(user.index for user in node.users))
    if not owners:
        raise ArgumentError("the model has no parameters, so there is nothing to randomise")
    order = sorted(owners, key=lambda owner: -first_use[owner])
    cuts = np.array_split(np.arange(len(order)), min(stages, len(order)))
    return [(order[cut[-1]] or "model", [name for k in cut for name in owners[order[k]]]) for cut in cuts]


class _Control:
    """The last control made, so that explaining one model many times copies it once.

    It is made again when a parameter or buffer of the model was replaced or written to.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.model: weakref.ref | None = None
        self.key: tuple = ()
        self.made: nn.Module | None = None

    def of(self, graph: G.Graph, seed: int) -> nn.Module:
        """A copy of the graph's module with the parameters of its upper half drawn anew."""
        model, upper = graph.module, frozenset(cascade(graph, 2)[0][1])
        tensors = [*model.parameters(), *model.buffers()]
        key = (seed, upper, tuple((id(t), 0 if t.is_inference() else t._version) for t in tensors))
        with self.lock:
            if self.made is None or self.model is None or self.model() is not model or self.key != key:
                self.made = randomized(model, seed, upper)
                self.model, self.key = weakref.ref(model, self._forget), key
            return self.made

    def _forget(self, _: weakref.ref) -> None:
        self.model, self.key, self.made = None, (), None


control = _Control().of
