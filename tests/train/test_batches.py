"""The order of the batches and the cursor into it."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from cutaway.errors import ArgumentError, DataError
from cutaway.train.batches import Arrays, Loader, make_source

X, Y = torch.arange(10.0)[:, None], torch.arange(10)


def rows(batches: Iterator[tuple[Tensor, Tensor]]) -> list[list[int]]:
    return [y.tolist() for _, y in batches]


def sources() -> dict[str, Arrays | Loader]:
    loader = DataLoader(TensorDataset(X, Y), batch_size=3, shuffle=True)
    own = DataLoader(TensorDataset(X, Y), batch_size=3, shuffle=True, generator=torch.Generator())
    fixed = [(X[i : i + 3], Y[i : i + 3]) for i in range(0, 10, 3)]
    return {"arrays": Arrays(X, Y, 3), "loader": Loader(loader), "own generator": Loader(own), "list": Loader(fixed)}


@pytest.mark.parametrize("kind", ["arrays", "loader", "own generator", "list"])
def test_cursor_goes_on_where_the_epoch_stood(kind: str) -> None:
    source = sources()[kind]
    whole = rows(source.epoch(2))
    assert sorted(place for batch in whole for place in batch) == list(range(10)) and source.steps == len(whole) == 4
    torch.manual_seed(99)  # whatever the global state is
    for start in range(5):
        assert rows(sources()[kind].epoch(2, start)) == whole[start:]


@pytest.mark.parametrize("kind", ["arrays", "loader", "own generator"])
def test_epochs_differ_and_seeds_differ(kind: str) -> None:
    source = sources()[kind]
    assert rows(source.epoch(0)) != rows(source.epoch(1))


def test_inputs_and_targets_stay_together() -> None:
    for x, y in Arrays(X, Y, 3).epoch(0):
        assert torch.equal(x[:, 0].long(), y)


def test_loader_leaves_the_global_generator_alone_while_it_shuffles() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    list(sources()["loader"].epoch(0))
    assert torch.equal(torch.rand(3), expected)


def test_last_small_batch_can_be_dropped() -> None:
    assert [len(y) for _, y in Arrays(X, Y, 3, drop_last=True).epoch(0)] == [3, 3, 3]


def test_dictionaries_and_integer_types_are_taken() -> None:
    source = Loader([{"image": X, "label": Y.to(torch.uint8)}])
    ((x, y),) = source.epoch(0)
    assert x.dtype == torch.float32 and y.dtype == torch.int64


def test_wrong_data_are_named() -> None:
    with pytest.raises(DataError, match="10 inputs but 9 targets"):
        make_source((X, Y[:9]), 2, 0, "cpu", torch.float32)
    with pytest.raises(DataError, match="empty"):
        make_source((X[:0], Y[:0]), 2, 0, "cpu", torch.float32)
    with pytest.raises(ArgumentError, match="int"):
        make_source(3, 2, 0, "cpu", torch.float32)
    used_up = Loader(pair for pair in [(X, Y)])
    assert len(list(used_up.epoch(0))) == 1
    with pytest.raises(DataError, match="not a generator that is used up"):
        list(used_up.epoch(1))
    with pytest.raises(DataError, match="expected a pair"):
        list(Loader([(X, Y, Y)]).epoch(0))
