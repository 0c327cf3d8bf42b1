"""Adversaries: what changes the training batches, so that the network learns to withstand it.

`fit(…, adversary=…)` takes a name of the table `ADVERSARIES`, one of its classes filled in, any function
`(model, x, y) -> x`, or an attack of `cutaway.attack`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from cutaway.errors import ArgumentError, nearest
from cutaway.rng import generator
from cutaway.train.adversary import Adversary, Given, Moment
from cutaway.train.ascent import BALLS, Ball, ascend, logits
from cutaway.train.gradients import WithLoss
from cutaway.train.losses import Loss
from cutaway.train.objectives import Divergent, Mixed, Second

EPS = 8 / 255


@dataclass(frozen=True)
class PGD(Adversary):
    """Train on the worst inputs that a few steps of projected gradient ascent find in the ball.

    The ascent is a bare loop on the engine in evaluation mode: `steps` gradients of the inputs, and nothing else.

    Args:
        eps: radius of the ball, in pixel units.
        steps: gradient steps, each followed by the projection on ball and box.
        step_size: in the norm; 2.5·eps/steps when None.
        norm: "linf" or "l2".
        warm_up: share of the training in which ε rises from 0 to `eps`, in [0, 1).

    Raises:
        ArgumentError: a value is out of range.

    Source: Madry et al., "Towards deep learning models resistant to adversarial attacks", 2018, section 2.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> x, y = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0])
    >>> changed = PGD(eps=0.1, steps=5)(net, x, y)
    >>> bool(((changed - x).abs() <= 0.1 + 1e-6).all())
    True
    """

    eps: float = EPS
    steps: int = 7
    step_size: float | None = None
    norm: str = "linf"
    warm_up: float = 0.0

    def __post_init__(self) -> None:
        _positive(self, "eps", "steps", "step_size")
        _share(self, "warm_up")
        ball(self.norm)

    @property
    def gradients(self) -> int:
        """One for each step and one for the weights."""
        return self.steps + 1

    def inputs(self, moment: Moment) -> Tensor:
        """Inputs (N, …) in the ball, where the loss is large."""
        x, scale = moment.x, _risen(self.warm_up, moment.progress)
        size = 2.5 * self.eps / self.steps if self.step_size is None else self.step_size
        begin = ball(self.norm).inside(x, scale * self.eps, generator(moment.seed, "start", device=x.device))
        wanted = one_hot(moment.model, x, moment.y)
        return ascend(moment.model, x, begin, wanted, scale * self.eps, scale * size, self.steps, self.norm)


@dataclass(frozen=True)
class FGSM(Adversary):
    """Train on batches and on their fast gradient sign versions: α·J(x) + (1 − α)·J(x + ε·sign ∇J).

    Args:
        eps: length of the one step from the clean inputs, in pixel units.
        clean: α, the share of the clean loss, in [0, 1).
        warm_up: share of the training in which ε rises from 0 to `eps`, in [0, 1).
        fall: stop when PGD-5 accuracy falls by more than this, see `Fast`; None does not look.

    Source: Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial examples", 2015, section 6.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> x = torch.full((1, 1, 2, 2), 0.5)
    >>> changed = FGSM(eps=0.1)(net, x, torch.tensor([0]))  # (1, 2, 1, 2, 2): clean, changed
    >>> bool(torch.allclose((changed[:, 1] - x).abs(), torch.tensor(0.1)))
    True
    """

    eps: float = EPS
    clean: float = 0.5
    warm_up: float = 0.0
    fall: float | None = None

    def __post_init__(self) -> None:
        _positive(self, "eps", "fall")
        _share(self, "clean", "warm_up")

    @property
    def gradients(self) -> int:
        """One for the step, and one for the weights on each of both batches."""
        return 3

    def inputs(self, moment: Moment) -> Tensor:
        """Clean and changed inputs (N, 2, …)."""
        x, eps = moment.x, _risen(self.warm_up, moment.progress) * self.eps
        changed = ascend(moment.model, x, x, one_hot(moment.model, x, moment.y), eps, eps, 1)
        return torch.stack([x, changed], 1)

    def objective(self, model: nn.Module, loss: Loss) -> WithLoss:
        """The mean loss on clean and on changed inputs, weighted."""
        return Mixed(model, loss, self.clean)

    def network(self, model: nn.Module) -> nn.Module:
        """The network on the changed inputs."""
        return Second(model)


@dataclass(frozen=True)
class Fast(Adversary):
    """Train on one gradient step from a random point of the ball, and stop when that stops to work.

    A network can learn to withstand the single step alone: from one epoch to the next its accuracy under more steps
    falls to nothing (catastrophic overfitting). Therefore five steps of PGD are tried on up to 256 validation (or
    training) examples after each epoch; when their accuracy falls by more than `fall`, training stops, the weights of
    the epoch before are kept, and a warning, `run.json` and the history say so.

    Args:
        eps: radius of the L∞ ball, in pixel units.
        step_size: length of the step, 1.25·eps when None.
        warm_up: share of the training in which ε rises from 0 to `eps`, in [0, 1).
        fall: of PGD-5 accuracy, in (0, 1); None does not look.

    Source: Wong, Rice, Kolter, "Fast is better than free: revisiting adversarial training", 2020, algorithm 3 and
    section 5 (early stopping).

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> x = torch.rand(3, 1, 2, 2)
    >>> bool(((Fast(eps=0.1)(net, x, torch.tensor([0, 1, 0])) - x).abs() <= 0.1 + 1e-6).all())
    True
    """

    eps: float = EPS
    step_size: float | None = None
    warm_up: float = 0.0
    fall: float | None = 0.2

    def __post_init__(self) -> None:
        _positive(self, "eps", "step_size", "fall")
        _share(self, "warm_up")

    @property
    def gradients(self) -> int:
        """One for the step and one for the weights."""
        return 2

    def inputs(self, moment: Moment) -> Tensor:
        """Inputs (N, …) in the ball, one step from a random point."""
        size = 1.25 * self.eps if self.step_size is None else self.step_size
        return PGD(self.eps, 1, size, warm_up=self.warm_up).inputs(moment)


@dataclass(frozen=True)
class Free(Adversary):
    """Train on each batch several times; every backward pass gives the weights' gradient and the perturbation's.

    The perturbation goes on from batch to batch. With `replays` = m train 1/m as many epochs, for the same cost as
    plain training.

    Args:
        eps: radius of the L∞ ball and length of each step, in pixel units.
        replays: updates from each batch, m.
        fall: stop when PGD-5 accuracy falls by more than this, see `Fast`; None does not look.

    Source: Shafahi et al., "Adversarial training for free!", 2019, algorithm 1.

    >>> Free(eps=0.1, replays=4).gradients
    4
    """

    slope: ClassVar[bool] = True
    eps: float = EPS
    replays: int = 4  # pyright: ignore[reportIncompatibleVariableOverride]
    fall: float | None = None

    def __post_init__(self) -> None:
        _positive(self, "eps", "replays", "fall")

    @property
    def gradients(self) -> int:
        """One for each replay."""
        return self.replays

    def inputs(self, moment: Moment) -> Tensor:
        """The batch with the perturbation as it is now."""
        x, delta = moment.x, moment.memory.get("delta")
        return x if delta is None else (x + _fitting(delta, x)).clamp(0, 1)

    def answer(self, moment: Moment, gradient: Tensor) -> None:
        """Move the perturbation up the loss."""
        delta = moment.memory.get("delta")
        fresh = torch.zeros_like(gradient) if delta is None else _fitting(delta, gradient)
        fresh = (fresh + self.eps * gradient.sign()).clamp(-self.eps, self.eps)
        rest = fresh[:0] if delta is None else delta[len(fresh) :]  # a last, smaller batch leaves the others' alone
        moment.memory["delta"] = torch.cat([fresh, rest])


@dataclass(frozen=True)
class TRADES(Adversary):
    """Train on the clean loss plus β times the divergence between the answers to clean and to changed inputs.

    The changed inputs are those of the ball whose answers diverge most, found in evaluation mode from a start
    0.001·N(0, 1) beside the clean ones.

    Args:
        eps: radius of the ball, in pixel units.
        steps: gradient steps.
        step_size: in the norm; 2.5·eps/steps when None (the source takes 10 steps of 2/255 at 8/255).
        beta: weight of the divergence; the source takes 6 on CIFAR-10 and 1 on MNIST.
        norm: "linf" or "l2".
        warm_up: share of the training in which ε rises from 0 to `eps`, in [0, 1).

    Source: Zhang et al., "Theoretically principled trade-off between robustness and accuracy", 2019, algorithm 1.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> x = torch.rand(3, 1, 2, 2)
    >>> both = TRADES(eps=0.1, steps=3)(net, x, torch.tensor([0, 1, 0]))  # (3, 2, 1, 2, 2)
    >>> bool(((both[:, 1] - both[:, 0]).abs() <= 0.1 + 1e-6).all())
    True
    """

    eps: float = EPS
    steps: int = 10
    step_size: float | None = None
    beta: float = 6.0
    norm: str = "linf"
    warm_up: float = 0.0

    def __post_init__(self) -> None:
        _positive(self, "eps", "steps", "step_size", "beta")
        _share(self, "warm_up")
        ball(self.norm)

    @property
    def gradients(self) -> int:
        """One for each step, and one for the weights on each of both batches."""
        return self.steps + 2

    def inputs(self, moment: Moment) -> Tensor:
        """Clean and changed inputs (N, 2, …)."""
        x, scale = moment.x, _risen(self.warm_up, moment.progress)
        size = 2.5 * self.eps / self.steps if self.step_size is None else self.step_size
        draw = generator(moment.seed, "start", device=x.device)
        begin = x + 1e-3 * torch.randn(x.shape, generator=draw, device=x.device, dtype=x.dtype)
        wanted = logits(moment.model, x).softmax(1)  # the gradient of the divergence is softmax(z') − softmax(z)
        changed = ascend(moment.model, x, begin, wanted, scale * self.eps, scale * size, self.steps, self.norm)
        return torch.stack([x, changed], 1)

    def objective(self, model: nn.Module, loss: Loss) -> WithLoss:
        """The clean loss and the divergence."""
        return Divergent(model, loss, self.beta)

    def network(self, model: nn.Module) -> nn.Module:
        """The network on the changed inputs."""
        return Second(model)


@dataclass(frozen=True)
class Noise(Adversary):
    """Train on inputs with random noise: the control of adversarial training, and the basis of smoothing.

    Args:
        sigma: standard deviation of Gaussian noise, in pixel units.
        eps: half width of uniform noise, in place of Gaussian.
        clip: keep the inputs in [0, 1]; False for networks that are to be smoothed.

    Raises:
        ArgumentError: both or none of sigma and eps, or one that is not above 0.

    Source: Bishop, "Training with noise is equivalent to Tikhonov regularization", 1995.

    >>> Noise(eps=0.1)(nn.Identity(), torch.full((2, 3), 0.5), torch.zeros(2)).round(decimals=1).unique().numel() <= 3
    True
    """

    sigma: float | None = None
    eps: float | None = None
    clip: bool = True

    def __post_init__(self) -> None:
        _positive(self, "sigma", "eps")
        if (self.sigma is None) == (self.eps is None):
            raise ArgumentError(
                f"sigma={self.sigma}, eps={self.eps}: give the standard deviation of Gaussian noise or the half width "
                "of uniform noise, one of the two"
            )

    @property
    def gradients(self) -> int:
        """That of the weights."""
        return 1

    def inputs(self, moment: Moment) -> Tensor:
        """Inputs with noise."""
        x, draw = moment.x, generator(moment.seed, "noise", device=moment.x.device)
        made: dict[str, Any] = {"generator": draw, "device": x.device, "dtype": x.dtype}
        if self.eps is not None:
            x = x + self.eps * (2 * torch.rand(x.shape, **made) - 1)
        else:
            x = x + (self.sigma or 0.0) * torch.randn(x.shape, **made)
        return x.clamp(0, 1) if self.clip else x


ADVERSARIES: dict[str, Callable[[], Adversary]] = {
    "pgd": PGD,
    "fgsm": FGSM,
    "fast": Fast,
    "free": Free,
    "trades": TRADES,
    "noise": lambda: Noise(sigma=EPS),
}


def make_adversary(adversary: "str | Adversary | Callable[..., Any] | None") -> Adversary | None:
    """Find an adversary by name, or take one, a function or an attack.

    Raises:
        LookupFailure: for an unknown name.
        ArgumentError: for what is none of these.

    >>> make_adversary("fast").gradients
    2
    """
    if adversary is None or isinstance(adversary, Adversary):
        return adversary
    if isinstance(adversary, str):
        if adversary not in ADVERSARIES:
            raise nearest(adversary, ADVERSARIES, "adversary")
        return ADVERSARIES[adversary]()
    if not callable(adversary):
        raise ArgumentError(
            f"adversary={adversary!r} is neither a name nor a function (model, x, y) -> x; names: "
            f"{', '.join(ADVERSARIES)}"
        )
    return Given(adversary)


def one_hot(model: nn.Module, x: Tensor, y: Int[Tensor, "n"]) -> Float[Tensor, "n k"]:
    """Targets as probabilities: the gradient of cross-entropy by the logits is softmax(z) − one_hot(y).

    Raises:
        ArgumentError: the targets are no classes.
    """
    if y.dim() != 1 or y.is_floating_point():
        raise ArgumentError(
            f"targets are {y.dtype} {tuple(y.shape)}; this adversary needs class indices (N,): give a function "
            "(model, x, y) -> x for other targets"
        )
    return F.one_hot(y, logits(model, x[:1]).shape[1]).to(x.dtype)


def ball(norm: str) -> Ball:
    """The row of the table of balls."""
    if norm not in BALLS:
        raise nearest(norm, BALLS, "norm")
    return BALLS[norm]


def _risen(warm_up: float, progress: float) -> float:
    return min(progress / warm_up, 1.0) if warm_up else 1.0


def _fitting(delta: Tensor, x: Tensor) -> Tensor:
    """The perturbation for a batch: the first rows, and zeros where there are too few."""
    if delta.shape[1:] != x.shape[1:]:
        raise ArgumentError(f"inputs of shapes {tuple(delta.shape[1:])} and {tuple(x.shape[1:])}: Free needs one shape")
    delta = delta[: len(x)]
    return torch.cat([delta, delta.new_zeros(len(x) - len(delta), *delta.shape[1:])])


def _positive(adversary: Adversary, *names: str) -> None:
    for name in names:
        value = getattr(adversary, name)
        if value is not None and not value > 0:
            raise ArgumentError(f"{name}={value!r}: expected a number above 0")


def _share(adversary: Adversary, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(adversary, name) < 1:
            raise ArgumentError(f"{name}={getattr(adversary, name)!r}: expected a share in [0, 1)")
