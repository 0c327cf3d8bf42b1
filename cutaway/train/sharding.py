"""Parameters, gradients and the optimiser's moments in shards: each process keeps its part of every tensor.

The network is torch's own FSDP2 (`fully_shard`): a layer's parameters are gathered just before they are used, and its
gradients are summed straight into the shards. Only `fit` loads this file, since the import takes a while.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from cutaway.errors import ArgumentError
from cutaway.train import parts, processes
from cutaway.train.gradients import Scaled, Step, forward_under, mean_loss
from cutaway.train.losses import Loss

_SMALLEST = 10_000  # parameters from which on a layer is gathered by itself; smaller ones come with the whole network


def in_shards(model: nn.Module) -> nn.Module:
    """A copy of the network in shards; the one given moves to main memory and stays whole.

    Args:
        model: with the same weights in every process.

    Source: Rajbhandari, Rasley, Ruwase, He, "ZeRO: memory optimizations toward training trillion parameter models",
    2020, section 5.
    """
    made, device = copy.deepcopy(model), next(model.parameters()).device
    model.cpu()
    mesh = init_device_mesh(device.type, (processes.size(),))
    for part in (*units(made), made):
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
    return made


def units(model: nn.Module) -> list[nn.Module]:
    """The layers that are gathered by themselves: the parts of sequences and lists that are large enough.

    A network that uses a parameter in several places is one unit.

    >>> net = nn.Sequential(nn.Linear(100, 200), nn.ReLU(), nn.Sequential(nn.Linear(200, 300), nn.ReLU()))
    >>> units(net)
    [Linear(in_features=100, out_features=200, bias=True), Linear(in_features=200, out_features=300, bias=True)]
    """
    every = dict(model.named_parameters(remove_duplicate=False))
    shared = len(every) > len(set(map(id, every.values())))
    return [] if shared else [part for part in _parts(model) if sum(w.numel() for w in part.parameters()) >= _SMALLEST]


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    listed = isinstance(module, nn.Sequential | nn.ModuleList)
    for child in module.children():
        if listed and not isinstance(child, nn.Sequential | nn.ModuleList):
            yield child
        else:
            yield from _parts(child)


def check_shards(optimizer: Any, refused: Mapping[str, Any]) -> None:
    """Refuse what needs whole tensors.

    Raises:
        ArgumentError: an optimiser that compares whole gradients or holds other parameters, or one of `refused`.

    >>> check_shards("lbfgs", {})
    Traceback (most recent call last):
    cutaway.errors.ArgumentError: optimizer='lbfgs' works on whole tensors; with shard=True take another by name
    """
    if optimizer == "lbfgs" or isinstance(optimizer, torch.optim.Optimizer):
        shown = repr(optimizer) if isinstance(optimizer, str) else type(optimizer).__name__
        raise ArgumentError(f"optimizer={shown} works on whole tensors; with shard=True take another by name")
    for name, value in refused.items():
        if value is not None:
            raise ArgumentError(f"{name}= needs the whole network in every process; leave shard=True away")


def sharded_step(
    model: nn.Module,
    loss: Loss,
    weights: list[Tensor],
    precision: str = "float32",
    scaled: Scaled | None = None,
) -> Step:
    """Make the step of a network in shards; loss and outputs are those of the whole batch, gradients lie in shards.

    Args:
        model: as `in_shards` gives it.
        loss: from outputs and targets to one value per example.
        weights: what to differentiate by.
        precision, scaled: see `gradients.autograd_step`.
    """

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        rows, share = parts.own_rows(len(x))
        for weight in weights:
            weight.grad = None  # or the shards would add to it
        with forward_under(precision, x.device):
            outputs = model(x[rows])
            value = mean_loss(loss, outputs, y[rows])
        wanted = value * (share * processes.size())  # the shards hold the mean over the processes
        (wanted if scaled is None else scaled(wanted)).backward()
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        summed = value.detach() * share
        dist.all_reduce(summed)
        return summed, parts.joined(outputs.detach(), rows, share, len(x)), [g.detach() for g in gradients]

    return parts.averaging_buffers(step, model)
