"""Transfer: examples made on other networks, shown to one whose gradients nobody asked for."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cutaway.attack.iterative import momentum
from cutaway.attack.losses import Logits
from cutaway.attack.oracle import Model
from cutaway.attack.problem import pose
from cutaway.attack.result import Attack, settle
from cutaway.errors import ArgumentError


class MeanLogits(nn.Module):
    """An ensemble: the mean of the logits of several models, each of which may be a module or a function.

    Args:
        models: modules or functions from images (N, C, H, W) to logits (N, K).

    >>> import torch
    >>> MeanLogits([lambda x: x.flatten(1), lambda x: 3 * x.flatten(1)])(torch.ones(1, 1, 1, 2))
    tensor([[2., 2.]])
    """

    def __init__(self, models: Sequence[Model]) -> None:
        super().__init__()
        self.models = list(models)
        self.parts = nn.ModuleList(model for model in self.models if isinstance(model, nn.Module))  # their modes
        self.training = self.parts.training = any(part.training for part in self.parts)  # else every use would warn

    def forward(self, x: Float[Tensor, "n c h w"]) -> Logits:
        """The mean over the models (N, K)."""
        return torch.stack([model(x) for model in self.models]).mean(0)


def transfer(
    models: Model | Sequence[Model],
    victim: Model,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, "n"],
    *,
    attack: Callable[..., Attack] = momentum,
    eps: float | None = None,
    norm: str = "linf",
    target: int | Int[Tensor, "n"] | None = None,
    seed: int = 0,
    control: bool = True,
    batch_size: int = 256,
    progress: bool = True,
) -> Attack:
    """Make examples on surrogate models and see what they do to a victim, which is only asked to classify them.

    Args:
        models: one differentiable model, or several, whose logits are averaged.
        victim: module or function from images (N, C, H, W) to logits (N, K); it need not be differentiable.
        x: images (N, C, H, W) in [0, 1].
        y: their labels (N,).
        attack: what makes the examples, such as `ct.attack.momentum` or `partial(ct.attack.pgd, steps=20)`. One that
            can stop early is told not to, as what barely fools the surrogate fools nobody else.
        eps: bound on the distance in `norm`, in pixel units, if the attack takes one.
        norm: the attack's norm.
        target: the class wanted, one for all or one each; None wants any other class.
        seed: for the attack and the control.
        control: measure random noise of the same distance on the victim.
        batch_size: the most images given to a model at once.
        progress: show the attack's bar when stderr is a terminal.

    Returns:
        an Attack on the victim: success, classes and confidences are the victim's, `asked` counts what the victim was
        asked, and settings["surrogate"] says what the surrogate was asked and how often it was fooled itself.

    Raises:
        ArgumentError: see `pgd`; also no model, models and victim with different classes, eps missing.

    Source: Papernot, McDaniel, Goodfellow, "Transferability in machine learning", 2016; several surrogates: Liu, Chen,
    Liu, Song, "Delving into transferable adversarial examples and black-box attacks", 2017, section 5.

    >>> import torch
    >>> x, y = torch.tensor([[[[0.6, 0.5]]]]), torch.tensor([0])
    >>> known, secret = lambda x: x.flatten(1), lambda x: (8 * x.flatten(1)).round()
    >>> found = transfer(known, secret, x, y, eps=0.1)
    >>> found.success, found.asked
    (tensor([True]), {'logits': 1, 'gradients': 0})
    """
    problem = pose(victim, x, y, eps=eps, norm=norm, target=target, seed=seed, batch_size=batch_size)
    surrogate = _one(models)
    common = {"norm": norm, "target": target, "seed": seed, "control": False, "batch_size": batch_size}
    given = _given(attack, common | {"progress": progress}, eps)
    if target is not None and "target" not in given:
        raise ArgumentError(f"target={target!r}: {_name(attack)} has no targets; choose another attack")
    classes = pose(surrogate, x[:1], y[:1], eps=None, norm=norm, target=None, seed=seed).clean.shape[1]
    if classes != problem.clean.shape[1]:
        raise ArgumentError(
            f"the surrogate has {classes} classes, the victim {problem.clean.shape[1]}: expected models for one task"
        )
    made = attack(surrogate, x, y, **given)
    told = {"success_rate": made.success_rate, "asked": made.asked, "settings": made.settings}
    settings = {"attack": made.method, "surrogate": told}
    return settle(problem, f"transfer of {made.method}", made.x, made.trace, settings, control, seed, eps)


def _one(models: Model | Sequence[Model]) -> Model:
    if isinstance(models, Sequence):
        if not models:
            raise ArgumentError("models is empty; expected at least one surrogate to make examples on")
        return models[0] if len(models) == 1 else MeanLogits(models)
    return models


def _name(attack: Callable[..., Attack]) -> str:
    inner = attack.func if isinstance(attack, functools.partial) else attack
    return getattr(inner, "__name__", type(inner).__name__)


def _given(attack: Callable[..., Attack], common: dict[str, Any], eps: float | None) -> dict[str, Any]:
    """The arguments that the attack takes, without those the user has bound."""
    known = inspect.signature(attack).parameters
    bound = set(attack.keywords) if isinstance(attack, functools.partial) else set()
    given = {key: value for key, value in common.items() if key in known}
    if "early_stop" in known and "early_stop" not in bound:
        given["early_stop"] = False
    if "eps" in known:
        if eps is None:
            raise ArgumentError(f"eps is missing: {_name(attack)} searches inside a ball; give its radius")
        given["eps"] = eps
    return given
