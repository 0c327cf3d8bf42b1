"""Preprocessing fitted on training data (centre, scale, decorrelate, whiten), as modules to put before the model."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.data.dataset import Dataset
from cutaway.errors import ArgumentError, nearest


class Project(nn.Module):
    """Subtract a mean and multiply by a matrix; both are buffers, saved with the model.

    Args:
        mean: of the flattened inputs, `(D,)`.
        matrix: `(K, D)`; the output has the input's shape when K = D, else `(N, K)`.

    >>> Project(torch.ones(2), torch.eye(2))(torch.tensor([[3.0, 1.0]]))
    tensor([[2., 0.]])
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, mean: Float[Tensor, "d"], matrix: Float[Tensor, "k d"]) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("matrix", matrix)

    def forward(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        y = (x.flatten(1) - self.mean) @ self.matrix.T  # (N, K)
        return y.reshape(x.shape) if self.matrix.shape[0] == self.matrix.shape[1] else y

    def extra_repr(self) -> str:
        return f"{self.matrix.shape[1]}, {self.matrix.shape[0]}"


class Standardize(nn.Module):
    """Subtract a mean and divide by a standard deviation, feature by feature; both are buffers.

    Args:
        mean, std: shaped like one example, `(1, C, H, W)` or `(1, D)`.

    >>> Standardize(torch.ones(1, 2), torch.full((1, 2), 2.0))(torch.tensor([[3.0, 1.0]]))
    tensor([[1., 0.]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        return (x - self.mean) / self.std


def moments(data: Dataset) -> tuple[Float[Tensor, "d"], Float[Tensor, "d d"]]:
    """Mean `(D,)` and covariance `(D, D)` of the flattened examples, in double precision."""
    if len(data) == 0:
        raise ArgumentError(f"{data.name} is empty; moments need at least one example")
    size = data.x[0].numel()
    mean = torch.zeros(size, dtype=torch.float64)
    for chunk in data.x.detach().cpu().split(4096):
        mean += chunk.flatten(1).double().sum(0) / len(data)
    covariance = torch.zeros(size, size, dtype=torch.float64)
    for chunk in data.x.detach().cpu().split(4096):
        centered = chunk.flatten(1).double() - mean  # (n, D)
        covariance += centered.T @ centered / len(data)
    return mean, covariance


def _center(data: Dataset, _: int | None, __: float) -> nn.Module:
    mean = data.x.mean(0, keepdim=True)
    return Standardize(mean, torch.ones_like(mean))


def _scale(data: Dataset, _: int | None, epsilon: float) -> nn.Module:
    variance, mean = torch.var_mean(data.x, 0, correction=0, keepdim=True)
    return Standardize(mean, (variance + epsilon).sqrt())


def _rotation(data: Dataset, components: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, eigenvalues (descending) and eigenvectors `(K, D)` of the covariance."""
    mean, covariance = moments(data)
    size = len(mean)
    kept = size if components is None else components
    if not 1 <= kept <= size:
        raise ArgumentError(f"components={components}: expected a number from 1 to {size}")
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0)[:kept].clamp(min=0), vectors.flip(1).T[:kept]
    sign = torch.sign(vectors.gather(1, vectors.abs().argmax(1, keepdim=True)))  # makes the answer unique
    return mean, values, vectors * sign


def _decorrelate(data: Dataset, components: int | None, _: float) -> nn.Module:
    mean, _values, vectors = _rotation(data, components)
    return Project(mean.to(data.x.dtype), vectors.to(data.x.dtype))


def _whiten(data: Dataset, components: int | None, epsilon: float) -> nn.Module:
    mean, values, vectors = _rotation(data, components)
    return Project(mean.to(data.x.dtype), (vectors / (values + epsilon).sqrt()[:, None]).to(data.x.dtype))


def _zca(data: Dataset, components: int | None, epsilon: float) -> nn.Module:
    mean, values, vectors = _rotation(data, components)
    matrix = vectors.T @ (vectors / (values + epsilon).sqrt()[:, None])  # rotated back: whitened pixels
    return Project(mean.to(data.x.dtype), matrix.to(data.x.dtype))


PREPROCESSING: dict[str, Callable[[Dataset, int | None, float], nn.Module]] = {
    "center": _center,
    "scale": _scale,
    "decorrelate": _decorrelate,
    "whiten": _whiten,
    "zca": _zca,
}


def fit_preprocessing(train: Dataset, name: str, components: int | None = None, epsilon: float = 1e-5) -> nn.Module:
    """Fit preprocessing on training data, as a module to put before the model: `nn.Sequential(module, model)`.

    Args:
        train: training data; never validation or test data.
        name: "center" (subtract the mean), "scale" (and divide by the standard deviation, feature by feature),
            "decorrelate" (rotate onto the principal axes), "whiten" (and scale these to variance 1) or "zca"
            (whiten and rotate back, which keeps images looking like images).
        components: principal axes to keep, all by default; not for "center" and "scale".
        epsilon: added to variances before dividing.

    Raises:
        LookupFailure: for an unknown name; ArgumentError for components out of range or an empty set.

    Source: LeCun, Bottou, Orr, Müller, "Efficient backprop", 1998, section 4.3; zca: Bell, Sejnowski, "The independent
    components of natural scenes are edge filters", 1997.

    >>> data = Dataset(torch.tensor([[0.0, 0.0], [2.0, 2.0]]), torch.tensor([0, 1]), ("a", "b"))
    >>> fit_preprocessing(data, "decorrelate")(data.x).round(decimals=3).tolist()
    [[-1.4140000343322754, 0.0], [1.4140000343322754, 0.0]]
    """
    if name not in PREPROCESSING:
        raise nearest(name, PREPROCESSING, "preprocessing")
    if len(train) == 0:
        raise ArgumentError(f"{train.name} is empty; preprocessing is fitted on at least one example")
    return PREPROCESSING[name](train, components, epsilon)
