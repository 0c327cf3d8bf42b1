"""The learning-rate range test: raise the rate at every step until the loss explodes."""

import copy
import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from cutaway.errors import ArgumentError
from cutaway.progress import bar
from cutaway.train.batches import make_source
from cutaway.train.gradients import make_step
from cutaway.train.loop import isolated
from cutaway.train.losses import loss_function
from cutaway.train.measure import placement
from cutaway.train.optimizers import make_optimizer, parameter_groups
from cutaway.train.settings import make_settings

_SMOOTH, _EXPLODED = 0.9, 4.0  # share of the past in the smoothed loss; times the least loss where the test ends


@dataclass(frozen=True)
class RangeTest:
    """What a range test saw.

    Attributes:
        rates: learning rate of every step.
        losses: smoothed loss at every step.
        suggestion: a tenth of the rate at the least loss, where training is fast and far from exploding.
        exploded: the rate at which the loss exploded; None when it did not.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float
    exploded: float | None

    def plot(self) -> Any:
        """Draw the loss over the rate.

        Returns:
            A matplotlib Figure.
        """
        from matplotlib.figure import Figure  # matplotlib only where something is drawn

        figure = Figure(figsize=(4.2, 3.2), layout="constrained")
        axis = figure.subplots()
        axis.plot(self.rates, self.losses)
        axis.axvline(self.suggestion, color="C3", linewidth=1, label=f"suggested {self.suggestion:.2g}")
        axis.set(xscale="log", xlabel="learning rate", ylabel="smoothed loss")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
        return figure


def range_test(
    model: nn.Module,
    train: Any,
    *,
    low: float = 1e-5,
    high: float = 10.0,
    steps: int = 200,
    progress: bool = True,
    **changes: Any,
) -> RangeTest:
    """Raise the learning rate from low to high, step by step, and watch the loss; the model stays as it is.

    Args:
        model: the network; a copy of it is trained.
        train: training data, as `fit` takes them.
        low, high: first and last rate, 0 < low < high.
        steps: how many, evenly spaced on a logarithmic scale; the test ends early when the loss explodes.
        progress: show a bar on the terminal.
        changes: fields of `Settings` (batch_size, optimizer, loss, seed, …).

    Raises:
        ArgumentError: the range is empty or there are too few steps.

    Source: Smith, Cyclical Learning Rates for Training Neural Networks, 2017, section 3.3.

    >>> import torch
    >>> from cutaway.rng import generator
    >>> x = torch.randn(64, 2, generator=generator(0)); y = (x[:, 0] > 0).long()
    >>> found = range_test(nn.Linear(2, 2), (x, y), optimizer="sgd", steps=60, progress=False)
    >>> 0.01 < found.suggestion < 10
    True
    """
    if not 0 < low < high or steps < 10:
        raise ArgumentError(f"low={low}, high={high}, steps={steps}: expected 0 < low < high and at least 10 steps")
    chosen = make_settings(**changes)
    trained = copy.deepcopy(model).train()
    where, dtype = placement(trained)
    source = make_source(train, chosen.batch_size, chosen.seed, where, dtype, chosen.drop_last, chosen.shuffle)
    names, groups = parameter_groups(trained, {}, chosen.freeze)
    optimizer = make_optimizer(chosen.optimizer, groups, low, **dict(chosen.optimizer_settings))
    weights = dict(zip(names, (weight for group in groups for weight in group["params"]), strict=True))
    step = make_step(trained, loss_function(chosen.loss, chosen.label_smoothing), weights)
    rates: list[float] = []
    losses: list[float] = []
    with isolated(where, chosen.seed), bar("range test", steps, progress) as tick:
        for x, y in _endless(source, steps):
            rate = low * (high / low) ** (len(rates) / (steps - 1))
            for group in optimizer.param_groups:
                group["lr"] = rate
            value, _, gradients = step(x, y)
            for weight, gradient in zip(weights.values(), gradients, strict=True):
                weight.grad = gradient
            optimizer.step()
            rates.append(rate)
            losses.append(_smoothed(losses, float(value)))
            tick(f"rate {rate:.2g} · loss {losses[-1]:.3g}", len(rates))
            if not losses[-1] < _EXPLODED * min(losses):
                break
    known = [loss if math.isfinite(loss) else math.inf for loss in losses]
    best = known.index(min(known))
    ended = len(rates) < steps or not math.isfinite(losses[-1])
    return RangeTest(tuple(rates), tuple(losses), rates[best] / 10, rates[-1] if ended else None)


def _smoothed(before: list[float], value: float) -> float:
    """The exponential mean so far; it starts at the first value."""
    return value if not before else _SMOOTH * before[-1] + (1 - _SMOOTH) * value


def _endless(source: Any, steps: int) -> Any:
    """Batches of one epoch after the other, `steps` in all."""
    done, epoch = 0, 0
    while done < steps:
        for batch in source.epoch(epoch):
            if done == steps:
                return
            yield batch
            done += 1
        epoch += 1
