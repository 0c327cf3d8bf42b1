"""Before the first step: optimiser, gradient step and state are put together."""

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from cutaway.errors import ArgumentError
from cutaway.train import processes
from cutaway.train.adversary import Adversary
from cutaway.train.batches import Source
from cutaway.train.collapse import check_adversary
from cutaway.train.flat import FEW, flat_step
from cutaway.train.gradients import Step, in_pieces, make_step
from cutaway.train.layout import MANY, channels_last
from cutaway.train.losses import Loss, loss_function
from cutaway.train.metrics import metric_functions
from cutaway.train.moves import Moves
from cutaway.train.optimizers import make_optimizer, parameter_groups
from cutaway.train.parts import in_parts
from cutaway.train.schedules import schedule_function
from cutaway.train.session import Job
from cutaway.train.settings import Settings
from cutaway.train.state import Meter, State, copied
from cutaway.train.threads import operations
from cutaway.train.traced import PAYS


def prepare(
    model: nn.Module,
    source: Source,
    validation: Any,
    chosen: Settings,
    rules: Mapping[Any, Any] | None,
    adversary: Adversary | None,
    shard: bool = False,
) -> Job:
    """Put optimiser, gradient step and state together.

    Args:
        model: the network to train.
        source: the training batches.
        validation: data to choose the best epoch by.
        chosen: the settings.
        rules, adversary, shard: as `fit` takes them.
    """
    processes.alike(model)
    given = model
    if shard:
        sharding = _sharding()
        sharding.check_shards(chosen.optimizer, {"rules": rules, "adversary": adversary})
        model = sharding.in_shards(model)
    names, groups = parameter_groups(model, chosen.rates, chosen.freeze)
    extra = dict(chosen.optimizer_settings)
    if chosen.weight_decay is not None:
        extra["weight_decay"] = chosen.weight_decay
    optimizer = make_optimizer(chosen.optimizer, groups, chosen.rate, **extra)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    by_identity = {id(weight): name for name, weight in model.named_parameters()}
    if any(id(weight) not in by_identity for weight in weights):
        raise ArgumentError("the optimizer holds parameters that are not the model's; make it from model.parameters()")
    names = [by_identity[id(weight)] for weight in weights]
    class_weights = None if chosen.class_weights is None else list(chosen.class_weights)
    loss = loss_function(chosen.loss, chosen.label_smoothing, class_weights)
    scaler = _scaler(chosen, optimizer, adversary, weights[0].device)
    if shard:
        step = _sharding().sharded_step(model, loss, weights, chosen.precision, scaler and scaler.scale)
        step = in_pieces(step, chosen.accumulate)
    else:
        named = dict(zip(names, weights, strict=True))
        step = _step(model, loss, named, chosen, rules, adversary, scaler)
        if rules is None and adversary is None and chosen.precision == "float32" and chosen.optimizer != "lbfgs":
            work = operations(model, source)
            if work is not None and work <= FEW:
                many = (source.steps or 0) * chosen.epochs >= PAYS and chosen.accumulate == 1
                step = flat_step(model, loss, named, step, compiled=many)
            elif work is not None and work >= MANY:
                step = channels_last(step, model)
        step = in_pieces(step, chosen.accumulate)
        step = in_parts(step, model)
    check_adversary(adversary, optimizer, chosen.accumulate)
    ema = None if chosen.ema is None else copied(dict(zip(names, weights, strict=True)))
    return Job(
        settings=chosen,
        source=source,
        validation=validation,
        state=State(model, optimizer, Meter(metric_functions(chosen.metrics)), ema, scaler=scaler),
        names=names,
        adversary=adversary,
        step=step,
        loss=loss,
        schedule=schedule_function(chosen.schedule, chosen.warm_up),
        rates=[group["lr"] for group in optimizer.param_groups],
        weights=weights,
        moves=None if shard or scaler is not None else Moves(optimizer),
        whole=given if shard else None,
    )


def _step(
    model: nn.Module,
    loss: Loss,
    weights: dict[str, torch.Tensor],
    chosen: Settings,
    rules: Mapping[Any, Any] | None,
    adversary: Adversary | None,
    scaler: torch.amp.GradScaler | None,
) -> Step:
    """The gradient step for what is minimised: the loss, or what the adversary makes of it."""
    scaled = None if scaler is None else scaler.scale
    if adversary is None:
        return make_step(model, loss, weights, chosen.precision, rules, scaled=scaled)
    return make_step(model, loss, weights, chosen.precision, rules, adversary.objective, adversary.slope, scaled)


def _scaler(
    chosen: Settings, optimizer: torch.optim.Optimizer, adversary: Adversary | None, device: torch.device
) -> torch.amp.GradScaler | None:
    """What scales the loss in float16, whose smallest number is 6e-8, and leaves out steps that overflow."""
    if chosen.precision != "float16":
        return None
    if isinstance(optimizer, torch.optim.LBFGS) or (adversary is not None and adversary.slope):
        other = f"adversary={adversary!r}" if adversary is not None and adversary.slope else "optimizer='lbfgs'"
        raise ArgumentError(f"{other} cannot go with precision='float16', whose steps may be left out; take 'bfloat16'")
    return torch.amp.GradScaler(device.type)


def _sharding() -> Any:
    """The module that is loaded when it is needed, because its import takes a while."""
    return importlib.import_module("cutaway.train.sharding")
