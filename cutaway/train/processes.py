"""The same training on several processes: each computes its part of every batch, and all make the same step.

Start them with `torchrun --nproc-per-node=N`; `fit` finds out by itself. The batch size is that of all processes
together, so that the loss curve is the one of a single process.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cutaway.train.gradients import Step


def rank() -> int:
    """This process's number, 0 where there is only one.

    >>> rank()
    0
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank()
    return int(os.environ.get("RANK", "0")) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 0


def size() -> int:
    """How many processes train together.

    >>> size()
    1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@contextmanager
def together(device: torch.device) -> Iterator[None]:
    """Join the other processes that torchrun has started, for a while; nothing happens where there are none.

    >>> with together(torch.device("cpu")): size()
    1
    """
    started = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ
    if not started or not dist.is_available() or dist.is_initialized():
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def own_device(device: str | torch.device | None) -> str | torch.device | None:
    """The device of this process: with several GPUs each process has its own.

    >>> own_device("cpu")
    'cpu'
    """
    if device is not None and torch.device(device).type == "cuda" and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


def alike(model: nn.Module) -> None:
    """Give every process the first one's weights and buffers."""
    if size() > 1:
        for value in model.state_dict().values():
            dist.broadcast(value.detach(), 0)


def agree(value: Any) -> Any:
    """What the first process says, in every process.

    >>> agree(3)
    3
    """
    if size() == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held, 0)
    return held[0]


def in_parts(step: Step, model: nn.Module) -> Step:
    """Let every process compute its part of each batch; loss, outputs and gradients are those of the whole batch.

    Batch norm computes its statistics from each process's part; the running ones are averaged.

    Args:
        step: for one process.
        model: whose buffers are averaged.

    >>> in_parts(len, nn.Identity()) is len  # one process
    True
    """
    if size() == 1:
        return step
    buffers = [value for value in model.buffers() if value.is_floating_point()]

    def parted(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        bounds = [len(x) * part // size() for part in (rank(), rank() + 1)]
        rows = slice(*bounds) if bounds[1] > bounds[0] else slice(0, 1)  # without examples of its own: one, for naught
        share = (bounds[1] - bounds[0]) / len(x)
        value, outputs, gradients = step(x[rows], y[rows])
        whole = torch.zeros(len(x), *outputs.shape[1:], dtype=outputs.dtype, device=outputs.device)
        if share:
            whole[rows] = outputs
        dist.all_reduce(whole)
        flat = [value.reshape(1), *(gradient.flatten() for gradient in gradients)]
        summed = torch.cat([part * share for part in flat])
        dist.all_reduce(summed)
        parts = summed[1:].split([gradient.numel() for gradient in gradients])
        found = [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]
        for buffer in buffers:
            dist.all_reduce(buffer.div_(size()))
        return summed[0], whole, found

    return parted
