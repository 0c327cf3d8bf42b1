"""Measuring a network on data: metrics as exact means over the examples, with an interval for accuracy."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cutaway.errors import DataError
from cutaway.intervals import wilson_interval
from cutaway.nets.modes import evaluating
from cutaway.train.batches import in_order
from cutaway.train.losses import Loss
from cutaway.train.metrics import Metric, metric_functions, per_example


@dataclass(frozen=True)
class Evaluation:
    """What was measured on a data set.

    Attributes:
        values: mean of every metric over the examples, by name.
        n: number of examples.
        interval: 95 % Wilson interval of the accuracy, None when accuracy was not measured.
    """

    values: dict[str, float]
    n: int
    interval: tuple[float, float] | None = None

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    def __str__(self) -> str:
        parts = [f"{name} {value:.4g}" for name, value in self.values.items() if name != "accuracy"]
        if self.interval is not None:
            low, high = self.interval
            share = f"accuracy {self.values['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%})"
            parts.insert(0, share.replace("%", " %").replace("95  %", "95 %"))
        return f"{', '.join(parts)} on {self.n} examples"

    def record(self) -> dict[str, Any]:
        """The numbers as JSON can hold them."""
        return {**self.values, "n": self.n, "interval": None if self.interval is None else list(self.interval)}


def placement(model: Any) -> tuple[torch.device, torch.dtype]:
    """Device and floating-point precision of a model, those of its first parameter.

    >>> placement(nn.Linear(1, 1).double())
    (device(type='cpu'), torch.float64)
    """
    weights = model.parameters() if isinstance(model, nn.Module) else ()
    first = next((weight for weight in weights if weight.is_floating_point()), None)
    return (torch.device("cpu"), torch.get_default_dtype()) if first is None else (first.device, first.dtype)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: Any,
    metrics: Iterable[str | Metric] = ("accuracy", "cross_entropy"),
    batch_size: int = 256,
) -> Evaluation:
    """Measure a model in evaluation mode on data; the model stays as it is.

    Args:
        model: from inputs `(N, …)` to outputs.
        data: a Dataset, a pair (x, y) of arrays, or an iterable of batches.
        metrics: names of `METRICS` or functions `(outputs, targets) -> (N,)`.
        batch_size: examples computed at once; it does not change the result's meaning.

    Returns:
        Evaluation with each metric's mean over all examples and, if accuracy is among them, its 95 % interval.

    Raises:
        DataError: there is no example.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, 1927, for the interval.

    >>> identity = nn.Identity()
    >>> evaluate(identity, (torch.eye(4), torch.tensor([0, 1, 2, 0])), ["accuracy"]).values
    {'accuracy': 0.75}
    """
    functions = metric_functions(metrics)
    with evaluating(model):
        totals, n = _totals(model, data, functions, batch_size)
    values = {name: float(total) / n for name, total in totals.items()}
    interval = wilson_interval(round(values["accuracy"] * n, 6), n) if "accuracy" in values else None
    return Evaluation(values, n, interval)


def _totals(
    model: nn.Module, data: Any, functions: Mapping[str, Loss | Metric], batch_size: int
) -> tuple[dict[str, Tensor], int]:
    """Sum every metric over the data, in float64, without waiting for the device between batches."""
    device, dtype = placement(model)
    totals = {name: torch.zeros((), dtype=torch.float64) for name in functions}
    n = 0
    for x, y in in_order(data, batch_size, device, dtype):
        outputs = model(x)
        for name, function in functions.items():
            totals[name] = totals[name].to(device) + per_example(function(outputs, y), len(x)).double().sum()
        n += len(x)
    if n == 0:
        raise DataError("the data to measure on are empty: at least one example is needed")
    return totals, n


@torch.no_grad()
def predict(model: nn.Module, data: Any, batch_size: int = 256) -> Tensor:
    """Outputs of a model in evaluation mode for every example, in order; the model stays as it is.

    Args:
        model: from inputs `(N, …)` to outputs.
        data: inputs `(N, …)` alone, or anything that `evaluate` takes.
        batch_size: examples computed at once.

    Returns:
        Outputs `(N, …)` on the CPU.

    >>> predict(nn.Flatten(), torch.zeros(3, 2, 2)).shape
    torch.Size([3, 4])
    """
    device, dtype = placement(model)
    if hasattr(data, "shape"):
        data = (data, torch.zeros(len(data)))
    with evaluating(model):
        return torch.cat([model(x).cpu() for x, _ in in_order(data, batch_size, device, dtype)])
