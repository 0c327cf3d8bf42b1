"""What a small training step is worth: one thread, and no oneDNN, whose preparation costs more than the work."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cutaway.errors import ArgumentError
from cutaway.nets.modes import evaluating
from cutaway.train.batches import Arrays, Source

ENOUGH = 60_000_000  # floating-point operations of a batch's forward pass from which on more threads help
TINY = 4_000_000  # … below which oneDNN costs more than it saves
_backend: Any = torch._C


@torch.no_grad()
def operations(model: nn.Module, source: Source) -> int | None:
    """Floating-point operations of one batch's forward pass on the CPU; None elsewhere, and for a loader's batches.

    >>> operations(nn.Linear(4, 2), Arrays(torch.zeros(10, 4), torch.zeros(10), batch_size=5))
    80
    """
    if not isinstance(source, Arrays) or any(weight.device.type != "cpu" for weight in model.parameters()):
        return None
    with evaluating(model), FlopCounterMode(display=False) as counter:
        model(source.x[:1])
    return counter.get_total_flops() * source.batch_size


@contextmanager
def using_threads(wanted: int | None, model: nn.Module, source: Source) -> Iterator[int]:
    """Use a number of threads for a while, and for tiny steps torch's own kernels instead of oneDNN's.

    The choice depends on network and batch size alone, not on a measurement, so that a seed gives the same bits on
    a machine that is busy.

    Args:
        wanted: the number; None takes one thread for small steps on the CPU and torch's own number for others.
        model: the network.
        source: the training batches.

    Raises:
        ArgumentError: the number is below 1.

    >>> with using_threads(1, nn.Linear(1, 1), Arrays(torch.zeros(1, 1), torch.zeros(1), 1)) as number: number
    1
    """
    if wanted is not None and wanted < 1:
        raise ArgumentError(f"threads={wanted}: expected a whole number, at least 1, or None")
    before, onednn = torch.get_num_threads(), _backend._get_mkldnn_enabled()
    found = operations(model, source)
    if wanted is None and before > 1 and found is not None and found < ENOUGH:
        wanted = 1
    torch.set_num_threads(wanted or before)
    _backend._set_mkldnn_enabled(onednn and (found is None or found >= TINY))
    try:
        yield wanted or before
    finally:
        torch.set_num_threads(before)
        _backend._set_mkldnn_enabled(onednn)
