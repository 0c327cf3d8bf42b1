"""DeepDream: an image changed until a layer, a class or the likeness to another image is strong in it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cutaway.errors import ArgumentError
from cutaway.progress import track
from cutaway.rng import generator
from cutaway.saving import save_arrays
from cutaway.visualize import picture
from cutaway.visualize.network import Network, home, network, of_layers
from cutaway.visualize.objective import Objective
from cutaway.visualize.targets import guide as likeness
from cutaway.visualize.targets import layer as whole_layer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Dream:
    """A dreamt image.

    Attributes:
        image: (1, C, H, W) in [0, 1].
        original: what it was before.
        history: the objective after each step, summed over tiles; each octave has its own scale.
        words: what was made larger.
        settings: the further arguments; seed: fixes the shifts.
    """

    image: Float[Tensor, "1 c h w"]
    original: Float[Tensor, "1 c h w"]
    history: Float[Tensor, " steps"]
    words: str
    settings: Mapping[str, Any]
    seed: int

    def plot(self) -> "Figure":
        """Draw the image before and after."""
        figure, axes = picture.grid(2, 2, picture.shortened(f"dream of {self.words}"), side=3.2)
        picture.show(axes[0], self.original[0])
        picture.show(axes[1], self.image[0])
        return figure

    def save(self, path: str) -> Any:
        """Write the image pixel by pixel (.png, .jpg, .webp) or the numbers (.npz: image, original, history)."""
        if str(path).lower().endswith(".npz"):
            tensors = {"image": self.image, "original": self.original, "history": self.history}
            about = {"objective": self.words, "settings": dict(self.settings), "seed": self.seed}
            return save_arrays(path, tensors, about)
        return picture.save_image(path, self.image[0])

    def _repr_png_(self) -> bytes:
        return picture.png(self.plot())

    def __repr__(self) -> str:
        return f"<dream of {picture.shortened(self.words)} {tuple(self.image.shape)}>"


def dream(
    model: nn.Module | Callable,
    image: Float[Tensor, "1 c h w"],
    objective: Objective | str,
    *,
    guide: Float[Tensor, "1 c h w"] | None = None,
    octaves: int = 4,
    scale: float = 1.4,
    steps: int = 10,
    rate: float = 1.5 / 255,
    jitter: int = 32,
    tile: int = 224,
    seed: int = 0,
    progress: bool = True,
) -> Dream:
    """Let a network dream into an image.

    Gradients are computed tile by tile, with tiles shifted at random and wrapped round the edges: memory does not
    depend on the image's size, and networks of one input size take any image with `tile` set to that size.

    Args:
        model: a module or function of images (N, C, H, W) in [0, 1].
        image: (1, C, H, W) or (C, H, W), in [0, 1].
        objective: a layer by name (its mean square), or any objective: `logit(88)`, `channel("conv4", 3)`, ….
        guide: another image (1, C, h, w), whose places at the layer are to be matched; the objective is a layer then.
        octaves: how many sizes, from small to large.
        scale: between one size and the next.
        steps: at each size.
        rate: of one step: the mean change of the pixels.
        jitter: largest shift of the image at each step, in pixels, at least half a tile where there are several.
        tile: side of the tiles in pixels.
        seed: fixes the shifts.
        progress: show a bar on a terminal.

    Raises:
        ArgumentError: a setting is out of range, or the image is none.
        LookupFailure: no node or module has the layer's name.

    Source: A. Mordvintsev, C. Olah, M. Tyka, Inceptionism: Going Deeper into Neural Networks, 2015, and the notebook
    google/deepdream, dream.ipynb, 2015.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    >>> dream(net, torch.rand(1, 3, 20, 24), "1", octaves=2, steps=1).image.shape
    torch.Size([1, 3, 20, 24])
    """
    image = _image(image, "image")
    if octaves < 1 or steps < 1 or tile < 1 or jitter < 0 or scale <= 1:
        raise ArgumentError(
            f"octaves={octaves}, steps={steps}, tile={tile}, jitter={jitter}, scale={scale}: expected octaves, steps "
            "and tile of at least 1, jitter of at least 0 and scale above 1"
        )
    there = home(model)
    start = image.to(**there)
    window = tuple(min(tile, side) for side in image.shape[2:])
    goal, words = _goal(model, objective, guide, image.shape[1], window, there)
    seen = network(model, torch.zeros(1, image.shape[1], *window, **there), goal.layers)
    random, history, detail = generator(seed, "dream"), [], None
    sizes = [
        tuple(max(2, round(side / scale**level)) for side in image.shape[2:]) for level in reversed(range(octaves))
    ]
    bar = iter(track(range(octaves * steps), "dreaming", progress))
    current = start
    for size in sizes:
        base = _resized(start, size)
        current = base if detail is None else (base + _resized(detail, size)).clamp(0, 1)
        for _ in range(steps):
            next(bar)
            value, gradient = tiled_gradient(seen, goal, current, window, jitter, random)
            history.append(value)
            current = (current + rate * gradient / gradient.abs().mean().clamp(min=1e-12)).clamp(0, 1)
        detail = current - base  # what was dreamt at this size is carried to the next
    next(bar, None)
    settings = {"octaves": octaves, "scale": scale, "steps": steps, "rate": rate, "jitter": jitter, "tile": tile}
    return Dream(current.cpu(), image.cpu(), torch.tensor(history), words, settings, seed)


def tiled_gradient(
    seen: Network,
    goal: Objective,
    image: Float[Tensor, "1 c h w"],
    window: tuple[int, ...],
    jitter: int,
    random: torch.Generator,
) -> tuple[float, Float[Tensor, "1 c h w"]]:
    """The gradient of an objective over an image cut into tiles; where tiles overlap, their mean.

    Args:
        seen: the network, for images of the window's size.
        goal: the objective of each tile.
        image: the whole image.
        window: (h, w) of a tile; the image is repeated beyond its edges.
        jitter: the tiles start at a random shift up to this, and anywhere in a tile where there are several.
        random: draws the shift.
    """
    total, gradient = 0.0, torch.zeros_like(image)
    count = torch.zeros(image.shape[2:], device=image.device, dtype=image.dtype)
    shifts = [_shift(side, part, jitter, random) for side, part in zip(image.shape[2:], window, strict=True)]
    for rows in _spans(image.shape[2], window[0], shifts[0]):
        for columns in _spans(image.shape[3], window[1], shifts[1]):
            rows, columns = rows.to(image.device), columns.to(image.device)
            value, adjoint = seen.gradient(image[:, :, rows][..., columns], goal)
            total += float(value.sum())
            places = (rows[:, None] * image.shape[3] + columns).flatten()
            gradient.flatten(2).index_add_(2, places, adjoint.flatten(2))
            count.view(-1).index_add_(0, places, torch.ones_like(places, dtype=count.dtype))
    return total, gradient / count.clamp(min=1)


def _spans(side: int, window: int, shift: int) -> Iterator[Tensor]:
    """The places along one axis that each tile covers, wrapped round the edge."""
    for start in range(0, side, window):
        yield (torch.arange(window) + start + shift) % side


def _shift(side: int, window: int, jitter: int, random: torch.Generator) -> int:
    reach = max(jitter, window // 2) if side > window else jitter
    return int(torch.randint(-reach, reach + 1, (), generator=random))


def _goal(
    model: nn.Module | Callable,
    objective: Objective | str,
    guide: Tensor | None,
    channels: int,
    window: tuple[int, ...],
    there: Mapping[str, Any],
) -> tuple[Objective, str]:
    """The objective of one tile, and what it is in words."""
    if guide is None:
        goal = whole_layer(objective) if isinstance(objective, str) else objective
        return of_layers(goal), goal.words
    if not isinstance(objective, str):
        raise ArgumentError(f"a guide image is matched at a layer: name one instead of {objective!r}")
    picture_of = _image(guide, "guide")
    if picture_of.shape[1] != channels:
        raise ArgumentError(f"the guide has {picture_of.shape[1]} channels, the image {channels}")
    small = _resized(picture_of.to(**there), window)
    value = network(model, small, [objective]).values(small)[objective]
    return likeness(objective, value), f"a guide image at {objective}"


def _image(image: Tensor, what: str) -> Float[Tensor, "1 c h w"]:
    image = image[None] if image.dim() == 3 else image
    if image.dim() != 4 or len(image) != 1 or not image.is_floating_point():
        raise ArgumentError(f"the {what} must be one image (1, C, H, W) in [0, 1], got shape {tuple(image.shape)}")
    return image.detach()


def _resized(image: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(image.shape[2:]) == tuple(size):
        return image
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)
