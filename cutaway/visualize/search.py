"""The search for the examples that excite the units of a layer most: one pass, resumed or shared where asked for."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cutaway import graph as G
from cutaway.data import Dataset
from cutaway.errors import ArgumentError, nearest
from cutaway.progress import track
from cutaway.visualize.examples import Examples, best_of, kept_of
from cutaway.visualize.field import Field, receptive_field
from cutaway.visualize.network import home
from cutaway.visualize.processes import exchanged, place, together
from cutaway.visualize.state import Progress, State, fingerprint

BY = ("max", "mean")


def dataset_examples(
    model: nn.Module | Callable,
    data: Dataset | Tensor | Iterable,
    layer: str,
    *,
    k: int = 9,
    by: str = "max",
    batch_size: int = 32,
    state: str | Path | None = None,
    every: float = 30.0,
    progress: bool = True,
) -> Examples:
    """Find the examples that excite each unit of a layer most, exactly, for all units in one pass.

    Memory holds one batch and the examples found, however large the data are. Under torchrun each process looks at
    every so-manyth batch, and all get what all have found: the same as one process finds.

    Args:
        model: a module or function of (N, C, H, W).
        data: a data set, a tensor (N, …), or an iterable of batches x or (x, y), which is read once.
        layer: a node or module by name, whose value is (N, U, …).
        k: how many for each unit.
        by: a unit's "max" over its places, or its "mean".
        batch_size: of data sets and tensors.
        state: a file to write what was found so far to; a call that was killed goes on from it, and a finished one
            reads its result from it. Each of several processes has its own, named after it.
        every: seconds between two writes.
        progress: show a bar on a terminal.

    Returns:
        scores, indices, places and the examples themselves. Of equal scores the earlier example comes first. Passes
        over several parts of the data are joined by `Examples.merged`.

    Raises:
        ArgumentError: k or batch_size is below 1, the layer holds no units, there are no data, or the state is of
            another search.
        LookupFailure: `by` is unknown, or no node or module has this name.
        RunFolderError: the state cannot be read.

    Source: M. D. Zeiler, R. Fergus, Visualizing and Understanding Convolutional Networks, 2014, section 4.1.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    >>> dataset_examples(net, torch.rand(20, 1, 6, 6), "1", k=3).scores.shape
    torch.Size([2, 3])
    """
    if k < 1 or batch_size < 1:
        raise ArgumentError(f"k={k}, batch_size={batch_size}: expected at least 1 of each")
    if by not in BY:
        raise nearest(by, BY, "way to sum a map up")
    with together():
        rank, size = place()
        settings = {"layer": layer, "k": k, "by": by, "process": f"{rank} of {size}"}
        if state is not None:
            settings |= {"batch_size": batch_size, "model": _model(model)}
        kept = State(_own(state, rank, size), settings, every)
        found = _pass(model, _batches(data, batch_size), layer, k, by, kept, progress and rank == 0)
        found = found if size == 1 else _of_all(found)
    if found is None:
        raise ArgumentError("the data are empty: no example can be the best")
    return found


def _pass(
    model: nn.Module | Callable,
    batches: Iterable[Tensor],
    layer: str,
    k: int,
    by: str,
    state: State,
    progress: bool,
) -> Examples | None:
    """This process's part of the batches, from where the state was left."""
    (rank, size), there = place(), home(model)
    before = state.read()
    reached, first = (_restored(before), before.batches), 0  # what was found in so many batches
    try:
        for number, x in enumerate(track(batches, "searching examples", progress)):
            if number == 0:
                state.meet(x)
            found, done = reached
            if number >= done:
                if number % size == rank:
                    part = _of_batch(model, x, layer, k, by, there, first)
                    found = part if found is None else found.joined(part)
                reached = found, number + 1
                if state.due:
                    state.write(_progress(*reached))
            first += len(x)
    finally:  # an interruption loses nothing
        if reached[1] > before.batches:
            state.write(_progress(*reached))
    return reached[0]


def _of_all(found: Examples | None) -> Examples | None:
    """The best of what all processes found; images are exchanged only where they are among them."""
    parts = [part for part in exchanged(found and replace(found, images={})) if part is not None]
    if not parts:
        return None
    best = reduce(Examples.joined, parts)
    wanted = set(best.index.unique().tolist())
    images: dict[int, Tensor] = {}
    for own in exchanged({i: image for i, image in (found.images if found else {}).items() if i in wanted}):
        images |= own
    return replace(best, images=kept_of(images, best.index))


def _own(state: str | Path | None, rank: int, size: int) -> Path | None:
    """The file of this process."""
    path = None if state is None else Path(state)
    return path if path is None or size == 1 else path.with_name(f"{path.stem}.{rank}-of-{size}{path.suffix}")


def _progress(found: Examples | None, batches: int) -> Progress:
    """What is written down of a pass."""
    if found is None:
        return Progress({}, {}, batches)
    tensors = {"scores": found.scores, "index": found.index, "place": found.place}
    tensors |= {f"image {i}": image.contiguous() for i, image in found.images.items()}
    field = None if found.field is None else [asdict(axis) for axis in found.field]
    return Progress(tensors, {"field": field, "layer": found.layer, "by": found.by, "seen": found.seen}, batches)


def _restored(progress: Progress) -> Examples | None:
    """A pass as it was written down."""
    if not progress.tensors:
        return None
    tensors, about = dict(progress.tensors), dict(progress.about)
    scores, index, place = (tensors.pop(name) for name in ("scores", "index", "place"))
    images = {int(name.removeprefix("image ")): image for name, image in tensors.items()}
    field = about.pop("field")
    field = None if field is None else tuple(Field(**axis) for axis in field)
    return Examples(scores, index, place, dict(sorted(images.items())), field, **about)


def _of_batch(
    model: nn.Module | Callable, x: Tensor, layer: str, k: int, by: str, there: Mapping[str, Any], first: int = 0
) -> Examples:
    """The best examples of one batch, whose indices count from `first`."""
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
    index = torch.arange(first, first + len(x)).expand(units, -1)
    best = best_of(k, empty, (scores.T, index, where.transpose(0, 1)))
    images = kept_of(dict(enumerate(x.detach().cpu(), first)), best[1])
    return Examples(*best, images, receptive_field(plain, node), node.name, by, len(x))


def _model(model: nn.Module | Callable) -> str:
    """By what a changed model is told apart; a function is not looked into."""
    return fingerprint(dict(model.state_dict())) if isinstance(model, nn.Module) else ""


def _batches(data: Dataset | Tensor | Iterable, batch_size: int) -> "Iterator[Tensor] | list[Tensor]":
    if isinstance(data, Dataset):
        data = data.x
    if isinstance(data, Tensor):
        return list(data.split(batch_size)) if len(data) else []
    return (batch[0] if isinstance(batch, list | tuple) else batch for batch in data)
