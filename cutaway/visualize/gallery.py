"""Pages of pictures: a network's layers from shallow to deep, and one unit's examples beside its optimised images."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from cutaway.data import Dataset
from cutaway.errors import ArgumentError
from cutaway.saving import save_arrays
from cutaway.visualize import picture
from cutaway.visualize.examples import Examples
from cutaway.visualize.optimize import Optimized, optimize
from cutaway.visualize.search import dataset_examples
from cutaway.visualize.targets import channel, diversity

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Gallery:
    """Optimised images of some channels of several layers.

    Attributes:
        rows: by layer, in the order given.
    """

    rows: Mapping[str, Optimized]

    def plot(self) -> "Figure":
        """Draw one row for each layer; dead channels are crossed out."""
        columns = max(len(row.images) for row in self.rows.values())
        across = columns if columns > 1 else min(4, len(self.rows))  # rows of one image each share lines
        figure, axes = picture.grid(columns * len(self.rows), across, "", side=1.6, extra=-0.05)
        for line, (name, row) in enumerate(self.rows.items()):
            cells = axes[line * columns : (line + 1) * columns]
            for place, axis in enumerate(cells):
                title = f"{name}\n" if place == 0 else "\n"
                words = row.titles[place] if place < len(row.titles) else ""
                if place >= len(row.images):
                    axis.set_axis_off()
                elif row.dead[place]:
                    picture.show_dead(axis, "dead:\nno gradient", title + words)
                else:
                    picture.show(axis, row.images[place], title + words)
        return figure

    def save(self, path: str) -> Any:
        """Write the picture (.png, .svg, .pdf) or the numbers (.npz: the images by layer)."""
        if str(path).lower().endswith(".npz"):
            words = {name: row.words for name, row in self.rows.items()}
            return save_arrays(path, {name: row.images for name, row in self.rows.items()}, words)
        return picture.save_figure(path, self.plot())

    def _repr_png_(self) -> bytes:
        return picture.png(self.plot())


@dataclass(frozen=True, eq=False)
class Portrait:
    """What one channel answers to.

    Attributes:
        examples: of the data, for every unit of the layer.
        optimized: images made for the channel, apart from each other.
        channel: its index.
    """

    examples: Examples
    optimized: Optimized
    channel: int

    def plot(self) -> "Figure":
        """Draw the best examples, what the channel saw of them, and the optimised images, row by row."""
        whole, crops = list(self.examples.top(self.channel)), self.examples.crops(self.channel)
        images, dead = self.optimized.images, self.optimized.dead
        columns = max(len(whole), len(images))
        silent = float(self.examples.scores[self.channel, 0]) <= 0
        title = f"channel {self.channel} of {self.examples.layer}" + (": no example excites it" if silent else "")
        figure, axes = picture.grid(3 * columns, columns, title, side=1.5, extra=-0.05)
        for axis in axes:
            axis.set_axis_off()
        for row, (name, pictures) in enumerate((("examples", whole), ("what it saw", crops), ("optimised", images))):
            for place, image in enumerate(pictures):
                axis, words = axes[row * columns + place], name if place == 0 else ""
                if row == 2 and dead[place]:
                    axis.set_axis_on()
                    picture.show_dead(axis, "dead:\nno gradient", words)
                else:
                    picture.show(axis, image, words)
        return figure

    def save(self, path: str) -> Any:
        """Write the picture (.png, .svg, .pdf)."""
        return picture.save_figure(path, self.plot())

    def _repr_png_(self) -> bytes:
        return picture.png(self.plot())


def gallery(
    model: nn.Module | Callable,
    layers: Sequence[str] | Mapping[str, Sequence[int]],
    *,
    channels: int = 6,
    progress: bool = True,
    **options: Any,
) -> Gallery:
    """Show what the layers of a network look for, one row for each.

    Args:
        model: a module or function of images (N, C, H, W).
        layers: names of nodes or modules, or {name: its channels}.
        channels: how many of each layer, from the first, where none are named.
        progress: show bars on a terminal.
        options: of `optimize`: size, steps, parametrization, ….

    Raises:
        ArgumentError: there is no layer, and as for `optimize`.

    Source: C. Olah, A. Mordvintsev, L. Schubert, Feature Visualization, 2017.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    >>> len(gallery(net, ["1", "2"], channels=2, size=16, steps=1).rows)
    2
    """
    if not layers or channels < 1:
        raise ArgumentError(f"layers={layers}, channels={channels}: expected at least one of each")
    chosen = layers if isinstance(layers, Mapping) else {name: range(channels) for name in layers}
    rows = {
        name: optimize(model, channel(name, list(which)), progress=progress, **options)
        for name, which in chosen.items()
    }
    return Gallery(rows)


def portrait(
    model: nn.Module | Callable,
    data: Dataset | Tensor | Iterable,
    layer: str,
    channel_index: int,
    *,
    count: int = 4,
    apart: float = 1.0,
    progress: bool = True,
    **options: Any,
) -> Portrait:
    """Set the examples that excite a channel most beside images optimised for it and kept apart from each other.

    Args:
        model: a module or function of images (N, C, H, W).
        data: as for `dataset_examples`.
        layer, channel_index: which channel.
        count: how many of each.
        apart: weight of the images' diversity, relative to how strongly the best example excites the channel.
        progress: show bars on a terminal.
        options: of `optimize`: steps, parametrization, …; the size is that of the data.

    Source: C. Olah, A. Mordvintsev, L. Schubert, Feature Visualization, 2017, "Diversity".

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    >>> import torch
    >>> portrait(net, torch.rand(9, 3, 12, 12), "1", 2, count=2, steps=1).optimized.images.shape
    torch.Size([2, 3, 12, 12])
    """
    found = dataset_examples(model, data, layer, k=count, progress=progress)
    best = found.top(channel_index)
    strength = float(found.scores[channel_index, 0])
    goal = channel(layer, channel_index) + (apart * max(strength, 1e-3) / 10) * diversity(layer)
    shape = {"size": tuple(best.shape[1:]), **options}
    return Portrait(found, optimize(model, goal, count=count, progress=progress, **shape), channel_index)
