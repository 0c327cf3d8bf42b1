"""From a file to a photograph of its print, differentiable in the image: what a physical example has to survive."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cutaway.attack.draws import Draws
from cutaway.attack.jpeg import jpeg
from cutaway.errors import ArgumentError

Images = Float[Tensor, "n c h w"]
Numbers = Float[Tensor, "n"]
Range = tuple[float, float]
CORNERS = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))  # (x, y), clockwise from above left


def each(numbers: Numbers) -> Float[Tensor, "n 1 1 1"]:
    """One number per image, to act on all its pixels."""
    return numbers.reshape(-1, 1, 1, 1)


def printed(x: Images, strength: Numbers) -> Images:
    """What a printer can show: colours drawn towards grey, black not quite black, white not quite white.

    Args:
        x: images (N, C, H, W) in [0, 1].
        strength: of each image, 0 (all colours) … 1 (grey paper).
    """
    grey = x.mean(1, keepdim=True)
    muted = x + each(strength) * (grey - x)
    return muted * (1 - each(strength)) + 0.45 * each(strength)


def lit(x: Images, gain: Numbers, offset: Numbers, gamma: Numbers) -> Images:
    """Light and exposure: gain · x^gamma + offset, cut to [0, 1]."""
    return (each(gain) * x.clamp(min=1e-3) ** each(gamma) + each(offset)).clamp(0, 1)


def blurred(x: Images, deviation: Numbers, radius: int) -> Images:
    """A Gaussian blur of each image's own standard deviation in pixels; the border is repeated.

    Args:
        x: images (N, C, H, W).
        deviation: in pixels; below 0.05 nothing is blurred.
        radius: half the width of the kernel, which all images share.
    """
    place = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    weight = torch.exp(-0.5 * (place / deviation.clamp(min=0.05)[:, None]) ** 2)  # (N, 2R + 1)
    weight = weight / weight.sum(1, keepdim=True)
    for axis in (2, 3):
        size = x.shape[axis]
        pad = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
        wide = F.pad(x, pad, mode="replicate")
        parts = [each(weight[:, k]) * wide.narrow(axis, k, size) for k in range(2 * radius + 1)]
        x = torch.stack(parts).sum(0)
    return x


def noisy(x: Images, deviation: Numbers, noise: Images) -> Images:
    """Sensor noise: half of its variance is read-out, the rest grows with the light, as photons are counted."""
    return (x + each(deviation) * (0.5 + x.clamp(0, 1)).sqrt() * noise).clamp(0, 1)


def homography(corners: Float[Tensor, "n 4 2"]) -> Float[Tensor, "n 3 3"]:
    """The matrices that take the square [−1, 1]² to quadrilaterals.

    Args:
        corners: (N, 4, 2) where (−1, −1), (1, −1), (1, 1) and (−1, 1) go.
    """
    rows, target = [], []
    for number, (u, v) in enumerate(CORNERS):
        x, y = corners[:, number, 0], corners[:, number, 1]
        one, zero = torch.ones_like(x), torch.zeros_like(x)
        rows.append(torch.stack([u * one, v * one, one, zero, zero, zero, -u * x, -v * x], 1))
        rows.append(torch.stack([zero, zero, zero, u * one, v * one, one, -u * y, -v * y], 1))
        target += [x, y]
    solved = torch.linalg.solve(torch.stack(rows, 1), torch.stack(target, 1))  # (N, 8)
    return torch.cat([solved, torch.ones_like(solved[:, :1])], 1).reshape(-1, 3, 3)


def sampled(corners: Float[Tensor, "n 4 2"], height: int, width: int) -> Float[Tensor, "n h w 2"]:
    """For each pixel of a picture the place in [−1, 1]² it is read from, when its corners are read from `corners`."""
    down, across = (
        (torch.arange(size, dtype=corners.dtype, device=corners.device) + 0.5) * 2 / size - 1
        for size in (height, width)
    )
    places = torch.stack([across.expand(height, width), down[:, None].expand(height, width)], 2)
    places = torch.cat([places, torch.ones_like(places[..., :1])], 2).reshape(-1, 3)  # (H·W, 3)
    seen = places @ homography(corners).transpose(1, 2)  # (N, H·W, 3)
    return (seen[..., :2] / seen[..., 2:]).reshape(-1, height, width, 2)


def viewed(x: Images, grid: Float[Tensor, "n h w 2"]) -> Images:
    """The print as a camera sees it from elsewhere: pixels read at other places, bilinear; the border is repeated."""
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


@dataclass(frozen=True)
class Channel:
    """A print, photographed and cropped; each stage has a range that its strength is drawn from, or None for no stage.

    Attributes:
        gamut: how far the printer draws colours together, 0 … 1.
        perspective: by what share of the side each corner of the print is off, 0 … 0.25.
        gain, offset, gamma: of the light, see `lit`.
        blur: standard deviation in pixels of lens and focus.
        noise: standard deviation of the sensor's noise, in pixel units.
        quality: of the camera's JPEG file, 1 … 100.
        crop: the share of the side that is cut out and resized to the whole, 0.5 … 1.

    Source: Kurakin, Goodfellow, Bengio, "Adversarial examples in the physical world", 2017, section 3 (print,
    photograph, crop; the changes of light, blur, noise and JPEG quality); Athalye et al., "Synthesizing robust
    adversarial examples", 2018, section 2.2 (distributions).

    >>> x = torch.rand(2, 3, 16, 16)
    >>> seen = Channel()(x, seed=1)
    >>> seen.shape, bool((seen >= 0).all() and (seen <= 1).all()), bool((seen == Channel()(x, seed=1)).all())
    (torch.Size([2, 3, 16, 16]), True, True)
    """

    gamut: Range | None = (0.05, 0.2)
    perspective: Range | None = (0.0, 0.06)
    gain: Range | None = (0.8, 1.2)
    offset: Range | None = (-0.05, 0.05)
    gamma: Range | None = (0.8, 1.25)
    blur: Range | None = (0.3, 1.0)
    noise: Range | None = (0.005, 0.025)
    quality: Range | None = (60.0, 95.0)
    crop: Range | None = (0.92, 1.0)

    def __post_init__(self) -> None:
        for name, (least, most) in LIMITS.items():
            given = getattr(self, name)
            if given is not None and not (len(given) == 2 and least <= given[0] <= given[1] <= most):
                raise ArgumentError(
                    f"{name}={given!r}: expected (low, high) with {least} ≤ low ≤ high ≤ {most}, or None"
                )

    def draw(self, x: Images, draws: Draws, *name: object) -> tuple[Tensor, ...]:
        """Everything random about one photograph of each image: the arguments of `apply` after the images."""
        drawn: list[Tensor] = []
        for stage in STAGES:
            if any(getattr(self, own) is not None for own in stage.fields):
                drawn += [part.to(x) for part in stage.draw(self, x, draws, *name)]
        return tuple(drawn)

    def apply(self, x: Images, *drawn: Tensor) -> Images:
        """Photographs of the images, differentiable in them.

        Args:
            x: images (N, C, H, W) in [0, 1].
            drawn: what `draw` gave.
        """
        rest = list(drawn)
        for stage in STAGES:
            if any(getattr(self, own) is not None for own in stage.fields):
                mine, rest = rest[: stage.takes], rest[stage.takes :]
                x = stage.apply(self, x, *mine)
        return x

    def __call__(self, x: Images, seed: int = 0) -> Images:
        """One photograph of each image.

        Args:
            x: images (N, C, H, W) in [0, 1].
            seed: what happens to image i depends on the seed and on i.
        """
        return self.apply(x, *self.draw(x, Draws(seed, torch.arange(len(x), device=x.device)), "photograph"))

    def number(self, field: str, draws: Draws, *name: object, still: float = 0.0) -> Numbers:
        """A number from a field's range for each image; `still` where the field is None."""
        low, high = getattr(self, field) or (still, still)
        return low + (high - low) * draws.uniform((), *name, field)


LIMITS: dict[str, Range] = {
    "gamut": (0, 1),
    "perspective": (0, 0.25),
    "gain": (0, 4),
    "offset": (-1, 1),
    "gamma": (0.2, 5),
    "blur": (0, 10),
    "noise": (0, 1),
    "quality": (1, 100),
    "crop": (0.5, 1),
}


@dataclass(frozen=True)
class Stage:
    """One row of the table of stages.

    Attributes:
        fields: of the channel, that switch it on.
        takes: how many tensors it draws.
        draw: (channel, x, draws, name…) → those tensors.
        apply: (channel, x, *tensors) → images.
    """

    fields: tuple[str, ...]
    takes: int
    draw: Callable[..., tuple[Tensor, ...]]
    apply: Callable[..., Images]


def _corners(how: Channel, x: Images, draws: Draws, *name: object) -> tuple[Tensor, ...]:
    reach = 2 * how.number("perspective", draws, *name)[:, None, None]  # the side is 2
    off = (2 * draws.uniform((4, 2), *name, "corners") - 1) * reach
    return (sampled(off.new_tensor(CORNERS) + off, *x.shape[2:]),)


def _window(how: Channel, x: Images, draws: Draws, *name: object) -> tuple[Tensor, ...]:
    share = how.number("crop", draws, *name, still=1.0)[:, None, None]
    place = (2 * draws.uniform((1, 2), *name, "place") - 1) * (1 - share)
    return (sampled(share * share.new_tensor(CORNERS) + place, *x.shape[2:]),)


def _light(how: Channel, x: Images, draws: Draws, *name: object) -> tuple[Tensor, ...]:
    still = {"gain": 1.0, "offset": 0.0, "gamma": 1.0}
    return tuple(how.number(field, draws, *name, still=value) for field, value in still.items())


def _grain(how: Channel, x: Images, draws: Draws, *name: object) -> tuple[Tensor, ...]:
    return how.number("noise", draws, *name), draws.normal(tuple(x.shape[1:]), *name, "grain")


def _one(field: str) -> Callable[..., tuple[Tensor, ...]]:
    return lambda how, x, draws, *name: (how.number(field, draws, *name),)


STAGES: tuple[Stage, ...] = (
    Stage(("gamut",), 1, _one("gamut"), lambda how, x, strength: printed(x, strength)),
    Stage(("perspective",), 1, _corners, lambda how, x, grid: viewed(x, grid)),
    Stage(("gain", "offset", "gamma"), 3, _light, lambda how, x, *light: lit(x, *light)),
    Stage(("blur",), 1, _one("blur"), lambda how, x, by: blurred(x, by, max(1, ceil(3 * how.blur[1])))),
    Stage(("noise",), 2, _grain, lambda how, x, size, grain: noisy(x, size, grain)),
    Stage(("quality",), 1, _one("quality"), lambda how, x, quality: jpeg(x, quality)),
    Stage(("crop",), 1, _window, lambda how, x, grid: viewed(x, grid)),
)
