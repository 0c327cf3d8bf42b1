"""Moving the stacked weights of many replicates, each by its own learning rate."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cutaway.train import foreach
from cutaway.train.moves import Moves
from cutaway.train.optimizers import make_optimizer
from cutaway.train.settings import Settings


class Update:
    """Apply gradients to stacked weights with an optimiser of `torch.optim`.

    Every optimiser of the table moves weights by its rate times something that does not depend on the rate. So
    replicates with rates of their own make one step with the largest, and each goes its share of the way.

    Args:
        weights: stacked parameters `(R, …)`; they are changed in place.
        settings: of the training.
        rates: learning rate of every replicate.

    Attributes:
        factor: what the schedule last said.
    """

    def __init__(self, weights: dict[str, Tensor], settings: Settings, rates: Sequence[float]) -> None:
        extra = dict(settings.optimizer_settings)
        if settings.weight_decay is not None:
            extra["weight_decay"] = settings.weight_decay
        self.weights, self.settings, self.rate, self.factor = list(weights.values()), settings, max(rates), 1.0
        self.optimizer = make_optimizer(settings.optimizer, [{"params": self.weights}], self.rate, **extra)
        self.moves = Moves(self.optimizer)
        one = self.weights[0]
        shares = torch.tensor(rates, dtype=one.dtype, device=one.device) / self.rate  # (R,)
        self.shares = None if len(set(rates)) == 1 else [_each(shares, weight) for weight in self.weights]

    def __call__(self, gradients: list[Tensor], factor: float) -> None:
        """Make one step with the rate times a factor."""
        if self.settings.l1:
            foreach.add_(gradients, foreach.sign(self.weights), alpha=self.settings.l1)
        if self.settings.clip is not None:
            self._clip(gradients, self.settings.clip)
        self.factor = factor
        before = None if self.shares is None else [weight.clone() for weight in self.weights]
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * factor
        if self.moves.ready():
            self.moves(gradients)
        else:
            for weight, gradient in zip(self.weights, gradients, strict=True):
                weight.grad = gradient
            self.optimizer.step()
        if before is not None and self.shares is not None:
            for weight, old, share in zip(self.weights, before, self.shares, strict=True):
                weight.copy_(torch.lerp(old, weight, share))

    def _clip(self, gradients: list[Tensor], largest: float) -> None:
        """Scale every replicate's whole gradient to a norm of at most `largest`."""
        squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0)  # (R,)
        scale = (largest / squares.sqrt().clamp_min(1e-12)).clamp_max(1.0)
        for gradient in gradients:
            gradient.mul_(_each(scale, gradient))


def _each(numbers: Tensor, like: Tensor) -> Tensor:
    """One number per replicate, shaped to act on all its weights."""
    return numbers.reshape(-1, *[1] * (like.dim() - 1))


def make_update(weights: dict[str, Tensor], settings: Settings, rates: Sequence[float]) -> Update:
    """Make the update of stacked weights, see `Update`.

    >>> w = {"w": torch.ones(2, 1)}
    >>> make_update(w, Settings(optimizer="sgd"), [0.1, 0.2])([torch.ones(2, 1)], 1.0); w["w"].flatten()
    tensor([0.9000, 0.8000])
    """
    return Update(weights, settings, rates)
