"""Finding where the first value that is no number appeared, without waiting for the device at every step."""

import torch
from torch import Tensor, nn

from cutaway import graph as engine
from cutaway.errors import CutawayError
from cutaway.graph.trace import first_nonfinite
from cutaway.nets.modes import evaluating
from cutaway.train import foreach, processes
from cutaway.train.gradients import Step
from cutaway.train.losses import Loss


def all_finite(tensors: list[Tensor]) -> bool:
    """Whether every number in every tensor is finite, in all processes' shards; waits for the device once.

    >>> all_finite([torch.ones(2), torch.tensor([1.0, float("nan")])])
    False
    """
    own = processes.local(tensor.detach() for tensor in tensors)
    floating = [tensor for tensor in own if tensor.is_floating_point() and tensor.numel()]
    # The largest absolute value is infinite or NaN exactly if some number is; a Euclidean norm could overflow.
    norms = [norm.double() for norm in foreach.norm(floating, float("inf"))] if floating else []
    fine = not norms or bool(torch.stack(norms).isfinite().all())
    return fine if not any(map(processes.in_shards, tensors)) else not processes.anywhere(not fine)


def describe_nonfinite(model: nn.Module, loss: Loss, step: Step, x: Tensor, y: Tensor, names: list[str]) -> str | None:
    """Say where the first NaN or infinity appears for one batch; None when everything is finite.

    Args:
        model: with the weights from before the step.
        loss: the loss function.
        step: the gradient step.
        x: inputs of the batch `(N, …)`.
        y: targets of the batch.
        names: the parameters' names, in the order of the step's gradients.
    """
    if not all_finite([x]):
        return f"the inputs hold {_kind(x)} at index {_where(x)}"
    value, outputs, gradients = step(x, y)
    if all_finite([value, *gradients]):
        return None
    node = _first_node(model, x)
    if node is not None:
        return f"node {node} is the first whose value is not finite"
    if not all_finite([value]):
        reached = "the outputs are finite" if all_finite([outputs]) else "the outputs are not finite either"
        return f"the loss {getattr(loss, '__name__', 'function')!s} is {float(value)} while {reached}"
    bad = [name for name, gradient in zip(names, gradients, strict=True) if not all_finite([gradient])]
    return f"the loss is finite but the gradient of {', '.join(bad[:5])} is not"


def _first_node(model: nn.Module, x: Tensor) -> str | None:
    """Name, shape and source line of the first node with a bad value, if the model can be captured."""
    try:
        with evaluating(model):
            trace = engine.capture(model, x).run(x)
    except CutawayError:
        return None
    node = first_nonfinite(trace)
    if node is None:
        return None
    value = trace[node.name].value
    source = f" ({node.source})" if node.source else ""
    return f"{node.name!r}{source}, {_kind(value)} at index {_where(value)},"


def _kind(values: Tensor) -> str:
    return "NaN" if bool(values.isnan().any()) else "infinity"


def _where(values: Tensor) -> tuple[int, ...]:
    """Index of the first number that is not finite."""
    return tuple(int(i) for i in (~values.isfinite()).nonzero()[0])
