"""What every adversary has, and the one that wraps any function."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from cutaway.train.gradients import WithLoss
from cutaway.train.losses import Loss


@dataclass(frozen=True)
class Moment:
    """What an adversary sees of one training step.

    Attributes:
        model: the network, in training mode.
        x, y: inputs (N, …) in [0, 1] and classes (N,) of the batch.
        seed: fixes what the adversary draws.
        progress: share of the training done, in [0, 1].
        memory: what the adversary keeps from step to step; it goes into the checkpoints.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    seed: int = 0
    progress: float = 1.0
    memory: dict[str, Any] = field(default_factory=dict)


class Adversary(ABC):
    """What every adversary has.

    Attributes:
        replays: updates of the weights from each batch.
        slope: whether it wants the objective's gradient by the inputs, see `answer`.
        fall: the fall of PGD-5 accuracy from one epoch to the next at which training stops; None does not look.
    """

    replays: ClassVar[int] = 1
    slope: ClassVar[bool] = False
    fall: float | None = None

    @property
    @abstractmethod
    def gradients(self) -> int | None:
        """Gradient evaluations for each example and epoch, the weights' own included; None when unknown."""

    @abstractmethod
    def inputs(self, moment: Moment) -> Tensor:
        """What the objective gets instead of the batch's inputs."""

    def objective(self, model: nn.Module, loss: Loss) -> WithLoss:
        """The network with the loss to minimise, a function of what `inputs` gives and of the targets."""
        return WithLoss(model, loss)

    def network(self, model: nn.Module) -> nn.Module:
        """The network as a module of what `inputs` gives, to look for the place where a value goes wrong."""
        return model

    def answer(self, moment: Moment, gradient: Tensor) -> None:  # noqa: B027 (most have nothing to learn)
        """Learn from the objective's gradient with respect to the inputs, when `slope` asks for it."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, seed: int = 0) -> Tensor:
        """The changed inputs of one batch, as at the end of training."""
        return self.inputs(Moment(model, x, y, seed))


class Given(Adversary):
    """A function `(model, x, y) -> x` or an attack of `cutaway.attack`, with or without an argument `seed`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        known = inspect.signature(function).parameters.values()
        self.seeded = any(p.name == "seed" or p.kind is p.VAR_KEYWORD for p in known)
        self.function = function

    @property
    def gradients(self) -> None:
        """Nobody knows."""
        return

    def inputs(self, moment: Moment) -> Tensor:
        """What the function gives, or the inputs that an attack found."""
        extra = {"seed": moment.seed} if self.seeded else {}
        made = self.function(moment.model, moment.x, moment.y, **extra)
        return made if isinstance(made, Tensor) else made.x
