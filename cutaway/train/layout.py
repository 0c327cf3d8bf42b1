"""Images with their channels side by side in memory, which convolutions on the CPU compute faster."""

import torch
from torch import Tensor, nn

from cutaway.train.gradients import Step
from cutaway.train.state import copied, random_state, set_random_state

MANY = 1_000_000_000  # floating-point operations of a batch's forward pass from which on it pays


def channels_last(step: Step, model: nn.Module) -> Step:
    """Give a step its images `(N, C, H, W)` with the channels last in memory, if the network can take them.

    The first batch is tried in both layouts, so that the choice is the same for a training that goes on.

    Args:
        step: for inputs in any layout.
        model: whose buffers the trials leave as they were.

    >>> laid = channels_last(lambda x, y: (x, y, []), nn.Identity())
    >>> laid(torch.zeros(1, 2, 3, 3), torch.zeros(1))[0].is_contiguous(memory_format=torch.channels_last)
    True
    """
    takes: list[bool] = []

    def tried(x: Tensor, y: Tensor) -> bool:
        buffers, random = dict(model.named_buffers()), random_state(x.device)
        before, fine = copied(buffers), x.dim() == 4
        for inputs in (x, x.contiguous(memory_format=torch.channels_last)) if fine else ():
            try:
                step(inputs, y)
            except RuntimeError:  # it looks at the memory itself, by view() for example
                fine = False
                if inputs is x:
                    raise
            for name, value in before.items():
                buffers[name].copy_(value)
            set_random_state(random, x.device)
        return fine

    def laid(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        if not takes:
            takes.append(tried(x, y))
        return step(x.contiguous(memory_format=torch.channels_last) if takes[0] and x.dim() == 4 else x, y)

    return laid
