"""JPEG compression as a differentiable function: the standard's arithmetic, with rounding passed straight through."""

from math import cos, pi

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

# The standard's example tables for brightness and colour, annex K, rows of growing vertical frequency.
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *(((99,) * 8,) * 4),
)
TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))
COSINES = [[cos((2 * x + 1) * u * pi / 16) * (0.5 if u else 0.125**0.5) for x in range(8)] for u in range(8)]


def rounded(x: Tensor) -> Tensor:
    """Whole numbers, with the gradient of the identity.

    Source: Bengio, Léonard, Courville, "Estimating or propagating gradients through stochastic neurons", 2013,
    section 5 (the straight-through estimator).
    """
    return x + (x.round() - x).detach()


def steps(table: tuple[tuple[int, ...], ...], quality: Float[Tensor, "n"]) -> Float[Tensor, "n 8 8"]:
    """The table of quantisation steps at each quality, as libjpeg scales it.

    >>> steps(LUMINANCE, torch.tensor([50.0, 100.0]))[:, 0, 0].tolist()
    [16.0, 1.0]
    """
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality).floor().reshape(-1, 1, 1)
    return ((quality.new_tensor(table) * scale + 50) / 100).floor().clamp(1, 255)


def coded(plane: Float[Tensor, "n h w"], step: Float[Tensor, "n 8 8"]) -> Float[Tensor, "n h w"]:
    """A plane whose sides are multiples of 8, in 0 … 255, after cosine transform, quantisation and back."""
    height, width = plane.shape[1:]
    blocks = (plane - 128).reshape(-1, height // 8, 8, width // 8, 8).transpose(2, 3)  # (N, H/8, W/8, 8, 8)
    basis = plane.new_tensor(COSINES)
    quantum = step[:, None, None]
    whole = rounded(basis @ blocks @ basis.T / quantum) * quantum
    back = (basis.T @ whole @ basis).transpose(2, 3).reshape(-1, height, width)
    return rounded(back + 128).clamp(0, 255)


def jpeg(x: Float[Tensor, "n c h w"], quality: Float[Tensor, "n"]) -> Float[Tensor, "n c h w"]:
    """What is left of images after JPEG compression, colour at half the resolution (4:2:0) as libjpeg does it.

    Args:
        x: images (N, 3, H, W) or grey (N, 1, H, W) in [0, 1].
        quality: of each image, 1 … 100.

    Source: ITU-T T.81, "Digital compression and coding of continuous-tone still images", 1992, annexes A and K; its
    gradient: Shin, Song, "JPEG-resistant adversarial images", 2017, with `rounded` for their cubic.

    >>> jpeg(torch.full((1, 3, 8, 8), 0.5), torch.tensor([75.0])).mul(255).unique().tolist()
    [128.0]
    """
    height, width = x.shape[2:]
    sides = (-width % 16, -height % 16)
    byte = rounded(F.pad(255 * x, (0, sides[0], 0, sides[1]), mode="replicate"))
    fine = steps(LUMINANCE, quality)
    if x.shape[1] == 1:
        return coded(byte[:, 0], fine)[:, None, :height, :width] / 255
    planes = (
        torch.einsum("kc,nchw->nkhw", byte.new_tensor(TO_YCC), byte) + byte.new_tensor((0, 128, 128))[:, None, None]
    )
    bright = coded(rounded(planes[:, 0]), fine)
    small = rounded(F.avg_pool2d(rounded(planes[:, 1:]), 2))  # (N, 2, H/2, W/2)
    coarse = steps(CHROMINANCE, quality)
    colour = torch.stack([coded(small[:, k], coarse) for k in range(2)], 1)
    colour = rounded(F.interpolate(colour, scale_factor=2.0, mode="bilinear", align_corners=False)) - 128
    back = torch.einsum("ck,nkhw->nchw", byte.new_tensor(TO_RGB), torch.cat([bright[:, None], colour], 1))
    return rounded(back).clamp(0, 255)[..., :height, :width] / 255
