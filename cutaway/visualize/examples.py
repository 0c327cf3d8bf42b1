"""The examples of a data set that excite the units of a layer most, and the crops that do it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cutaway import graph as G
from cutaway.data import Dataset
from cutaway.errors import ArgumentError, nearest
from cutaway.progress import track
from cutaway.visualize import picture
from cutaway.visualize.field import Field, receptive_field
from cutaway.visualize.network import home

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BY = ("max", "mean")


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
        if (self.layer, self.by, len(self.scores)) != (other.layer, other.by, len(other.scores)):
            raise ArgumentError(f"examples of {self.layer} by {self.by} and of {other.layer} by {other.by} differ")
        index = torch.where(other.index >= 0, other.index + self.seen, -1)
        best = _best(self.scores.shape[1], (self.scores, self.index, self.place), (other.scores, index, other.place))
        known = {**self.images, **{i + self.seen: image for i, image in other.images.items()}}
        kept = _kept(known, best[1])
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
            return picture.save_arrays(path, {"scores": self.scores, "index": self.index, "place": self.place}, about)
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


def dataset_examples(
    model: nn.Module | Callable,
    data: Dataset | Tensor | Iterable,
    layer: str,
    *,
    k: int = 9,
    by: str = "max",
    batch_size: int = 32,
    progress: bool = True,
) -> Examples:
    """Find the examples that excite each unit of a layer most, exactly, for all units in one pass.

    Memory holds one batch and the examples found, however large the data are.

    Args:
        model: a module or function of (N, C, H, W).
        data: a data set, a tensor (N, …), or an iterable of batches x or (x, y), which is read once.
        layer: a node or module by name, whose value is (N, U, …).
        k: how many for each unit.
        by: a unit's "max" over its places, or its "mean".
        batch_size: of data sets and tensors.
        progress: show a bar on a terminal.

    Returns:
        scores, indices, places and the examples themselves. Of equal scores the earlier example comes first. Passes
        over several parts of the data are joined by `Examples.merged`.

    Raises:
        ArgumentError: k or batch_size is below 1, `by` is unknown, the layer holds no units, or there are no data.
        LookupFailure: no node or module has this name.

    Source: M. D. Zeiler, R. Fergus, Visualizing and Understanding Convolutional Networks, 2014, section 4.1.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    >>> dataset_examples(net, torch.rand(20, 1, 6, 6), "1", k=3).scores.shape
    torch.Size([2, 3])
    """
    if k < 1 or batch_size < 1:
        raise ArgumentError(f"k={k}, batch_size={batch_size}: expected at least 1 of each")
    if by not in BY:
        raise nearest(by, BY, "way to sum a map up")
    there = home(model)
    found: Examples | None = None
    for x in track(_batches(data, batch_size), "searching examples", progress):
        part = _of_batch(model, x, layer, k, by, there)
        found = part if found is None else found.merged(part)
    if found is None:
        raise ArgumentError("the data are empty: no example can be the best")
    return found


def _of_batch(
    model: nn.Module | Callable, x: Tensor, layer: str, k: int, by: str, there: Mapping[str, Any]
) -> Examples:
    """The best examples of one batch."""
    moved = x.to(**there) if x.is_floating_point() else x.to(there.get("device", x.device))
    plain = G.capture(model, moved)
    graph, node = plain.optimized(), plain[layer]
    if node.shape is None or len(node.shape) < 2:
        raise ArgumentError(f"layer {layer!r} holds shape {node.shape}, no units (N, U, …)")
    graph = graph if node.name in graph.by_name else plain
    asked = graph[node.name]
    values = graph.gradient(of=asked, wrt=[asked]).evaluate(moved)[0][asked].cpu()  # (n, U, …)
    flat = values.flatten(2) if values.dim() > 2 else values[..., None]  # (n, U, P)
    top = flat.max(2)
    scores = top.values if by == "max" else flat.mean(2)
    sizes = values.shape[2:]
    where = torch.stack(torch.unravel_index(top.indices, sizes), 2) if sizes else top.indices[..., None][..., :0]
    units = scores.shape[1]
    empty = (
        torch.full((units, k), -torch.inf, dtype=scores.dtype),
        torch.full((units, k), -1),
        torch.zeros(units, k, len(sizes), dtype=torch.long),
    )
    index = torch.arange(len(x)).expand(units, -1)
    best = _best(k, empty, (scores.T, index, where.transpose(0, 1)))
    images = _kept(dict(enumerate(x.detach().cpu())), best[1])
    return Examples(*best, images, receptive_field(plain, node), node.name, by, len(x))


Ranked = tuple[Tensor, Tensor, Tensor]  # scores, indices, places


def _best(k: int, old: Ranked, new: Ranked) -> Ranked:
    """The k best of both, unit by unit; earlier ones first where scores are equal."""
    scores, index, place = (torch.cat(pair, 1) for pair in zip(old, new, strict=True))
    order = scores.sort(dim=1, descending=True, stable=True).indices
    order = order.gather(1, (index.gather(1, order) < 0).to(torch.uint8).sort(dim=1, stable=True).indices)[:, :k]
    places = place.gather(1, order[..., None].expand(-1, -1, place.shape[2]))
    return scores.gather(1, order), index.gather(1, order), places


def _kept(images: Mapping[int, Tensor], index: Tensor) -> dict[int, Tensor]:
    """The images still among the best; copies, so that a batch they came from is freed."""
    wanted = index.unique().tolist()
    return {i: images[i] if images[i].untyped_storage().nbytes() == images[i].nbytes else images[i].clone()
            for i in wanted if i >= 0}  # fmt: skip


def _batches(data: Dataset | Tensor | Iterable, batch_size: int) -> "Iterator[Tensor] | list[Tensor]":
    if isinstance(data, Dataset):
        data = data.x
    if isinstance(data, Tensor):
        return list(data.split(batch_size)) if len(data) else []
    return (batch[0] if isinstance(batch, list | tuple) else batch for batch in data)
