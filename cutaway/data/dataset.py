"""A data set held in memory, and the order in which training walks over it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cutaway.errors import ArgumentError
from cutaway.rng import generator


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples and their labels, resident in memory.

    Args:
        x: examples `(N, C, H, W)`, floats in [0, 1]; tables are `(N, D)`, any floats.
        y: labels `(N,)`, int64 indices into `classes`.
        classes: the names of the classes.
        name: what the set is called, such as "digits test".
        source: where it came from: a file, a folder, a library.
        index: place of every example in its source, `(N,)`; 0 … N-1 when not given.
        files: name of the file of every place in the source, empty when the source is one file.

    >>> data = Dataset(torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 1, 0]), classes=("a", "b"))
    >>> len(data), len(data[1:]), data[[0, 3]].y.tolist(), data[1].x.shape
    (4, 3, [0, 0], torch.Size([1, 1, 8, 8]))
    """

    x: Float[Tensor, "n ..."]
    y: Int64[Tensor, "n"]
    classes: tuple[str, ...]
    name: str = "data"
    source: str = "memory"
    index: Int64[Tensor, "n"] = field(default=None)  # type: ignore[assignment]
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.index is None:
            object.__setattr__(self, "index", torch.arange(len(self.y)))

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, which: int | slice | Sequence[int] | Tensor) -> "Dataset":
        """The examples chosen by a number, slice, list, tensor of places or Boolean mask, again as a data set."""
        if isinstance(which, int):
            which = slice(which, which + 1 or None)
        chosen = which if isinstance(which, (slice, Tensor)) else torch.as_tensor(which, dtype=torch.long)
        return replace(self, x=self.x[chosen], y=self.y[chosen], index=self.index[chosen])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example, `(C, H, W)` for images."""
        return tuple(self.x.shape[1:])

    def to(self, device: str | torch.device) -> "Dataset":
        """The same data on another device."""
        return replace(self, x=self.x.to(device), y=self.y.to(device))

    def named(self, name: str) -> "Dataset":
        """The same data under another name."""
        return replace(self, name=name)

    def place(self, i: int) -> str:
        """Where example `i` came from, in words for messages."""
        if i >= len(self.index):
            return f"{self.source}, index {i}"
        origin = int(self.index[i])
        return f"{self.files[origin]}, index {origin}" if self.files else f"{self.source}, index {origin}"

    def order(self, seed: int | None, epoch: int = 0) -> Int64[Tensor, "n"]:
        """The places of the examples in the order of one epoch, a function of (seed, epoch); as stored for None."""
        if seed is None:
            return torch.arange(len(self))
        return torch.randperm(len(self), generator=generator(seed, "order", epoch))

    def batches(
        self, batch_size: int, *, seed: int | None = None, epoch: int = 0, start: int = 0, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Walk over one epoch in batches `(x, y)`, in an order that depends on (seed, epoch) alone.

        Args:
            batch_size: examples in a batch, at least 1; the last batch may be smaller.
            seed: of the shuffling; None keeps the stored order.
            epoch: number of the epoch, from 0.
            start: examples of this epoch already seen (the cursor to resume at, batch number × batch size).
            drop_last: leave out the last batch if it is smaller.

        Raises:
            ArgumentError: when batch_size is below 1 or start outside [0, N].

        >>> data = Dataset(torch.arange(6.0).reshape(6, 1), torch.zeros(6, dtype=torch.long), classes=("a",))
        >>> whole = [x.flatten().tolist() for x, _ in data.batches(2, seed=0, epoch=1)]
        >>> whole[1:] == [x.flatten().tolist() for x, _ in data.batches(2, seed=0, epoch=1, start=2)]
        True
        """
        if batch_size < 1 or not 0 <= start <= len(self):
            raise ArgumentError(
                f"batch_size={batch_size}, start={start}: expected batch_size ≥ 1 and start in [0, {len(self)}]"
            )
        return self._walk(batch_size, seed, epoch, start, drop_last)

    def _walk(
        self, batch_size: int, seed: int | None, epoch: int, start: int, drop_last: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        stop = len(self) - batch_size + 1 if drop_last else len(self)
        if seed is None:
            for i in range(start, stop, batch_size):
                yield self.x[i : i + batch_size], self.y[i : i + batch_size]
            return
        order = self.order(seed, epoch).to(self.x.device)
        for i in range(start, stop, batch_size):
            chosen = order[i : i + batch_size]
            yield self.x[chosen], self.y[chosen]


@dataclass(frozen=True)
class Parts:
    """What a source holds: a training part, and where it has them, official validation and test parts."""

    train: Dataset
    validation: Dataset | None = None
    test: Dataset | None = None

    @property
    def only_test(self) -> bool:
        """Whether the source is for testing alone: its training and validation parts are there and empty."""
        return len(self.train) == 0 and self.validation is not None and len(self.validation) == 0


def statistics(data: Dataset) -> tuple[Float[Tensor, "c"], Float[Tensor, "c"]]:
    """Mean and standard deviation per channel, over all examples and pixels; use training data only.

    Args:
        data: with x `(N, C, H, W)` or `(N, C)`.

    Returns:
        mean `(C,)` and standard deviation `(C,)`; a channel that never changes gets standard deviation 1.

    Raises:
        ArgumentError: for an empty data set.

    >>> data = Dataset(torch.tensor([[[[0.0, 1.0]]], [[[0.0, 1.0]]]]), torch.tensor([0, 0]), classes=("a",))
    >>> [value.tolist() for value in statistics(data)]
    [[0.5], [0.5]]
    """
    if len(data) == 0:
        raise ArgumentError(f"{data.name} is empty; statistics need at least one example")
    total = torch.zeros(data.x.shape[1], dtype=torch.float64)
    square = torch.zeros_like(total)
    for chunk in data.x.detach().cpu().split(4096):  # double precision without a copy of the whole set
        flat = chunk.double().transpose(0, 1).flatten(1)  # (C, n·H·W)
        total += flat.sum(1)
        square += flat.square().sum(1)
    count = data.x.numel() / data.x.shape[1]
    mean = total / count
    std = (square / count - mean.square()).clamp(min=0).sqrt()
    std = torch.where(std > 1e-6, std, 1.0)
    return mean.to(data.x.dtype), std.to(data.x.dtype)


def stratified(y: Int64[Tensor, "n"], fraction: float | int, seed: int) -> tuple[Tensor, Tensor]:
    """Split places in two so that every class keeps its share, fixed by the seed.

    Args:
        y: labels `(N,)`.
        fraction: share of the second part in (0, 1), or its number of examples (an int).
        seed: of the drawing.

    Returns:
        the places of the first and of the second part, each in ascending order.

    Raises:
        ArgumentError: when the fraction leaves one part without examples.

    >>> rest, held = stratified(torch.tensor([0] * 8 + [1] * 4), 0.25, seed=0)
    >>> torch.tensor([0] * 8 + [1] * 4)[held].tolist()
    [0, 0, 1]
    """
    wanted = fraction if isinstance(fraction, int) else round(fraction * len(y))
    if not 0 < wanted < len(y):
        raise ArgumentError(f"fraction={fraction} of {len(y)} examples leaves one part of the split empty")
    shuffled = torch.randperm(len(y), generator=generator(seed, "split"))
    labels = y[shuffled]
    # Largest remainder: whole shares first, then one more for the classes with the largest fractions.
    classes, counts = torch.unique(y, return_counts=True)
    exact = counts.double() * wanted / len(y)
    take = exact.floor().long()
    for place in torch.argsort(take - exact, stable=True)[: wanted - int(take.sum())]:
        take[place] += 1
    held = torch.zeros(len(y), dtype=torch.bool)
    for label, number in zip(classes.tolist(), take.tolist(), strict=True):
        held[shuffled[labels == label][:number]] = True
    return torch.nonzero(~held).flatten(), torch.nonzero(held).flatten()
