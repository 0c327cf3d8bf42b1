"""One search over a data set by several processes that torchrun started: who reads what, and what all found."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist


def place() -> tuple[int, int]:
    """This process's number and how many there are.

    >>> place()
    (0, 1)
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    size = int(os.environ.get("WORLD_SIZE", "1"))
    return (int(os.environ["RANK"]), size) if size > 1 and "RANK" in os.environ else (0, 1)


@contextmanager
def together() -> Iterator[None]:
    """Join the other processes for a while; nothing happens where there are none, or where they are joined already."""
    if place()[1] == 1 or not dist.is_available() or dist.is_initialized():
        yield
        return
    dist.init_process_group("gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def exchanged(value: Any) -> list[Any]:
    """What every process says, in the order of their numbers, in every process.

    >>> exchanged(3)
    [3]
    """
    size = place()[1]
    if size == 1:
        return [value]
    found: list[Any] = [None] * size
    group = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")  # values lie in main memory
    dist.all_gather_object(found, value, group=group)
    return found
