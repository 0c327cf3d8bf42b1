"""The gradient step of a whole batch, of which each process computes its part."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cutaway.train.gradients import Step
from cutaway.train.processes import rank, size


def own_rows(count: int) -> tuple[slice, float]:
    """The rows of a batch that are this process's, and their share of it; without any: the first one, for naught.

    >>> own_rows(3)
    (slice(0, 3, None), 1.0)
    """
    bounds = [count * part // size() for part in (rank() % size(), rank() % size() + 1)]
    return slice(*bounds) if bounds[1] > bounds[0] else slice(0, 1), (bounds[1] - bounds[0]) / count


def joined(outputs: Tensor, rows: slice, share: float, count: int) -> Tensor:
    """The outputs `(N, …)` of the whole batch from every process's rows."""
    found = torch.zeros(count, *outputs.shape[1:], dtype=outputs.dtype, device=outputs.device)
    if share:
        found[rows] = outputs
    dist.all_reduce(found)
    return found


def averaging_buffers(step: Step, model: nn.Module) -> Step:
    """After each step give every process the mean of the buffers, such as running statistics."""
    buffers = [value for value in model.buffers() if value.is_floating_point()]

    def averaged(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        found = step(x, y)
        for buffer in buffers:
            dist.all_reduce(buffer.div_(size()))
        return found

    return averaged


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

    def parted(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        rows, share = own_rows(len(x))
        value, outputs, gradients = step(x[rows], y[rows])
        flat = [value.reshape(1), *(gradient.flatten() for gradient in gradients)]
        summed = torch.cat([part * share for part in flat])
        dist.all_reduce(summed)
        parts = summed[1:].split([gradient.numel() for gradient in gradients])
        found = [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]
        return summed[0], joined(outputs, rows, share, len(x)), found

    return averaging_buffers(parted, model)
