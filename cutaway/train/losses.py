"""Losses: functions of `(outputs, targets)` to one value per example; the loop averages them."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from cutaway.errors import ArgumentError, nearest

Loss = Callable[..., Tensor]


def cross_entropy(
    outputs: Float[Tensor, "n k *d"],
    targets: Int[Tensor, "n *d"],
    label_smoothing: float = 0.0,
    class_weights: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, " n"]:
    """Negative log-likelihood of the target class under the softmax of the logits.

    Args:
        outputs: logits, `(N, K)`, or `(N, K, …)` for several predictions per example.
        targets: class indices `(N,)` or `(N, …)`.
        label_smoothing: share of the target's probability spread evenly over all classes, in [0, 1).
        class_weights: factor of each class's loss, `(K,)`.

    Source: Goodfellow, Bengio, Courville, Deep Learning, 2016, section 6.2.2; smoothing: Szegedy et al.,
    Rethinking the Inception Architecture, 2016, section 7.

    >>> cross_entropy(torch.zeros(1, 10), torch.tensor([3])).exp().round()
    tensor([10.])
    """
    scores = -F.log_softmax(outputs, 1)  # (N, K, …)
    if class_weights is not None:
        scores = scores * class_weights.to(outputs).reshape(-1, *[1] * (outputs.dim() - 2))
    values = scores.gather(1, targets.unsqueeze(1)).squeeze(1)  # (N, …)
    if label_smoothing:
        values = (1 - label_smoothing) * values + label_smoothing * scores.mean(1)
    return values.flatten(1).mean(1) if values.dim() > 1 else values


def squared_error(outputs: Float[Tensor, "n *d"], targets: Tensor) -> Float[Tensor, " n"]:
    """Mean squared difference of outputs and targets; class indices are compared as one-hot vectors.

    Args:
        outputs: predictions `(N, …)`.
        targets: values shaped like the outputs, or class indices `(N,)`.

    Source: Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, 2009, section 2.4.

    >>> squared_error(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 1.0]]))
    tensor([2.5000])
    """
    return (outputs - _like(outputs, targets)).square().flatten(1).mean(1)


def absolute_error(outputs: Float[Tensor, "n *d"], targets: Tensor) -> Float[Tensor, " n"]:
    """Mean absolute difference of outputs and targets.

    >>> absolute_error(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 1.0]]))
    tensor([1.5000])
    """
    return (outputs - _like(outputs, targets)).abs().flatten(1).mean(1)


def binary_cross_entropy(outputs: Float[Tensor, "n *d"], targets: Tensor) -> Float[Tensor, " n"]:
    """−t·log σ(z) − (1 − t)·log(1 − σ(z)) of logits z and targets t in [0, 1], averaged over the outputs.

    Source: Bishop, Pattern Recognition and Machine Learning, 2006, equation 4.90.

    >>> binary_cross_entropy(torch.zeros(1, 1), torch.ones(1, 1)).exp()
    tensor([2.])
    """
    wanted = targets.to(outputs.dtype).reshape(outputs.shape)
    return F.binary_cross_entropy_with_logits(outputs, wanted, reduction="none").flatten(1).mean(1)


def hinge(outputs: Float[Tensor, "n k"], targets: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Sum over the wrong classes of max(0, 1 + z_wrong − z_right).

    Source: Weston and Watkins, Multi-class support vector machines, 1998.

    >>> hinge(torch.tensor([[2.0, 0.5, 1.5]]), torch.tensor([0]))
    tensor([0.5000])
    """
    right = outputs.gather(1, targets[:, None])  # (N, 1)
    return (1 + outputs - right).clamp_min(0).sum(1) - 1  # the right class itself always counts 1


def _like(outputs: Tensor, targets: Tensor) -> Tensor:
    """Turn class indices into one-hot vectors where the outputs are vectors of classes."""
    if targets.dim() == 1 and not targets.is_floating_point() and outputs.dim() == 2 and outputs.shape[1] > 1:
        classes = torch.arange(outputs.shape[1], device=outputs.device)
        return (targets.unsqueeze(1) == classes).to(outputs.dtype)  # (N, K); F.one_hot looks at the values
    return targets.to(outputs.dtype).reshape(outputs.shape)


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "squared_error": squared_error,
    "absolute_error": absolute_error,
    "binary_cross_entropy": binary_cross_entropy,
    "hinge": hinge,
}


def loss_function(
    loss: str | Loss, label_smoothing: float = 0.0, class_weights: Tensor | list[float] | None = None
) -> Loss:
    """Find a loss by name, or take a function, with smoothing and class weights filled in.

    Args:
        loss: a name of `LOSSES`, or any `(outputs, targets) -> (N,) or scalar`.
        label_smoothing: only for `cross_entropy`.
        class_weights: only for `cross_entropy`.

    >>> loss_function("squared_error") is squared_error
    True
    """
    if isinstance(loss, str) and loss not in LOSSES:
        raise nearest(loss, LOSSES, "loss")
    found = LOSSES[loss] if isinstance(loss, str) else loss
    if not callable(found):
        raise ArgumentError(f"loss={loss!r} is neither a name nor a function; names: {', '.join(LOSSES)}")
    if not label_smoothing and class_weights is None:
        return found
    if found is not cross_entropy:
        raise ArgumentError(f"label_smoothing and class_weights belong to 'cross_entropy', not to loss={loss!r}")
    if not 0 <= label_smoothing < 1:
        raise ArgumentError(f"label_smoothing={label_smoothing} is outside [0, 1); 0.1 is usual")
    weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.get_default_dtype())
    return partial(cross_entropy, label_smoothing=label_smoothing, class_weights=weights)
