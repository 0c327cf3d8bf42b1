"""The examples of a data set that excite the units of a layer most, and the crops that do it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.errors import ArgumentError
from cutaway.saving import save_arrays
from cutaway.visualize import picture
from cutaway.visualize.field import Field

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Examples:
    """For each unit of a layer the examples that excite it most, best first.

    Attributes:
        scores: (U, k), minus infinity where the data have fewer than k examples.
        index: of the examples in the order of the data (U, k), −1 where there is none.
        place: where in the layer's map the maximum lies (U, k, axes); no axes for a layer without places.
        images: by index, each example that stands in `index`, (C, H, W).
        field: the receptive field along each axis; None where a place depends on the whole input.
        layer, by: the layer, and what counts: the spatial "max" or "mean".
        seen: examples seen so far.
    """

    scores: Float[Tensor, "u k"]
    index: Int[Tensor, "u k"]
    place: Int[Tensor, "u k axes"]
    images: Mapping[int, Tensor]
    field: tuple[Field, ...] | None
    layer: str
    by: str
    seen: int

    def top(self, unit: int) -> Float[Tensor, "m c ..."]:
        """The examples that excite a unit most, best first."""
        return torch.stack([self.images[i] for i in self.index[self._unit(unit)].tolist() if i >= 0])

    def crops(self, unit: int) -> list[Float[Tensor, "c ..."]]:
        """The part of each of these that the unit saw where it was excited most; whole examples for the mean."""
        return [image[window] for image, window in zip(self.top(unit), self.windows(unit), strict=True)]

    def windows(self, unit: int) -> list[tuple[slice, ...]]:
        """Where these crops lie, as slices of the example."""
        rows = [(i, p) for i, p in zip(self.index[self._unit(unit)].tolist(), self.place[unit].tolist()) if i >= 0]
        whole = self.field is None or self.by == "mean" or self.place.shape[2] != len(self.field)
        if whole or self.field is None:
            return [(slice(None),)] * len(rows)
        found = []
        for index, place in rows:
            sides = self.images[index].shape[1:]
            spans = [axis.at(where, side) for axis, where, side in zip(self.field, place, sides, strict=True)]
            found.append((slice(None), *(slice(*span) for span in spans)))
        return found

    def merged(self, other: "Examples") -> "Examples":
        """The examples of this pass and of one over further data: of another shard, or of a part not seen before.

        Indices of the other count on from where this one's data ended.

        Raises:
            ArgumentError: the two are not of one layer and kind.
        """
        index = torch.where(other.index >= 0, other.index + self.seen, -1)
        images = {i + self.seen: image for i, image in other.images.items()}
        return self.joined(replace(other, index=index, images=images))

    def joined(self, other: "Examples") -> "Examples":
        """The best of this and another pass whose indices count through the same data."""
        if (self.layer, self.by, len(self.scores)) != (other.layer, other.by, len(other.scores)):
            raise ArgumentError(f"examples of {self.layer} by {self.by} and of {other.layer} by {other.by} differ")
        best = best_of(
            self.scores.shape[1], (self.scores, self.index, self.place), (other.scores, other.index, other.place)
        )
        kept = kept_of({**self.images, **other.images}, best[1])
        return replace(self, scores=best[0], index=best[1], place=best[2], images=kept, seen=self.seen + other.seen)

    def plot(self, units: Iterable[int] | None = None, crops: bool = True, columns: int = 9) -> "Figure":
        """Draw the best examples of some units, one row for each.

        Args:
            units: which; the first eight by default.
            crops: draw what the unit saw instead of whole examples.
            columns: examples in one row.
        """
        chosen = list(range(min(8, len(self.scores)))) if units is None else list(units)
        columns = max(1, min(columns, self.scores.shape[1]))
        what = "receptive fields" if crops and self.field is not None and self.by == "max" else "examples"
        words = f"{what} that excite {self.layer} most, by spatial {self.by}, of {self.seen}"
        figure, axes = picture.grid(columns * len(chosen), columns, words, side=1.15, extra=-0.1)
        for row, unit in enumerate(chosen):
            shown = self.crops(unit) if crops else list(self.top(unit))
            silent = float(self.scores[unit, 0]) <= 0
            for column, axis in enumerate(axes[row * columns : (row + 1) * columns]):
                title = f"unit {unit}\n" if column == 0 else "\n"
                if column >= len(shown) or silent:
                    axis.set_axis_off()
                    words = f"{title}never excited" if silent and column == 0 else title if column == 0 else ""
                    axis.set_title(words, fontsize=7, color=picture.ORANGE if silent else "black")
                else:
                    picture.show(axis, shown[column], f"{title}{float(self.scores[unit, column]):.3g}", size=7)
        return figure

    def save(self, path: str) -> Any:
        """Write the picture (.png, .svg, .pdf) or the numbers (.npz: scores, index, place and `about`)."""
        if str(path).lower().endswith(".npz"):
            about = {"layer": self.layer, "by": self.by, "seen": self.seen}
            return save_arrays(path, {"scores": self.scores, "index": self.index, "place": self.place}, about)
        return picture.save_figure(path, self.plot())

    def _repr_png_(self) -> bytes:
        return picture.png(self.plot())

    def __repr__(self) -> str:
        units, k = self.scores.shape
        return f"<top {k} of {self.seen} examples for {units} units of {self.layer} by {self.by}>"

    def _unit(self, unit: int) -> int:
        if not 0 <= unit < len(self.scores):
            raise ArgumentError(f"unit {unit} is none of {self.layer}, which has 0 … {len(self.scores) - 1}")
        return unit


Ranked = tuple[Tensor, Tensor, Tensor]  # scores, indices, places


def best_of(k: int, old: Ranked, new: Ranked) -> Ranked:
    """The k best of both, unit by unit; earlier examples first where scores are equal, whoever met them."""
    scores, index, place = (torch.cat(pair, 1) for pair in zip(old, new, strict=True))
    order = torch.where(index < 0, torch.iinfo(index.dtype).max, index).argsort(dim=1)
    for key in (-scores, (index < 0).to(torch.uint8)):  # each sort keeps the order of those before among equals
        order = order.gather(1, key.gather(1, order).argsort(dim=1, stable=True))
    order = order[:, :k]
    places = place.gather(1, order[..., None].expand(-1, -1, place.shape[2]))
    return scores.gather(1, order), index.gather(1, order), places


def kept_of(images: Mapping[int, Tensor], index: Tensor) -> dict[int, Tensor]:
    """The images still among the best; copies, so that a batch they came from is freed."""
    return {
        i: images[i] if images[i].untyped_storage().nbytes() == images[i].nbytes else images[i].clone()
        for i in index.unique().tolist()
        if i in images
    }
