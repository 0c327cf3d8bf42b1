"""Everything that decides what a training run computes, in one frozen record that JSON can hold."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.optim import Optimizer

from cutaway.errors import ArgumentError, nearest
from cutaway.train.losses import Loss, loss_function
from cutaway.train.metrics import Metric, metric_functions
from cutaway.train.optimizers import default_rate
from cutaway.train.schedules import Schedule, schedule_function


@dataclass(frozen=True)
class Settings:
    """Settings of a training run.

    Args:
        epochs: passes over the training data, at least 0.
        batch_size: examples per step; loaders bring their own.
        optimizer: a name of `OPTIMIZERS`, a class, a function `(groups, lr=…)` or an optimiser object.
        lr: learning rate; None takes the named optimiser's usual one.
        optimizer_settings: further arguments of the optimiser (`{"betas": (0.9, 0.99)}`).
        schedule: a name of `SCHEDULES` or a function of progress in [0, 1] to a factor of the rate.
        warm_up: share of the training during which the rate rises linearly from 0, in [0, 1).
        loss: a name of `LOSSES` or a function `(outputs, targets) -> (N,) or scalar`.
        metrics: names of `METRICS` or functions `(outputs, targets) -> (N,)`.
        seed: fixes order, augmentation, dropout and everything else that is random.
        patience: epochs without a better validation value before training stops; None never stops.
        monitor: which validation column decides what is best: "loss" or a metric's name.
        restore_best: end with the weights of the best epoch (needs validation data).
        weight_decay: as the optimiser understands it; None keeps the optimiser's own default.
        l1: factor of sign(w) added to the gradient.
        clip: largest norm of the whole gradient; None leaves it.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        class_weights: factor of each class's loss.
        ema: decay of the moving average of the weights in [0, 1); validation and result use the average.
        accumulate: pieces each batch is computed in, to save memory; the gradient is the same.
        precision: "float32" (the model's own), "bfloat16" (autocast) or "float16" (autocast; the loss is scaled, and
            steps whose gradients overflow are left out).
        freeze: prefixes of parameters that stay as they are.
        rates: learning rate by prefix of parameters.
        shuffle: draw a new order of the examples for every epoch; without, they come in their own order.
        drop_last: leave out a last batch that is smaller than the others.
        nonfinite: "stop" with the node's name at the first value that is NaN or infinite, or "continue".

    Raises:
        ArgumentError: a value is out of range.
        LookupFailure: a name is unknown.

    >>> Settings(epochs=3).rate
    0.001
    """

    epochs: int = 10
    batch_size: int = 64
    optimizer: str | Optimizer | Callable[..., Optimizer] = "adam"
    lr: float | None = None
    optimizer_settings: Mapping[str, Any] = field(default_factory=dict)
    schedule: str | Schedule = "cosine"
    warm_up: float = 0.0
    loss: str | Loss = "cross_entropy"
    metrics: tuple[str | Metric, ...] = ("accuracy",)
    seed: int = 0
    patience: int | None = None
    monitor: str = "loss"
    restore_best: bool = True
    weight_decay: float | None = None
    l1: float = 0.0
    clip: float | None = None
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    ema: float | None = None
    accumulate: int = 1
    precision: str = "float32"
    freeze: tuple[str, ...] = ()
    rates: Mapping[str, float] = field(default_factory=dict)
    shuffle: bool = True
    drop_last: bool = False
    nonfinite: str = "stop"

    def __post_init__(self) -> None:
        for name, (holds, expected) in _RANGES.items():
            value = getattr(self, name)
            if not holds(value):
                raise ArgumentError(f"{name}={value!r}: expected {expected}")
        if isinstance(self.metrics, str) or callable(self.metrics):
            object.__setattr__(self, "metrics", (self.metrics,))
        for name in ("metrics", "freeze", "class_weights"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        loss_function(self.loss, self.label_smoothing, None if self.class_weights is None else list(self.class_weights))
        schedule_function(self.schedule, self.warm_up)
        columns = ["loss", *metric_functions(self.metrics)]
        if self.monitor.removeprefix("validation_") not in columns:
            raise nearest(self.monitor, columns, "validation column to monitor")
        object.__setattr__(self, "monitor", self.monitor.removeprefix("validation_"))

    @property
    def rate(self) -> float:
        """The learning rate that is used."""
        return default_rate(self.optimizer) if self.lr is None else self.lr

    def record(self) -> dict[str, Any]:
        """Everything as JSON can hold it; functions and objects by their names.

        >>> Settings(class_weights=[1, 2]).record()["class_weights"]
        [1, 2]
        """
        return {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self)}


def make_settings(settings: Settings | None = None, **changes: Any) -> Settings:
    """Lay changes over settings; a name that is not known is answered with the nearest ones.

    >>> make_settings(Settings(epochs=3), lr=0.1).rate
    0.1
    """
    known = [f.name for f in dataclasses.fields(Settings)]
    for name in changes:
        if name not in known:
            raise nearest(name, known, "training setting")
    return dataclasses.replace(settings or Settings(), **changes)


def plain(value: Any) -> Any:
    """Turn a value into what JSON can hold: numbers, strings, lists and dicts; anything else by its name.

    >>> plain({"a": (1, plain)})
    {'a': [1, 'cutaway.train.settings.plain']}
    """
    if isinstance(value, bool | int | str | None):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if hasattr(value, "func") and hasattr(value, "keywords"):  # functools.partial
        return {"function": plain(value.func), **plain(value.keywords)}
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _above(low: float) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value is None or value > low, f"a number above {low}"


def _share(value: Any) -> bool:
    return value is None or 0 <= value < 1


_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "epochs": (lambda value: isinstance(value, int) and value >= 0, "a whole number, at least 0"),
    "batch_size": (lambda value: isinstance(value, int) and value >= 1, "a whole number, at least 1"),
    "lr": _above(0),
    "warm_up": (_share, "a share in [0, 1)"),
    "seed": (lambda value: isinstance(value, int), "a whole number"),
    "patience": (
        lambda v: v is None or (isinstance(v, int) and v >= 1),
        "a whole number, at least 1, or None",
    ),
    "weight_decay": (lambda value: value is None or value >= 0, "a number, at least 0, or None"),
    "l1": (lambda value: value >= 0, "a number, at least 0"),
    "clip": _above(0),
    "label_smoothing": (_share, "a share in [0, 1)"),
    "ema": (_share, "a decay in [0, 1), 0.999 for example, or None"),
    "accumulate": (lambda value: isinstance(value, int) and value >= 1, "a whole number, at least 1"),
    "precision": (
        lambda value: value in ("float32", "bfloat16", "float16"),
        "'float32', 'bfloat16' or 'float16'",
    ),
    "nonfinite": (lambda value: value in ("stop", "continue"), "'stop' or 'continue'"),
}
