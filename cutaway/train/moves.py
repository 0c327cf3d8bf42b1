"""An optimiser's step as one call of its fused kernel; what torch does around it costs more than a tiny step."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from cutaway.train import foreach

_MOMENTS = {SGD: ("momentum_buffer",), **dict.fromkeys((Adam, AdamW), ("exp_avg", "exp_avg_sq", "step"))}


class Moves:
    """Move an optimiser's weights by given gradients, to the same bits and with the same state as its own `step`.

    Args:
        optimizer: of any kind; only SGD, Adam and AdamW of `torch.optim`, fused, are known.

    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> moves = Moves(SGD([weight], lr=0.1, fused=True))
    >>> moves([torch.ones(2)]) if moves.ready() else None; weight.data
    tensor([0.9000, 0.9000])
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        same = len({(weight.device, weight.dtype, type(weight.data)) for weight in self.weights}) == 1
        hooks = (*optimizer._optimizer_step_pre_hooks, *optimizer._optimizer_step_post_hooks)
        changed = "step" in vars(optimizer) or hooks  # by whoever made it
        known = type(optimizer) in _MOMENTS and not changed and type(self.weights[0].data) is Tensor
        self.fits = known and same and all(map(_plain, optimizer.param_groups))
        self.state: Any = None
        self.moments: dict[str, list[Tensor]] = {}
        self.steps = torch.zeros(len(self.weights))  # what Adam counts

    def __call__(self, gradients: list[Tensor]) -> None:
        """Move the weights, when it is `ready`."""
        if "step" in self.moments:
            self.steps.add_(1)
        start = 0
        for group in self.optimizer.param_groups:
            rows = slice(start, start := start + len(group["params"]))
            moments = {name: values[rows] for name, values in self.moments.items()}
            move = _descend if type(self.optimizer) is SGD else _adapt
            move(self.weights[rows], gradients[rows], moments, group)

    def ready(self) -> bool:
        """Whether it knows the optimiser, and this has made its moments, which its own first step does."""
        if not self.fits:
            return False
        state = self.optimizer.state
        if state is not self.state:
            none = type(self.optimizer) is SGD and not any(group["momentum"] for group in self.optimizer.param_groups)
            names = () if none else _MOMENTS[type(self.optimizer)]
            if any(state.get(weight, {}).get(name) is None for weight in self.weights for name in names):
                return False
            if "step" in names:
                self._join_steps(state)
            self.moments = {name: [state[weight][name] for weight in self.weights] for name in names}
            self.state = state
        return True

    def _join_steps(self, state: Any) -> None:
        """Let the steps that every weight counts lie side by side, to be raised by one call."""
        self.steps = torch.stack([state[weight]["step"] for weight in self.weights])
        for weight, step in zip(self.weights, self.steps.unbind(), strict=True):
            state[weight]["step"] = step


def _plain(group: dict[str, Any]) -> bool:
    flags = ("amsgrad", "differentiable", "capturable")
    return bool(group.get("fused")) and isinstance(group["lr"], float) and not any(group.get(flag) for flag in flags)


def _descend(weights: list[Tensor], gradients: list[Tensor], moments: dict[str, list[Tensor]], group: Any) -> None:
    told = {name: group[name] for name in ("lr", "weight_decay", "momentum", "dampening", "nesterov", "maximize")}
    buffers = moments["momentum_buffer"] if group["momentum"] and moments else []
    foreach.sgd_(weights, gradients, buffers, **told, is_first_step=False)


def _adapt(weights: list[Tensor], gradients: list[Tensor], moments: dict[str, list[Tensor]], group: Any) -> None:
    told = {name: group[name] for name in ("lr", "weight_decay", "eps", "amsgrad", "maximize")}
    beta1, beta2 = group["betas"]
    steps = moments["step"]
    kernel = foreach.adamw_ if group["decoupled_weight_decay"] else foreach.adam_
    kernel(weights, gradients, moments["exp_avg"], moments["exp_avg_sq"], [], steps, beta1=beta1, beta2=beta2, **told)
