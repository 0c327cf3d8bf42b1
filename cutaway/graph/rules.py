"""Rule sets: dicts laid over the table, each one a method that changes how adjoints flow."""

from torch import Tensor


def _guided(grad: Tensor, result: Tensor) -> Tensor:
    """z̄ = ȳ where z > 0 and ȳ > 0."""
    return grad.clamp(min=0) * (result > 0)


def _guided_clamp(grad: Tensor, self: Tensor, min: float | None, max: float | None) -> Tensor:
    """A clamp at zero from below is a ReLU; any other is left alone."""
    inside = self.new_ones(self.shape, dtype=bool) if min is None else self > min  # type: ignore[call-overload]
    inside = inside if max is None else inside & (self < max)
    return (grad.clamp(min=0) if min == 0 else grad) * inside


guided = {
    "relu": _guided,
    "relu6": lambda grad, self: grad.clamp(min=0) * ((self > 0) & (self < 6)),
    "clamp": _guided_clamp,
    "clamp_min": lambda grad, self, min: _guided_clamp(grad, self, min, None),
    "hardtanh": lambda grad, self, min_val, max_val: _guided_clamp(grad, self, min_val, max_val),
    "threshold": lambda grad, self, threshold: (grad.clamp(min=0) if threshold == 0 else grad) * (self > threshold),
}
"""Guided backpropagation. Source: Springenberg, Dosovitskiy, Brox, Riedmiller, Striving for Simplicity, 2014,
section 3.4."""

deconvnet = {
    "relu": lambda grad: grad.clamp(min=0),
    "relu6": lambda grad: grad.clamp(min=0),
    "clamp": lambda grad, min: grad.clamp(min=0) if min == 0 else grad,
    "clamp_min": lambda grad, min: grad.clamp(min=0) if min == 0 else grad,
    "hardtanh": lambda grad, min_val: grad.clamp(min=0) if min_val == 0 else grad,
    "threshold": lambda grad, threshold: grad.clamp(min=0) if threshold == 0 else grad,
}
"""The deconvolutional network's backward pass. Source: Zeiler, Fergus, Visualizing and Understanding Convolutional
Networks, 2014, section 2.1."""
