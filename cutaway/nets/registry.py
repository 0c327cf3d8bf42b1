"""The table of networks by name."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from cutaway.errors import ArgumentError, nearest
from cutaway.nets.lenet import lenet5, lenet1989
from cutaway.nets.mlp import mlp

NAMES: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "lenet1989": lenet1989,
    "lenet5": lenet5,
}


def make(name: str, *sizes: int, seed: int | None = None, **settings: Any) -> nn.Module:
    """Make a network by name.

    Args:
        name: one of `NAMES`.
        sizes: positional sizes, for networks that take them (`mlp`).
        seed: fixes the initial weights and leaves torch's global random state alone; None draws from that state.
        settings: passed to the constructor.

    Raises:
        LookupFailure: for an unknown name; the nearest ones are listed.
        ArgumentError: for settings that the constructor does not take.

    >>> type(make("lenet5", seed=0, classes=3)).__name__
    'LeNet5'
    """
    if name not in NAMES:
        raise nearest(name, NAMES, "model")
    constructor = NAMES[name]
    try:
        inspect.signature(constructor).bind(*sizes, **settings)
    except TypeError as error:
        given = ", ".join([*map(str, sizes), *(f"{key}={value!r}" for key, value in settings.items())])
        raise ArgumentError(f"{name}({given}): {error}; it takes {inspect.signature(constructor)}") from None
    if seed is None:
        return constructor(*sizes, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return constructor(*sizes, **settings)
