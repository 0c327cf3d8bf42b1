"""Evaluation mode for a while."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def evaluating(model: nn.Module | Callable[..., Any]) -> Iterator[None]:
    """Put a model into evaluation mode for a while; every part's own mode comes back. A function has none.

    >>> net = nn.Dropout()
    >>> with evaluating(net): print(net.training)
    False
    >>> net.training
    True
    """
    modes = [(part, part.training) for part in model.modules()] if isinstance(model, nn.Module) else []
    for part, _ in modes:
        part.training = False
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
