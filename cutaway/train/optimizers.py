"""Optimisers by name: a table over `torch.optim`, and the one convention it lacks."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cutaway.errors import ArgumentError, nearest
from cutaway.train.processes import in_shards


class RMSpropInside(Optimizer):
    """RMSprop with epsilon inside the root: v ← αv + (1 − α)g², w ← w − lr·g/√(v + ε).

    Args:
        params: parameters or groups, as for every `torch.optim` class.
        lr: learning rate, above 0.
        alpha: decay of the mean square, in [0, 1).
        eps: added to the mean square before the root; torch adds it after the root.
        weight_decay: factor of the weights added to the gradient.

    Source: Goodfellow, Bengio, Courville, Deep Learning, 2016, algorithm 8.5.

    >>> w = nn.Parameter(torch.tensor([1.0])); w.grad = torch.tensor([2.0])
    >>> RMSpropInside([w], lr=0.1, alpha=0.0, eps=0.0).step(); w.data
    tensor([0.9000])
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)
        return value

    def _update(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        if group["weight_decay"]:
            gradient = gradient.add(weight, alpha=group["weight_decay"])
        state = self.state[weight]
        if not state:
            state["square_avg"] = torch.zeros_like(weight)
        square = state["square_avg"].mul_(group["alpha"]).addcmul_(gradient, gradient, value=1 - group["alpha"])
        weight.addcdiv_(gradient, (square + group["eps"]).sqrt(), value=-group["lr"])


@dataclass(frozen=True)
class Row:
    """A line of the table: the class, the learning rate it starts from, and its other settings."""

    make: Callable[..., Optimizer]
    lr: float
    settings: Mapping[str, Any] = field(default_factory=dict)


OPTIMIZERS: dict[str, Row] = {
    "sgd": Row(torch.optim.SGD, 0.1),
    "momentum": Row(torch.optim.SGD, 0.05, {"momentum": 0.9}),
    "nesterov": Row(torch.optim.SGD, 0.05, {"momentum": 0.9, "nesterov": True}),
    "rmsprop": Row(torch.optim.RMSprop, 1e-3),  # epsilon outside the root
    "rmsprop_inside": Row(RMSpropInside, 1e-3),
    "adagrad": Row(torch.optim.Adagrad, 1e-2),
    "adam": Row(torch.optim.Adam, 1e-3),
    "adamw": Row(torch.optim.AdamW, 1e-3, {"weight_decay": 1e-2}),
    "lbfgs": Row(torch.optim.LBFGS, 1.0, {"line_search_fn": "strong_wolfe"}),
}

_FUSED_IN_SHARDS = (torch.optim.Adam, torch.optim.AdamW)  # torch 2.13 splits no other fused kernel


def default_rate(optimizer: object) -> float:
    """The learning rate a named optimiser starts from; 1e-3 for anything else.

    >>> default_rate("momentum")
    0.05
    """
    return OPTIMIZERS[optimizer].lr if isinstance(optimizer, str) and optimizer in OPTIMIZERS else 1e-3


def make_optimizer(
    optimizer: str | Optimizer | Callable[..., Optimizer],
    groups: list[dict[str, Any]],
    lr: float,
    **settings: Any,
) -> Optimizer:
    """Make an optimiser for groups of parameters.

    Args:
        optimizer: a name of `OPTIMIZERS`; a class or function `(groups, lr=…) -> Optimizer`; or an optimiser
            made before, which is taken as it is.
        groups: as `parameter_groups` gives them; a group's own `lr` goes before `lr`.
        lr: learning rate, above 0.
        settings: passed to the class (`momentum=0.8`, `betas=(0.9, 0.99)`, `weight_decay=1e-4`).

    Raises:
        LookupFailure: the name is unknown.
        ArgumentError: the rate is not positive or the class does not know a setting.

    >>> type(make_optimizer("nesterov", [{"params": [nn.Parameter(torch.ones(1))]}], 0.1)).__name__
    'SGD'
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    if not lr > 0:
        raise ArgumentError(f"lr={lr} is not positive; {default_rate(optimizer)} is where {optimizer!r} usually starts")
    if isinstance(optimizer, str) and optimizer not in OPTIMIZERS:
        raise nearest(optimizer, OPTIMIZERS, "optimizer")
    row = OPTIMIZERS[optimizer] if isinstance(optimizer, str) else Row(optimizer, lr)
    if not callable(row.make):
        raise ArgumentError(f"optimizer={optimizer!r} is no name, class or object; names: {', '.join(OPTIMIZERS)}")
    known = inspect.signature(row.make).parameters
    for name in settings:
        if name not in known and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
            raise ArgumentError(f"optimizer {optimizer!r} has no setting {name!r}; it has {', '.join(list(known)[1:])}")
    weights = [weight for group in groups for weight in group["params"]]
    fits = row.make in _FUSED_IN_SHARDS or not any(map(in_shards, weights))
    if "fused" in known and fits and all(weight.dtype.is_floating_point for weight in weights):
        settings = {"fused": True, **settings}  # one kernel per step: a third of the time of a loop over parameters
    return row.make(groups, lr=lr, **{**row.settings, **settings})


def parameter_groups(
    model: nn.Module, rates: Mapping[str, float] | None = None, freeze: Iterable[str] = ()
) -> tuple[list[str], list[dict[str, Any]]]:
    """Split the parameters that train into groups by learning rate.

    Args:
        model: the network.
        rates: learning rate by prefix of the parameters' names (`{"fc": 1e-2, "layer4": 1e-3}`); the longest
            prefix decides, parameters without one use the common rate.
        freeze: prefixes of the parameters that stay as they are.

    Returns:
        The names in the groups' order, and the groups.

    Raises:
        ArgumentError: a prefix names no parameter, or nothing is left to train.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    >>> names, groups = parameter_groups(net, rates={"1": 0.1}, freeze=["0.weight"])
    >>> names, [group.get("lr") for group in groups]
    (['0.bias', '1.weight', '1.bias'], [None, 0.1])
    """
    every = dict(model.named_parameters())
    rates, frozen = dict(rates or {}), [freeze] if isinstance(freeze, str) else list(freeze)
    for prefix in [*rates, *frozen]:
        if not any(_under(name, prefix) for name in every):
            raise nearest(prefix, sorted({n.rsplit(".", 1)[0] for n in every} | set(every)), "parameter prefix")
    groups: dict[float | None, list[str]] = {}
    for name, weight in every.items():
        if weight.requires_grad and not any(_under(name, prefix) for prefix in frozen):
            fitting = sorted((p for p in rates if _under(name, p)), key=len)
            groups.setdefault(rates[fitting[-1]] if fitting else None, []).append(name)
    if not groups:
        raise ArgumentError(f"freeze={frozen!r} leaves no parameter to train; the model has {len(every)}")
    made = [{"params": [every[n] for n in names], **({} if r is None else {"lr": r})} for r, names in groups.items()]
    return [name for names in groups.values() for name in names], made


def _under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")
