"""Rows of activation functions, softmax and dropout."""

import torch
from torch import Tensor

from cutaway.graph.rows import row

aten = torch.ops.aten

row("relu", self=lambda grad, result: aten.threshold_backward(grad, result, 0))
row("threshold", self=lambda grad, self, threshold: aten.threshold_backward(grad, self, threshold))
row("relu6", self=lambda grad, self: grad * ((self > 0) & (self < 6)))
row("hardtanh", self=lambda grad, self, min_val, max_val: grad * ((self > min_val) & (self < max_val)))
row("sigmoid", self=lambda grad, result: aten.sigmoid_backward(grad, result))
row("tanh", self=lambda grad, result: aten.tanh_backward(grad, result))
row(
    "leaky_relu",
    self=lambda grad, self, negative_slope: aten.leaky_relu_backward(grad, self, negative_slope, False),
)
row(
    "elu",
    self=lambda grad, self, alpha, scale, input_scale: aten.elu_backward(grad, alpha, scale, input_scale, False, self),
)
row("celu", self=lambda grad, self, alpha: aten.elu_backward(grad, alpha, 1, 1 / alpha, False, self))
SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
row("selu", self=lambda grad, self: aten.elu_backward(grad, SELU_ALPHA, SELU_SCALE, 1, False, self))
row("gelu", self=lambda grad, self, approximate: aten.gelu_backward(grad, self, approximate=approximate))
row("silu", self=lambda grad, self: aten.silu_backward(grad, self))
row("mish", self=lambda grad, self: aten.mish_backward(grad, self))
row("softplus", self=lambda grad, self, beta, threshold: aten.softplus_backward(grad, self, beta, threshold))
row("log_sigmoid", self=lambda grad, self: grad * torch.sigmoid(-self))
row("log_sigmoid_forward", self=lambda grad, self: grad[0] * torch.sigmoid(-self))
row("hardswish", self=lambda grad, self: aten.hardswish_backward(grad, self))
row("hardsigmoid", self=lambda grad, self: grad * ((self > -3) & (self < 3)) / 6)
row("hardshrink", "softshrink", self=lambda grad, self, lambd: grad * (self.abs() > lambd))
row(
    "rrelu_with_noise_functional",
    noise=None,
    self=lambda grad, self, result, lower, upper, training: (
        grad[0] * result[1] if training else torch.where(self > 0, grad[0], grad[0] * ((lower + upper) / 2))
    ),
)
row("glu", self=lambda grad, self, dim: _glu(grad, self, dim))


def _glu(grad: Tensor, self: Tensor, dim: int) -> Tensor:
    """y = a·σ(b): δa = δy·σ(b), δb = δy·a·σ(b)·(1 − σ(b))."""
    a, b = self.chunk(2, dim)
    gate = b.sigmoid()
    return torch.cat([grad * gate, grad * a * gate * (1 - gate)], dim)


def prelu_weight(grad: Tensor, self: Tensor, weight_shape: tuple[int, ...]) -> Tensor:
    """δw = Σ δy·min(x, 0), for each channel or over all."""
    slope = grad * self.clamp(max=0)
    if len(weight_shape) == 0 or weight_shape[0] == 1:
        return slope.sum().reshape(weight_shape)
    return slope.sum([d for d in range(slope.ndim) if d != 1])


def prelu_self(grad: Tensor, self: Tensor, weight: Tensor) -> Tensor:
    """1 for x > 0, the slope of the channel otherwise."""
    slope = weight.reshape([-1 if d == 1 else 1 for d in range(max(self.ndim, 1))]) if self.ndim > 1 else weight
    return torch.where(self > 0, grad, grad * slope).reshape(self.shape)


row("prelu", self=prelu_self, weight=prelu_weight)
row(
    "_prelu_kernel",
    broadcasts=True,
    self=lambda grad, self, weight: torch.where(self > 0, grad, grad * weight),
    weight=lambda grad, self: grad * self.clamp(max=0),
)

# y = softmax(x): δx = y·(δy − Σ δy·y). With an argument dtype it computes in another precision than its argument's,
# and the adjoint is cast back as a broadcast one is
row(
    "softmax.int",
    "_softmax",
    "_safe_softmax",
    broadcasts=True,
    self=lambda grad, result, dim: aten._softmax_backward_data(grad, result, dim, result.dtype),
)
row(
    "log_softmax.int",
    "_log_softmax",
    broadcasts=True,
    self=lambda grad, result, dim: aten._log_softmax_backward_data(grad, result, dim, result.dtype),
)


def dropout(grad: tuple, result: tuple, p: float) -> Tensor:
    """The kept entries pass, scaled by 1 / (1 − p)."""
    return grad[0] * result[1] * (0.0 if p == 1 else 1 / (1 - p))


row("native_dropout", input=dropout)
