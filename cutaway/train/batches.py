"""Where batches come from: their order is a function of seed and epoch, so that training can go on anywhere."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cutaway.errors import ArgumentError, DataError
from cutaway.rng import derive, generator

Batch = tuple[Tensor, Tensor]
Augment = Callable[[Tensor, torch.Generator], Tensor]

_FETCHED = 1 << 20  # numbers of inputs that are fetched at once


@dataclass(frozen=True)
class Arrays:
    """Examples that lie in memory, shuffled anew each epoch.

    Args:
        x: inputs `(N, …)`.
        y: targets `(N, …)`.
        batch_size: examples per step.
        seed: with the epoch it fixes the order.
        drop_last: leave out a smaller last batch.
        shuffle: draw a new order every epoch; without, the examples come in their own.

    >>> source = Arrays(torch.arange(5.0), torch.arange(5), batch_size=2)
    >>> [y.tolist() for _, y in source.epoch(0, 1)] == [y.tolist() for _, y in source.epoch(0)][1:]
    True
    """

    x: Tensor
    y: Tensor
    batch_size: int
    seed: int = 0
    drop_last: bool = False
    shuffle: bool = True

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        whole, rest = divmod(len(self.x), self.batch_size)
        return max(whole + (rest > 0 and not self.drop_last), 1)

    def order(self, epoch: int) -> Tensor:
        """The examples' order in an epoch, `(N,)`."""
        if not self.shuffle:
            return torch.arange(len(self.x))
        return torch.randperm(len(self.x), generator=generator(self.seed, "order", epoch))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from a cursor on."""
        size = self.batch_size
        together = max(1, min(_FETCHED // max(self.x[:1].numel() * size, 1), 64))  # batches fetched at once
        order = self.order(epoch)[start * size : self.steps * size].to(self.x.device)
        for rows in order.split(together * size) if len(order) else ():
            yield from zip(self.x[rows].split(size), self.y[rows].split(size), strict=True)


@dataclass(frozen=True)
class Loader:
    """Batches that somebody else makes: a torch DataLoader or any iterable of (x, y) that can be started again.

    Args:
        loader: the iterable. The order of a DataLoader becomes a function of seed and epoch; any other
            iterable has to give the same batches for the same epoch by itself (`set_epoch` is called if it is there).
        device: where the batches go.
        seed: with the epoch it fixes the order of a DataLoader.

    >>> source = Loader([(torch.zeros(2), torch.zeros(2))] * 3)
    >>> len(list(source.epoch(0, 1)))
    2
    """

    loader: Iterable[Any]
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    seed: int = 0

    @property
    def steps(self) -> int | None:
        """Batches per epoch, None when the iterable has no length."""
        try:
            return len(self.loader)  # pyright: ignore[reportArgumentType]
        except TypeError:
            return None

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from a cursor on; those before it are drawn and dropped."""
        for place in (self.loader, getattr(self.loader, "sampler", None)):
            if callable(tell := getattr(place, "set_epoch", None)):
                tell(epoch)
        before, count = torch.get_rng_state(), 0
        for count, item in enumerate(self._start(epoch), 1):
            if count == start:
                torch.set_rng_state(before)  # what the dropped batches drew must not count
            if count > start:
                x, y = as_batch(item)
                yield place_inputs(x, self.device, self.dtype), place_targets(y, self.device, self.dtype)
        if count == 0:
            raise DataError(
                f"the data gave no batch in pass {epoch + 1}: they are empty or used up; give something that can be "
                "iterated again (a list, a DataLoader), not a generator that is used up"
            )

    def _start(self, epoch: int) -> Iterator[Any]:
        """Start the iterable with its random numbers fixed, and leave the global ones as they were."""
        own = getattr(self.loader, "generator", None) or getattr(
            getattr(self.loader, "sampler", None), "generator", None
        )
        if isinstance(own, torch.Generator):
            own.manual_seed(derive(self.seed, "order", epoch))
        before = torch.get_rng_state()
        torch.manual_seed(derive(self.seed, "order", epoch))
        iterator = iter(self.loader)
        first = next(iterator, None)  # a sampler draws its permutation with the first batch
        torch.set_rng_state(before)
        if first is not None:
            yield first
            yield from iterator


Source = Arrays | Loader


def as_batch(item: Any) -> tuple[Any, Any]:
    """Take a batch apart into inputs and targets.

    >>> as_batch([1, 2])
    (1, 2)
    """
    if isinstance(item, list | tuple) and len(item) == 2:
        return item[0], item[1]
    if isinstance(item, dict):
        for x, y in (("x", "y"), ("image", "label"), ("pixel_values", "labels"), ("input", "target")):
            if x in item and y in item:
                return item[x], item[y]
    given = sorted(item) if isinstance(item, dict) else type(item).__name__
    raise DataError(f"a batch is {given}; expected a pair (x, y) of inputs and targets")


def as_arrays(data: Any) -> tuple[Any, Any] | None:
    """Inputs and targets of data that lie in memory (a Dataset, a pair of arrays), None for loaders.

    >>> as_arrays((torch.zeros(2), torch.zeros(2))) is not None
    True
    """
    if hasattr(data, "x") and hasattr(data, "y"):
        return data.x, data.y
    pair = isinstance(data, list | tuple) and len(data) == 2 and all(hasattr(part, "shape") for part in data)
    return (data[0], data[1]) if pair else None


def place_inputs(x: Any, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """Make a tensor on the device, floating-point numbers in the model's precision."""
    made = torch.as_tensor(x)
    return made.to(device, dtype if made.is_floating_point() else made.dtype, non_blocking=True)


def place_targets(y: Any, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """Make a tensor on the device; integers become int64 class indices."""
    made = torch.as_tensor(y)
    return made.to(device, dtype if made.is_floating_point() else torch.int64, non_blocking=True)


def make_source(
    data: Any,
    batch_size: int,
    seed: int,
    device: torch.device | str,
    dtype: torch.dtype,
    drop_last: bool = False,
    shuffle: bool = True,
) -> Source:
    """Make a source of batches from a Dataset, a pair of arrays, a DataLoader or any iterable of (x, y).

    Raises:
        DataError: x and y differ in length or are empty.
        ArgumentError: the data are of no known kind.

    >>> make_source((torch.zeros(5, 2), torch.zeros(5)), 2, 0, "cpu", torch.float32).steps
    3
    """
    arrays = as_arrays(data)
    if arrays is None:
        if not hasattr(data, "__iter__"):
            kinds = "a Dataset, a pair (x, y) of arrays or an iterable of batches"
            raise ArgumentError(f"data of type {type(data).__name__}: expected {kinds}")
        return Loader(data, device, dtype, seed)
    x, y = place_inputs(arrays[0], device, dtype), place_targets(arrays[1], device, dtype)
    if len(x) != len(y):
        raise DataError(f"{len(x)} inputs but {len(y)} targets: x and y must have the same length")
    if len(x) == 0:
        raise DataError("the data are empty: at least one example is needed")
    return Arrays(x, y, min(batch_size, len(x)), seed, drop_last, shuffle)


def in_order(data: Any, batch_size: int, device: torch.device | str, dtype: torch.dtype) -> Iterator[Batch]:
    """The batches of data for measuring: in their own order, nothing left out.

    >>> [len(x) for x, _ in in_order((torch.zeros(5, 2), torch.zeros(5)), 2, "cpu", torch.float32)]
    [2, 2, 1]
    """
    source = make_source(data, batch_size, 0, device, dtype)
    if isinstance(source, Loader):
        yield from source.epoch(0)
        return
    yield from zip(source.x.split(batch_size), source.y.split(batch_size), strict=True)
