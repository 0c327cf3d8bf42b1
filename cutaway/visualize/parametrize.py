"""How an image is made of what the optimiser changes: its pixels, its Fourier coefficients, or their phases alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import ArgumentError, nearest
from cutaway.visualize.colour import colour_matrix, natural

MARGIN = 0.01  # an image to start from keeps this far from black and white, where the sigmoid is flat


@dataclass(frozen=True, eq=False)
class Canvas:
    """An image in the making.

    Attributes:
        parameters: what the optimiser changes.
        image: makes the image (N, C, …) in [0, 1] of them, differentiably.
    """

    parameters: list[Tensor]
    image: Callable[[], Tensor]


@dataclass(frozen=True)
class Pixels:
    """The pixels themselves, through a sigmoid.

    Attributes:
        sd: of the noise to start from.
        lr: the learning rate that suits it.

    >>> Pixels().canvas((1, 3, 8, 8), torch.Generator()).image().shape
    torch.Size([1, 3, 8, 8])
    """

    sd: float = 0.05
    lr: float = 0.05

    def canvas(self, shape: tuple[int, ...], random: torch.Generator, image: Tensor | None = None) -> Canvas:
        """Start from noise, or from an image."""
        start = torch.randn(shape, generator=random) * self.sd if image is None else _logits(image, shape)
        start.requires_grad_()
        return Canvas([start], lambda: start.sigmoid())


@dataclass(frozen=True, eq=False)
class Fourier:
    """Fourier coefficients scaled like those of natural images, in independent colours.

    Steps of one size then change all frequencies and colours alike, which keeps the image from turning into the high
    frequencies that gradients are full of.

    Attributes:
        sd: of the coefficients to start from.
        decay: power of 1/f that they are scaled by.
        colours: the matrix (3, 3) of `colour_matrix`; None for ImageNet's.
        lr: the learning rate that suits it.

    Source: C. Olah, A. Mordvintsev, L. Schubert, Feature Visualization, 2017, "Preconditioning and Parameterization".

    >>> Fourier().canvas((1, 3, 8, 8), torch.Generator()).image().shape
    torch.Size([1, 3, 8, 8])
    """

    sd: float = 0.01
    decay: float = 1.0
    colours: Float[Tensor, "3 3"] | None = None
    lr: float = 0.05

    def canvas(self, shape: tuple[int, ...], random: torch.Generator, image: Tensor | None = None) -> Canvas:
        """Start from noise, or from an image."""
        size, axes = shape[2:], tuple(range(2, len(shape)))
        scale = natural(size, self.decay)  # (H, W // 2 + 1)
        if image is None:
            start = torch.randn(*shape[:2], *scale.shape, 2, generator=random) * self.sd
        else:
            plain = _colours(_logits(image, shape), self.colours, back=True) * 4
            start = torch.view_as_real(torch.fft.rfftn(plain, dim=axes, norm="ortho") / scale)
        start = start.contiguous().requires_grad_()

        def made() -> Tensor:
            coefficients = torch.view_as_complex(start) * scale
            plain = torch.fft.irfftn(coefficients, s=size, dim=axes, norm="ortho") / 4
            return _colours(plain, self.colours).sigmoid()

        return Canvas([start], made)


@dataclass(frozen=True, eq=False)
class MACO:
    """The phases of Fourier coefficients, with magnitudes that are those of natural images and stay.

    Attributes:
        magnitude: (C, H, W // 2 + 1), as `spectrum` measures it; None for 1/f.
        colours: the matrix (3, 3) of `colour_matrix`; None for ImageNet's.
        lr: the learning rate that suits it.

    Source: T. Fel et al., Unlocking Feature Visualization for Deeper Networks with MAgnitude Constrained Optimization,
    2023, section 3.

    >>> MACO().canvas((1, 3, 8, 8), torch.Generator()).image().shape
    torch.Size([1, 3, 8, 8])
    """

    magnitude: Float[Tensor, "c ..."] | None = None
    colours: Float[Tensor, "3 3"] | None = None
    lr: float = 0.2

    def canvas(self, shape: tuple[int, ...], random: torch.Generator, image: Tensor | None = None) -> Canvas:
        """Start from random phases, or from those of an image."""
        size, axes = shape[2:], tuple(range(2, len(shape)))
        magnitude = natural(size) if self.magnitude is None else self.magnitude.detach().cpu().float()
        wanted = natural(size).shape
        if magnitude.shape[-len(size) :] != wanted:
            raise ArgumentError(
                f"a spectrum (C, {', '.join(map(str, wanted))}) is needed, got {tuple(magnitude.shape)}"
            )
        magnitude = magnitude.clone()
        magnitude[(..., *(0 for _ in size))] = 0  # the mean
        if image is None:
            phase = (torch.rand(*shape[:2], *wanted, generator=random) * 2 - 1) * torch.pi
        else:
            plain = _colours(_logits(image, shape), self.colours, back=True)
            phase = torch.fft.rfftn(plain, dim=axes, norm="ortho").angle()
        phase.requires_grad_()

        def made() -> Tensor:
            plain = torch.fft.irfftn(torch.polar(magnitude.expand_as(phase), phase), s=size, dim=axes, norm="ortho")
            own = plain - plain.mean(axes, keepdim=True)
            own = own / own.flatten(1).std(1).clamp(min=1e-4).reshape(-1, *[1] * (own.dim() - 1))
            return _colours(own, self.colours).sigmoid()

        return Canvas([phase], made)


Parametrization = Pixels | Fourier | MACO
PARAMETRIZATIONS: dict[str, Parametrization] = {"pixels": Pixels(), "fourier": Fourier(), "maco": MACO()}


def parametrization_of(asked: "str | Parametrization") -> Parametrization:
    """A parametrisation by name, or as it is."""
    if not isinstance(asked, str):
        return asked
    if asked not in PARAMETRIZATIONS:
        raise nearest(asked, PARAMETRIZATIONS, "parametrisation")
    return PARAMETRIZATIONS[asked]


def _logits(image: Tensor, shape: tuple[int, ...]) -> Tensor:
    if image.shape[1:] != shape[1:]:
        raise ArgumentError(f"the image to start from has shape {tuple(image.shape)}, expected {shape}")
    return image.detach().cpu().float().clamp(MARGIN, 1 - MARGIN).logit().expand(shape).clone()


def _colours(x: Tensor, matrix: Tensor | None, back: bool = False) -> Tensor:
    """From independent colours to RGB, or back; other numbers of channels stay as they are."""
    if x.shape[1] != 3:
        return x
    matrix = (colour_matrix() if matrix is None else matrix).to(x)
    matrix = torch.linalg.inv(matrix) if back else matrix
    return torch.einsum("ij,nj...->ni...", matrix, x)
