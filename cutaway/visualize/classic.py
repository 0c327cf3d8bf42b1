"""Convolution as feature extraction by hand: smoothing, denoising, matching patterns, edges and lines."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cutaway.errors import ArgumentError, nearest
from cutaway.saving import save_arrays
from cutaway.visualize import picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("gaussian", "uniform")
ANGLES = (0.0, 45.0, 90.0, 135.0)


def smooth(x: Float[Tensor, "n c ..."], width: float = 1.0, kind: str = "gaussian") -> Float[Tensor, "n c ..."]:
    """Smooth signals or images; beyond the edge they are mirrored.

    Args:
        x: (N, C, L) or (N, C, H, W).
        width: the Gaussian's standard deviation in pixels, above 0, or the side of the uniform window, odd.
        kind: "gaussian" or "uniform" (the mean over the window).

    Raises:
        ArgumentError: the width is out of range, or x has no such shape.
        LookupFailure: the kind is unknown.

    >>> smooth(torch.tensor([[[0.0, 3.0, 0.0, 0.0, 0.0]]]), 3, "uniform")
    tensor([[[2., 1., 1., 0., 0.]]])
    """
    if kind not in KINDS:
        raise nearest(kind, KINDS, "kind of smoothing")
    _axes(x)
    if width <= 0 or (kind == "uniform" and (width % 2 != 1)):
        raise ArgumentError(f"width={width}: expected a standard deviation above 0, or an odd number of pixels")
    line = torch.ones(int(width)) / int(width) if kind == "uniform" else gaussian(width)
    for axis in range(2, x.dim()):
        x = _along(x, line.to(x), axis)
    return x


def denoise(x: Float[Tensor, "n c ..."], width: int = 3) -> Float[Tensor, "n c ..."]:
    """Replace each value by the median of its neighbourhood: single wrong values go, edges stay.

    Args:
        x: (N, C, L) or (N, C, H, W).
        width: side of the neighbourhood in pixels, odd.

    Source: J. W. Tukey, Exploratory Data Analysis, 1977, chapter 7 (running medians).

    >>> denoise(torch.tensor([[[0.0, 0.0, 9.0, 0.0, 1.0, 1.0]]]))
    tensor([[[0., 0., 0., 1., 1., 1.]]])
    """
    axes = _axes(x)
    if width < 1 or width % 2 == 0:
        raise ArgumentError(f"width={width}: expected an odd number of pixels")
    padded = F.pad(x, [width // 2] * (2 * axes), mode="reflect")
    for axis in range(2, x.dim()):
        padded = padded.unfold(axis, width, 1)
    return padded.flatten(x.dim()).median(-1).values


def match(x: Float[Tensor, "n c ..."], pattern: Float[Tensor, "c ..."]) -> Float[Tensor, "n 1 ..."]:
    """Compare a pattern with every place, by the correlation of the values: 1 where it is there up to brightness.

    Args:
        x: (N, C, L) or (N, C, H, W); colours count, not only brightness.
        pattern: (C, l) or (C, h, w), not constant.

    Returns:
        correlations in [−1, 1] for every place where the pattern fits, (N, 1, L − l + 1) or
        (N, 1, H − h + 1, W − w + 1); 0 where x is constant.

    Source: J. P. Lewis, Fast Normalized Cross-Correlation, 1995, eq. 2.

    >>> x = torch.tensor([[[0.0, 0.0, 1.0, 2.0, 0.0, 0.0]]])
    >>> int(match(x, torch.tensor([[1.0, 2.0, 0.0]])).argmax())
    2
    """
    axes = _axes(x)
    if pattern.dim() != axes + 1 or len(pattern) != x.shape[1]:
        raise ArgumentError(f"a pattern of shape {tuple(pattern.shape)} does not fit {tuple(x.shape)}; expected (C, …)")
    if any(small > side for small, side in zip(pattern.shape[1:], x.shape[2:], strict=True)):
        raise ArgumentError(f"a pattern of {tuple(pattern.shape[1:])} is larger than {tuple(x.shape[2:])}")
    centered = (pattern - pattern.mean()).to(x)
    norm = centered.norm()
    if float(norm) < 1e-8:
        raise ArgumentError("a constant pattern is found everywhere: give one with differences")
    convolve = F.conv1d if axes == 1 else F.conv2d
    ones, count = torch.ones_like(centered)[None], centered.numel()
    products = convolve(x, centered[None])
    mean = convolve(x, ones) / count
    square = (convolve(x.square(), ones) - count * mean.square()).clamp(min=0)
    return torch.where(square > 1e-6, products / (norm * square.sqrt().clamp(min=1e-6)), 0.0).clamp(-1, 1)


def edges(x: Float[Tensor, "n c ..."], angle: float = 0.0, width: float = 1.0) -> Float[Tensor, "n c ..."]:
    """The slope of the smoothed brightness in one direction: strong where an edge lies across it.

    Args:
        x: (N, C, L) or (N, C, H, W).
        angle: of the direction in degrees, counter-clockwise from the right: 0 finds vertical edges that brighten to
            the right, 90 horizontal ones that brighten upwards. Any angle is a mixture of these two. For signals 0 or
            180.
        width: standard deviation of the Gaussian, in pixels.

    Source: W. T. Freeman, E. H. Adelson, The Design and Use of Steerable Filters, 1991, section II.

    >>> ramp = torch.arange(9.0).reshape(1, 1, 1, 9).expand(1, 1, 9, 9)
    >>> round(float(edges(ramp, 60.0)[0, 0, 4, 4]), 4)
    0.5
    """
    axes = _axes(x)
    slope = -slopes(width).to(x)
    if axes == 1:
        return _along(x, slope, 2) * math.cos(math.radians(angle))
    line = gaussian(width).to(x)
    across = _along(_along(x, slope, 3), line, 2)
    upward = -_along(_along(x, slope, 2), line, 3)  # rows count downwards
    return math.cos(math.radians(angle)) * across + math.sin(math.radians(angle)) * upward


def sobel(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """The strength of edges of any direction, by Sobel's two kernels.

    Source: R. O. Duda, P. E. Hart, Pattern Classification and Scene Analysis, 1973, page 271.

    >>> sobel(torch.arange(5.0).reshape(1, 1, 1, 5).expand(1, 1, 5, 5))[0, 0, 2, 2]
    tensor(8.)
    """
    if _axes(x) != 2:
        raise ArgumentError(f"Sobel's kernels are for images (N, C, H, W), got shape {tuple(x.shape)}")
    rise, hat = torch.tensor([-1.0, 0.0, 1.0]).to(x), torch.tensor([1.0, 2.0, 1.0]).to(x)
    across, down = _along(_along(x, rise, 3), hat, 2), _along(_along(x, rise, 2), hat, 3)
    return (across.square() + down.square()).sqrt()


def lines(x: Float[Tensor, "n c h w"], length: int = 15, vertical: bool = True) -> Float[Tensor, "n 1 h w"]:
    """Long straight lines: edges, and then what of them goes on over many pixels in one direction.

    Args:
        x: (N, C, H, W).
        length: of the line in pixels, odd.
        vertical: lines that go up, otherwise those that go across.

    Returns:
        the median strength over a line, so that a few edges in a row are none.

    >>> x = torch.zeros(1, 1, 21, 21)
    >>> x[..., 10:] = 1
    >>> found = lines(x, 9)
    >>> bool(found[0, 0, 10, 9:11].min() > 0.3), float(found[0, 0, 10, 3])
    (True, 0.0)
    """
    if length < 1 or length % 2 == 0 or _axes(x) != 2:
        raise ArgumentError(f"length={length}, x of shape {tuple(x.shape)}: expected an odd length, and (N, C, H, W)")
    strong = edges(x.mean(1, keepdim=True), 0.0 if vertical else 90.0).abs()
    axis = 2 if vertical else 3
    pad = [0, 0, length // 2, length // 2] if vertical else [length // 2, length // 2, 0, 0]
    return F.pad(strong, pad).unfold(axis, length, 1).median(-1).values


def city(x: Float[Tensor, "n c h w"], length: int = 15) -> Float[Tensor, " n"]:
    """How much of an image's edges are long vertical lines: high for a city, low for a landscape.

    Args:
        x: (N, C, H, W).
        length: as for `lines`.

    >>> x = torch.zeros(1, 1, 31, 31)
    >>> x[..., 10:20] = 1
    >>> bool(city(x) > 3 * city(x.mT))
    True
    """
    every = edges(x.mean(1, keepdim=True), 0.0).square() + edges(x.mean(1, keepdim=True), 90.0).square()
    return lines(x, length).square().flatten(1).sum(1) / every.flatten(1).sum(1).clamp(min=1e-12)


@dataclass(frozen=True, eq=False)
class Panels:
    """What filters made by hand find in one image or signal.

    Attributes:
        x: what was looked at, (1, C, H, W) or (1, C, L).
        maps: by name in order, each (1, C', …).
        city: the share of long vertical lines, for images; None for signals.
    """

    x: Float[Tensor, "1 c ..."]
    maps: Mapping[str, Tensor]
    city: float | None

    def plot(self, columns: int = 4) -> "Figure":
        """Draw the input and every map: signed ones grey about zero, the others from black."""
        words = "" if self.city is None else f"{self.city:.1%} of the edges are long vertical lines"
        wide = self.x.dim() == 3
        columns = 2 if wide else columns
        figure, axes = picture.grid(len(self.maps) + 1, columns, words, side=3.4 if wide else 2.1, extra=-1.6 * wide)
        picture.show(axes[0], self.x[0], "input", 9)
        for axis, (name, values) in zip(axes[1:], self.maps.items(), strict=True):
            picture.show(axis, values[0] if wide else _shown(values[0]), name, 9)
        return figure

    def save(self, path: str) -> Any:
        """Write the picture (.png, .svg, .pdf) or the numbers (.npz)."""
        if str(path).lower().endswith(".npz"):
            return save_arrays(path, {"x": self.x, **self.maps}, {"city": self.city})
        return picture.save_figure(path, self.plot())

    def _repr_png_(self) -> bytes:
        return picture.png(self.plot())


def panels(x: Float[Tensor, "1 c ..."], pattern: Float[Tensor, "c ..."] | None = None) -> Panels:
    """Look at an image or signal through the filters of this file: smoothing, medians, edges, lines, a pattern.

    Args:
        x: (1, C, H, W) or (1, C, L).
        pattern: to look for; by default the middle of x, a sixth of its sides.

    Raises:
        ArgumentError: x is not one image or signal, or the pattern does not fit.

    >>> list(panels(torch.rand(1, 1, 64)).maps)
    ['Gaussian smoothing', 'uniform smoothing', 'median', 'edges', 'match of the middle']
    """
    if len(x) != 1:
        raise ArgumentError(f"panels show one image or signal, got {len(x)}")
    axes = _axes(x)
    word = "match of the pattern" if pattern is not None else "match of the middle"
    if pattern is None:
        spans = (slice(side * 5 // 12, max(side * 7 // 12, side * 5 // 12 + 2)) for side in x.shape[2:])
        pattern = x[(0, slice(None), *spans)]
    maps = {"Gaussian smoothing": smooth(x, 2.0), "uniform smoothing": smooth(x, 5, "uniform"), "median": denoise(x, 5)}
    if axes == 1:
        maps["edges"] = edges(x, 0.0, 2.0)
        return Panels(x, maps | {word: match(x, pattern)}, None)
    grey = x.mean(1, keepdim=True)
    maps |= {f"edges at {angle:.0f}°": edges(grey, angle) for angle in ANGLES}
    maps |= {"Sobel": sobel(grey), "vertical lines": lines(x), "horizontal lines": lines(x, vertical=False)}
    return Panels(x, maps | {word: match(x, pattern)}, float(city(x)[0]))


def gaussian(width: float) -> Float[Tensor, " k"]:
    """A Gaussian of a standard deviation in pixels, cut off at three of them, with sum 1."""
    reach = max(1, math.ceil(3 * width))
    line = torch.exp(-(torch.arange(-reach, reach + 1.0).square()) / (2 * width**2))
    return line / line.sum()


def slopes(width: float) -> Float[Tensor, " k"]:
    """Minus the Gaussian's derivative, scaled to give a ramp's slope exactly."""
    reach = max(1, math.ceil(3 * width))
    places = torch.arange(-reach, reach + 1.0)
    line = -places * gaussian(width)
    return line / (line * -places).sum()


def _along(x: Tensor, line: Float[Tensor, " k"], axis: int) -> Tensor:
    """Correlate with a line along one axis, mirrored at the edges."""
    moved = x.movedim(axis, -1)
    reach = len(line) // 2
    if reach >= moved.shape[-1]:
        raise ArgumentError(f"a window of {len(line)} pixels is too wide for a side of {moved.shape[-1]}")
    flat = F.pad(moved.reshape(-1, 1, moved.shape[-1]), (reach, reach), mode="reflect")
    return F.conv1d(flat, line[None, None]).reshape(moved.shape).movedim(-1, axis)


def _axes(x: Tensor) -> int:
    if x.dim() not in (3, 4) or not x.is_floating_point():
        raise ArgumentError(f"expected a signal (N, C, L) or an image (N, C, H, W) of floats, got {tuple(x.shape)}")
    return x.dim() - 2


def _shown(values: Tensor) -> Tensor:
    """A map in [0, 1]."""
    low, high = float(values.min()), float(values.max())
    if low < -1e-6:
        return 0.5 + values / (2 * max(-low, high))
    return values if high <= 1 and len(values) == 3 else values / max(high, 1e-12)
