"""Shares of dead and saturated units in a layer's values."""

import torch
from torch import Tensor

from cutaway.diagnose.layers import Layer, bounds

SLOPE = 0.1  # a value is saturated where the slope is below this share of the largest slope


def rectifier(layer: Layer) -> bool:
    """Whether a layer ends in a ReLU, so that its units can die."""
    return layer.activation in ("relu", "relu6") or (layer.activation == "hardtanh" and bounds(layer.node)[0] == 0)


def active_units(layer: Layer, values: Tensor) -> Tensor:
    """How often each unit is above zero: counts over examples and places (units,)."""
    dims = [dim for dim in range(values.dim()) if dim != layer.channel]
    return (values > 0).sum(dims)


def dead_share(layer: Layer, values: Tensor) -> float | None:
    """Share of units that are zero for every example and place; None where the layer ends in no ReLU."""
    return float((active_units(layer, values) == 0).float().mean()) if rectifier(layer) else None


def saturated_share(layer: Layer, values: Tensor) -> float | None:
    """Share of values where the activation's slope is below a tenth of its largest; None where nothing saturates.

    For a sigmoid s the slope is s(1 − s) (at most 0.25), for tanh t it is 1 − t²; a clamp is saturated at its upper end
    and, unless that is 0, at its lower one (zeros of a ReLU6 count as dead units instead).
    """
    if layer.activation == "sigmoid":
        return float((values * (1 - values) < SLOPE / 4).float().mean())
    if layer.activation == "tanh":
        return float((1 - values**2 < SLOPE).float().mean())
    if layer.activation not in ("hardtanh", "hardsigmoid", "relu6"):
        return None
    low, high = bounds(layer.node)
    at_end = values >= (float("inf") if high is None else high)
    if low is not None and not rectifier(layer):
        at_end = at_end | (values <= low)
    return float(at_end.float().mean())


def root_mean_square(values: Tensor) -> float:
    """The root of the mean square of all values."""
    return float(precise(values).square().mean().sqrt())


def example_norm(values: Tensor, examples: int) -> float:
    """The root mean square, over examples, of each example's Euclidean norm."""
    return float((precise(values).square().sum() / examples).sqrt())


def precise(values: Tensor) -> Tensor:
    """The values as float64, or as float32 on a device that knows no float64."""
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)
