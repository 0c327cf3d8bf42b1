"""How alike two maps are: rank correlation and structural similarity, one number for each example."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cutaway.errors import ArgumentError


def magnitude(values: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
    """Reduce a map to how strongly each place counts: absolute values, summed over channels.

    Args:
        values: a map (N, C, H, W) or (N, C, L), or one without channels (N, F).

    Returns:
        (N, H, W), (N, L) or (N, F), nowhere negative.

    >>> import torch
    >>> magnitude(torch.tensor([[[[-2.0]], [[1.0]]]]))
    tensor([[[3.]]])
    """
    return values.abs().sum(1) if values.dim() > 2 else values.abs()


def ranks(values: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """Rank each row from 1 to M; equal values share the mean of their ranks.

    >>> import torch
    >>> ranks(torch.tensor([[0.5, 0.1, 0.5]]))
    tensor([[2.5000, 1.0000, 2.5000]], dtype=torch.float64)
    """
    values = values.contiguous()
    order = values.sort(dim=1).values
    below = torch.searchsorted(order, values)  # how many are smaller
    upto = torch.searchsorted(order, values, right=True)  # how many are smaller or equal
    return (below + upto + 1).double() / 2


def rank_correlation(a: Float[Tensor, "n ..."], b: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """Correlate two maps by ranks (Spearman), example by example.

    A constant map has no order: its correlation is 0 with any other map and 1 with another constant one.

    Args:
        a, b: maps of one shape (N, …).

    Raises:
        ArgumentError: the shapes differ.

    Source: C. Spearman, The Proof and Measurement of Association between Two Things, 1904.

    >>> import torch
    >>> a = torch.tensor([[1.0, 2.0, 3.0]])
    >>> rank_correlation(a, a**3).round(decimals=6), rank_correlation(a, -a).round(decimals=6)
    (tensor([1.], dtype=torch.float64), tensor([-1.], dtype=torch.float64))
    """
    first, second = (ranks(flat) - (flat.shape[1] + 1) / 2 for flat in _flattened(a, b))
    covariance = (first * second).sum(1)
    norms = first.norm(dim=1) * second.norm(dim=1)
    both_constant = (first == 0).all(1) & (second == 0).all(1)
    correlation = torch.where(norms > 0, covariance / norms.clamp(min=1e-300), 0.0)
    return torch.where(both_constant, 1.0, correlation).clamp(-1, 1)


def ssim(
    a: Float[Tensor, "n h w"], b: Float[Tensor, "n h w"], *, window: int = 11, sigma: float = 1.5
) -> Float[Tensor, " n"]:
    """Compare two maps by structural similarity, example by example, after dividing each by its largest magnitude.

    Args:
        a, b: maps of one shape (N, H, W).
        window: side of the Gaussian window in pixels; maps smaller than it are compared with the largest odd window
            that fits.
        sigma: the window's standard deviation in pixels.

    Returns:
        (N,), 1 for maps that are equal up to a positive factor, around 0 for unrelated ones.

    Raises:
        ArgumentError: the shapes differ or are not (N, H, W).

    Source: Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, Image Quality Assessment: From Error Visibility to
    Structural Similarity, 2004, eq. 13 (K1 = 0.01, K2 = 0.03, dynamic range 1).

    >>> import torch
    >>> a = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> round(ssim(a, 2 * a).item(), 6)
    1.0
    """
    _flattened(a, b)
    if a.dim() != 3:
        raise ArgumentError(f"structural similarity compares maps (N, H, W), got shape {tuple(a.shape)}")
    side = min(window, *a.shape[1:])
    kernel = _gaussian(side - (side % 2 == 0), sigma)
    first, second = (_unit(x.cpu().double())[:, None] for x in (a, b))  # (N, 1, H, W)

    def mean(x: Tensor) -> Tensor:
        return F.conv2d(x, kernel)

    mu_a, mu_b = mean(first), mean(second)
    var_a, var_b = mean(first**2) - mu_a**2, mean(second**2) - mu_b**2
    covariance = mean(first * second) - mu_a * mu_b
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mu_a * mu_b + c1) * (2 * covariance + c2)
    similarity = similarity / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2))
    return similarity.flatten(1).mean(1)


def _gaussian(side: int, sigma: float) -> Float[Tensor, "1 1 k k"]:
    """A Gaussian window with sum 1."""
    offsets = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    line = torch.exp(-(offsets**2) / (2 * sigma**2))
    return (line[:, None] * line / line.sum() ** 2)[None, None]


def _unit(x: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """Divide each map by its largest magnitude; a map of zeros stays as it is."""
    largest = x.abs().amax(dim=(1, 2), keepdim=True)
    return x / torch.where(largest > 0, largest, 1)


def _flattened(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.shape != b.shape or a.dim() < 2:
        raise ArgumentError(
            f"two maps of one shape (N, …) can be compared, got shapes {tuple(a.shape)} and {tuple(b.shape)}"
        )
    return a.cpu().flatten(1), b.cpu().flatten(1)  # some devices know no float64
