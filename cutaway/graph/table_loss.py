"""Rows of losses."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from cutaway.graph.rows import named, row
from cutaway.graph.shapes import sum_to

MEAN = 1  # how ATen numbers reductions: 0 none, 1 mean, 2 sum


def share(grad: Tensor, reduction: int, count: Any) -> Tensor:
    """What reaches each entry of a reduced loss."""
    return grad / count if reduction == MEAN else grad


# losses of the difference between prediction and target
def of_difference(operation: str, slope: Callable, *settings: str) -> None:
    """Write the row of a loss Σ f(x − t), given f′."""

    def pull(grad: Tensor, self: Tensor, target: Tensor, reduction: int, *given: float) -> Tensor:
        difference = self - target
        return share(grad, reduction, difference.numel()) * slope(difference, *given)

    def to_self(grad: Tensor, self: Tensor, *rest: Any) -> Tensor:
        return sum_to(pull(grad, self, *rest), self.shape)

    def to_target(grad: Tensor, self: Tensor, target: Tensor, *rest: Any) -> Tensor:
        return -sum_to(pull(grad, self, target, *rest), target.shape)

    asked = ("grad", "self", "target", "reduction", *settings)
    row(operation, self=named(asked, to_self), target=named(asked, to_target))


of_difference("mse_loss", lambda d: 2 * d)
of_difference("l1_loss", lambda d: d.sgn())
of_difference("huber_loss", lambda d, delta: d.clamp(-delta, delta), "delta")
of_difference("smooth_l1_loss", lambda d, beta: d.sgn() if beta == 0 else (d / beta).clamp(-1, 1), "beta")


# cross-entropy between given and predicted probabilities
def binary_cross_entropy(grad: Tensor, self: Tensor, target: Tensor, weight: Tensor | None, reduction: int) -> Tensor:
    """(p − t) / (p·(1 − p))."""
    slope = (self - target) / (self * (1 - self)).clamp(min=1e-12)
    return share(grad, reduction, self.numel()) * (slope if weight is None else slope * weight)


def binary_cross_entropy_target(grad, self, target_shape, weight, reduction):
    """ln(1 − p) − ln p, with logarithms no lower than −100."""
    slope = torch.log(1 - self).clamp(min=-100) - torch.log(self).clamp(min=-100)
    return sum_to(share(grad, reduction, self.numel()) * (slope if weight is None else slope * weight), target_shape)


row("binary_cross_entropy", self=binary_cross_entropy, target=binary_cross_entropy_target)


def with_logits(grad, self, target, weight, pos_weight, reduction):
    """σ(x) − t; with a weight w for positives (1 − t)·σ(x) − w·t·σ(−x)."""
    positive = target if pos_weight is None else target * pos_weight
    slope = (1 - target) * torch.sigmoid(self) - positive * torch.sigmoid(-self)
    return share(grad, reduction, self.numel()) * (slope if weight is None else slope * weight)


def with_logits_target(grad, self, weight, pos_weight, reduction):
    """−x; with a weight w for positives −x + (w − 1)·ln(1 + e^−x)."""
    slope = -self if pos_weight is None else (pos_weight - 1) * softplus(-self) - self
    return share(grad, reduction, self.numel()) * (slope if weight is None else slope * weight)


row("binary_cross_entropy_with_logits", self=with_logits, target=with_logits_target)


def soft_targets(like: Tensor, target: Tensor, weight: Tensor | None, ignore: int, smoothing: float) -> tuple:
    """Targets as weighted probabilities (N, C, …), and the number (or weight) of what counts.

    A class y becomes w_y at y; smoothing ε moves ε of the probability to all classes alike.
    """
    dim = 1 if like.ndim > 1 else 0
    classes = like.shape[dim]
    along = [-1 if axis == dim else 1 for axis in range(like.ndim)]
    wide = None if weight is None else weight.reshape(along)
    if target.dtype.is_floating_point:
        probability = target * (1 - smoothing) + smoothing / classes
        return (probability if wide is None else probability * wide), like.numel() // classes
    counts = target != ignore
    safe = torch.where(counts, target, 0).unsqueeze(dim)  # (N, 1, …)
    onehot = torch.zeros_like(like).scatter(dim, safe, 1.0)
    weighted = onehot if wide is None else onehot * wide
    total = (weighted.sum(dim, keepdim=True) * counts.unsqueeze(dim)).sum()
    if smoothing:
        even = torch.full_like(like, smoothing / classes)
        weighted = weighted * (1 - smoothing) + (even if wide is None else even * wide)
    return weighted * counts.unsqueeze(dim), total


def cross_entropy(grad, self, target, weight, reduction, ignore_index, label_smoothing):
    """softmax(z)·Σt − t: prediction minus target."""
    dim = 1 if self.ndim > 1 else 0
    soft, total = soft_targets(self, target, weight, ignore_index, label_smoothing)
    slope = torch.softmax(self, dim) * soft.sum(dim, keepdim=True) - soft
    return (share(grad, reduction, total) if reduction else grad.unsqueeze(dim)) * slope


def cross_entropy_target(grad, self, target, weight, reduction, label_smoothing):
    """−ln p for targets given as probabilities."""
    dim = 1 if self.ndim > 1 else 0
    slope = -torch.log_softmax(self, dim) * (1 - label_smoothing)
    if weight is not None:
        slope = slope * weight.reshape([-1 if axis == dim else 1 for axis in range(self.ndim)])
    total = self.numel() // self.shape[dim]
    return (share(grad, reduction, total) if reduction else grad.unsqueeze(dim)) * slope


row("cross_entropy_loss", self=cross_entropy, target=cross_entropy_target)


def negative_log_likelihood(grad, self, target, weight, reduction, ignore_index):
    """−1 (times the class's weight) at the class."""
    dim = 1 if self.ndim > 1 else 0
    soft, total = soft_targets(self, target, weight, ignore_index, 0.0)
    return (share(grad, reduction, total) if reduction else grad.unsqueeze(dim)) * -soft


row("nll_loss", "nll_loss2d", "nll_loss_nd", self=negative_log_likelihood)
row(
    "nll_loss_forward",
    "nll_loss2d_forward",
    self=lambda grad, self, target, weight, reduction, ignore_index: negative_log_likelihood(
        grad[0], self, target, weight, reduction, ignore_index
    ),
)
