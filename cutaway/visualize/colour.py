"""Colours and spectra of natural images, or of the user's own."""

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import ArgumentError

# Square root of the covariance of ImageNet's colours, see the source below; columns are independent colours.
IMAGENET = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))


def colour_matrix(x: Float[Tensor, "n 3 h w"] | None = None) -> Float[Tensor, "3 3"]:
    """The matrix that turns independent colours into those of images: a square root of their covariance.

    Args:
        x: images to measure; None for ImageNet's.

    Returns:
        (3, 3), divided by the largest norm of its columns.

    Raises:
        ArgumentError: the images have no three channels.

    Source: C. Olah, A. Mordvintsev, L. Schubert, Feature Visualization, 2017, "Preconditioning and Parameterization".

    >>> round(float(colour_matrix().norm(dim=0).max()), 6)
    1.0
    """
    if x is None:
        root = torch.tensor(IMAGENET)
    else:
        if x.dim() != 4 or x.shape[1] != 3:
            raise ArgumentError(f"colours are measured on images (N, 3, H, W), got shape {tuple(x.shape)}")
        pixels = x.detach().cpu().double().transpose(0, 1).flatten(1)  # (3, N·H·W)
        values, vectors = torch.linalg.eigh(pixels.cov())
        root = (vectors * values.clamp(min=0).sqrt()).flip(1).float()  # strongest first
    return root / root.norm(dim=0).max().clamp(min=1e-8)


def spectrum(x: Float[Tensor, "n c ..."]) -> Float[Tensor, "c ..."]:
    """The mean magnitude of images' Fourier coefficients, for `MACO`.

    Args:
        x: images (N, C, H, W) of the size to be made.

    Returns:
        (C, H, W // 2 + 1), of the orthonormal transform, without the mean (0 there).

    Source: T. Fel et al., Unlocking Feature Visualization for Deeper Networks with MAgnitude Constrained Optimization,
    2023, section 3.

    >>> spectrum(torch.rand(2, 3, 8, 8)).shape
    torch.Size([3, 8, 5])
    """
    axes = tuple(range(2, x.dim()))
    found = torch.fft.rfftn(x.detach() - x.detach().mean(axes, keepdim=True), dim=axes, norm="ortho")
    return found.abs().mean(0)


def frequencies(size: tuple[int, ...]) -> Float[Tensor, "..."]:
    """The size of each frequency of a real Fourier transform, in cycles per pixel.

    >>> frequencies((4,)).tolist()
    [0.0, 0.25, 0.5]
    """
    lines = [torch.fft.fftfreq(side) for side in size[:-1]] + [torch.fft.rfftfreq(size[-1])]
    grids = torch.meshgrid(*lines, indexing="ij")
    return torch.stack([grid.square() for grid in grids]).sum(0).sqrt()


def natural(size: tuple[int, ...], decay: float = 1.0) -> Float[Tensor, "..."]:
    """The 1/f spectrum of natural images, with the mean counted as the lowest frequency."""
    return 1 / frequencies(size).clamp(min=1 / max(size)) ** decay
