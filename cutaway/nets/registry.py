"""The table of networks by name."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from cutaway.errors import ArgumentError, nearest
from cutaway.nets.alexnet import alexnet, alexnet2012
from cutaway.nets.fast_cifar import fast_cifar
from cutaway.nets.googlenet import googlenet
from cutaway.nets.lenet import lenet5, lenet1989
from cutaway.nets.mlp import mlp
from cutaway.nets.mobilenet import mobilenet_v2
from cutaway.nets.resnet import resnet18, resnet34, resnet50, resnet101, resnet152
from cutaway.nets.resnet_cifar import (
    plain20_cifar,
    plain32_cifar,
    plain44_cifar,
    plain56_cifar,
    plain110_cifar,
    resnet20_cifar,
    resnet32_cifar,
    resnet44_cifar,
    resnet56_cifar,
    resnet110_cifar,
    resnet1202_cifar,
)
from cutaway.nets.squeezenet import squeezenet1_0, squeezenet1_1
from cutaway.nets.vgg import vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn
from cutaway.rng import seeded

NAMES: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "lenet1989": lenet1989,
    "lenet5": lenet5,
    "alexnet": alexnet,
    "alexnet2012": alexnet2012,
    "vgg11": vgg11,
    "vgg13": vgg13,
    "vgg16": vgg16,
    "vgg19": vgg19,
    "vgg11_bn": vgg11_bn,
    "vgg13_bn": vgg13_bn,
    "vgg16_bn": vgg16_bn,
    "vgg19_bn": vgg19_bn,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "resnet152": resnet152,
    "resnet20_cifar": resnet20_cifar,
    "resnet32_cifar": resnet32_cifar,
    "resnet44_cifar": resnet44_cifar,
    "resnet56_cifar": resnet56_cifar,
    "resnet110_cifar": resnet110_cifar,
    "resnet1202_cifar": resnet1202_cifar,
    "plain20_cifar": plain20_cifar,
    "plain32_cifar": plain32_cifar,
    "plain44_cifar": plain44_cifar,
    "plain56_cifar": plain56_cifar,
    "plain110_cifar": plain110_cifar,
    "squeezenet1_0": squeezenet1_0,
    "squeezenet1_1": squeezenet1_1,
    "googlenet": googlenet,
    "mobilenet_v2": mobilenet_v2,
    "fast_cifar": fast_cifar,
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
    with seeded(seed):
        return constructor(*sizes, **settings)
