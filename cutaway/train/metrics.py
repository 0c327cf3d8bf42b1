"""Metrics: functions of `(outputs, targets)` to one value per example, so that any batching gives the same mean."""

from collections.abc import Callable, Iterable

from jaxtyping import Float, Int
from torch import Tensor

from cutaway.errors import ArgumentError, nearest
from cutaway.train.losses import LOSSES

Metric = Callable[[Tensor, Tensor], Tensor]


def accuracy(outputs: Float[Tensor, "n k *d"], targets: Int[Tensor, "n *d"]) -> Float[Tensor, " n"]:
    """1 where the largest logit is the target class, else 0; one logit alone is compared with 0.

    >>> import torch
    >>> accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    tensor([1., 0.])
    """
    if (outputs.dim() == targets.dim() and outputs.shape == targets.shape) or outputs.shape[1:] == (1,):
        return ((outputs > 0).flatten(1) == (targets > 0.5).reshape(len(outputs), -1)).float().mean(1)
    right = (outputs.argmax(1) == targets).float()
    return right.flatten(1).mean(1) if right.dim() > 1 else right


def error(outputs: Float[Tensor, "n k"], targets: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """1 − accuracy.

    >>> import torch
    >>> error(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    tensor([0., 1.])
    """
    return 1 - accuracy(outputs, targets)


def top5(outputs: Float[Tensor, "n k"], targets: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """1 where the target class is among the five largest logits, else 0.

    >>> import torch
    >>> top5(torch.arange(7.0)[None], torch.tensor([1])).item(), top5(torch.arange(7.0)[None], torch.tensor([2])).item()
    (0.0, 1.0)
    """
    best = outputs.topk(min(5, outputs.shape[1]), dim=1).indices  # (N, 5)
    return (best == targets[:, None]).any(1).float()


METRICS: dict[str, Metric] = {"accuracy": accuracy, "error": error, "top5": top5, **LOSSES}
HIGHER_IS_BETTER = {"accuracy", "top5"}


def metric_functions(metrics: Iterable[str | Metric]) -> dict[str, Metric]:
    """Find metrics by name, or take functions under their own names.

    >>> list(metric_functions(["accuracy", top5]))
    ['accuracy', 'top5']
    """
    found: dict[str, Metric] = {}
    for metric in [metrics] if isinstance(metrics, str) else metrics:
        if isinstance(metric, str):
            if metric not in METRICS:
                raise nearest(metric, METRICS, "metric")
            found[metric] = METRICS[metric]
        elif callable(metric):
            found[getattr(metric, "__name__", type(metric).__name__)] = metric
        else:
            raise ArgumentError(f"metric {metric!r} is neither a name nor a function; names: {', '.join(METRICS)}")
    return found


def per_example(values: Tensor, count: int) -> Tensor:
    """Give a metric's or a loss's result one value per example; a scalar stands for all of them.

    >>> import torch
    >>> per_example(torch.tensor(2.0), 3)
    tensor([2., 2., 2.])
    """
    if values.dim() == 0:
        return values.expand(count)
    if values.shape[0] != count:
        raise ArgumentError(f"a loss or metric gave shape {tuple(values.shape)} for {count} examples; give (N,) or ()")
    return values if values.dim() == 1 else values.flatten(1).mean(1)
