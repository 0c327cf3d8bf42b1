"""The same training on several processes: each computes its part of every batch, and all make the same step.

Start them with `torchrun --nproc-per-node=N`; `fit` finds out by itself. The batch size is that of all processes
together, so that the loss curve is the one of a single process.
"""

import atexit
import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cutaway.errors import ArgumentError


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


def check_several() -> None:
    """Refuse to put a network into shards where there is one process only.

    Raises:
        ArgumentError: it says how several are started.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
        raise ArgumentError(
            "shard=True puts parts of the network into several processes, but there is one; start them by "
            "torchrun --nproc-per-node=2 -m cutaway train lenet5 --data digits --out runs/demo --shard "
            "(or torchrun --nproc-per-node=2 your_script.py), or leave it away"
        )


def join(device: torch.device) -> None:
    """Join the other processes that torchrun has started, until this one ends; nothing happens where there are none.

    >>> join(torch.device("cpu")); size()
    1
    """
    started = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ
    if started and dist.is_available() and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)


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


def anywhere(flag: bool) -> bool:
    """Whether it holds in any process.

    >>> anywhere(True)
    True
    """
    if size() == 1:
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    held = torch.tensor(float(flag), device=device)
    dist.all_reduce(held, dist.ReduceOp.MAX)
    return bool(held)


def summed(value: Tensor) -> Tensor:
    """The sum over the processes.

    >>> summed(torch.ones(()))
    tensor(1.)
    """
    if size() > 1:
        dist.all_reduce(value)
    return value


def local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This process's parts of tensors that lie in shards; whole tensors as they are.

    >>> local([torch.ones(1)])
    [tensor([1.])]
    """
    held: Iterable[Any] = tensors
    return [tensor.to_local() if in_shards(tensor) else tensor for tensor in held]


def in_shards(value: Any) -> bool:
    """Whether each process holds a part of this tensor.

    >>> in_shards(torch.ones(1))
    False
    """
    return hasattr(value, "full_tensor")


def whole(tree: Any) -> Any:
    """Gather every tensor in nested dicts and lists that lies in shards; all processes must ask together.

    >>> whole({"a": [torch.ones(1)]})
    {'a': [tensor([1.])]}
    """
    if in_shards(tree):
        return tree.detach().full_tensor().cpu()
    if isinstance(tree, Mapping):
        return {key: whole(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(whole(item) for item in tree)
    return tree


def part_of(value: Any, pattern: Tensor) -> Any:
    """This process's shard of a whole tensor, laid out as another one of its shape; anything else as it is.

    >>> part_of(torch.ones(1), torch.ones(1))
    tensor([1.])
    """
    fits = isinstance(value, Tensor) and value.shape == pattern.shape and not in_shards(value)
    if not fits or not in_shards(pattern):
        return value
    laid: Any = pattern
    parts = torch.chunk(value, size())
    own = parts[rank()] if rank() < len(parts) else value[:0]
    return type(laid).from_local(
        own.to(laid.device, copy=True), laid.device_mesh, laid.placements, shape=laid.shape, stride=laid.stride()
    )
