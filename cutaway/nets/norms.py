"""Normalisations by name."""

from collections.abc import Callable

from torch import nn

from cutaway.errors import ArgumentError, nearest

BATCH = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # by the number of axes after the channels

# (channels, axes after them, groups) -> module; mean and variance of (N, C, H, W) are taken over
NORMS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "batch": lambda channels, dims, _: BATCH[dims](channels),  # N, H, W
    "layer": lambda channels, dims, _: nn.GroupNorm(1, channels) if dims else nn.LayerNorm(channels),  # C, H, W
    "instance": lambda channels, *_: nn.GroupNorm(channels, channels),  # H, W
    "group": lambda channels, _, groups: nn.GroupNorm(groups, channels),  # the channels of a group, H, W
}


def norm(name: str, channels: int, dims: int = 2, groups: int = 8) -> nn.Module:
    """Make a normalisation by name: subtract the mean, divide by the standard deviation, scale and shift each channel.

    They differ in what mean and variance are taken over. "batch": each channel over all examples and positions while
    training, with running averages (momentum 0.1) that stand in for them in evaluation. The others treat each example
    alone and in evaluation as in training: "layer" over all channels and positions, "instance" each channel over its
    positions, "group" each group of neighbouring channels over its positions. Scale and shift are learned; they start
    at 1 and 0, and 1e-5 is added to the variance.

    Args:
        name: one of `NORMS`.
        channels: C of the input `(N, C, …)`.
        dims: number of axes after the channels: 2 for images, 0 for the units of a perceptron.
        groups: of channels, for "group".

    Raises:
        LookupFailure: for an unknown name.
        ArgumentError: for sizes below 1, groups that do not divide the channels, or a mean over single values.

    Source: Ioffe, Szegedy, "Batch normalization", 2015, section 3; Ba, Kiros, Hinton, "Layer normalization", 2016,
    section 3; Ulyanov, Vedaldi, Lempitsky, "Instance normalization", 2016; Wu, He, "Group normalization", 2018,
    section 3.

    >>> import torch
    >>> x = 5 + 3 * torch.randn(2, 4, 8, 8)
    >>> y = norm("instance", channels=4)(x)[1, 2]
    >>> round(y.std(correction=0).item(), 4), bool(y.mean().abs() < 1e-5)
    (1.0, True)
    """
    if name not in NORMS:
        raise nearest(name, NORMS, "norm")
    if channels < 1 or dims not in range(len(BATCH)):
        raise ArgumentError(
            f"norm({name!r}, {channels}, dims={dims}): expected 1 channel or more, and dims 0, 1, 2 or 3"
        )
    if name == "group" and (groups < 1 or channels % groups):
        fitting = ", ".join(str(count) for count in range(1, channels + 1) if channels % count == 0)
        raise ArgumentError(
            f"norm('group', {channels}, groups={groups}): {groups} groups do not divide {channels} channels; "
            f"groups={fitting} would"
        )
    if dims == 0 and (name == "instance" or (name == "group" and groups == channels)):
        raise ArgumentError(
            f"norm({name!r}, {channels}, dims=0, groups={groups}): each of the (N, C) values would be its own mean, "
            "and the output 0; choose 'batch', 'layer', or 'group' with fewer groups"
        )
    return NORMS[name](channels, dims, groups)
