"""The number of threads: chosen by the work, and put back."""

import pytest
import torch
from torch import nn

from cutaway import nets
from cutaway.errors import ArgumentError
from cutaway.train import Epoch, fit
from cutaway.train.batches import Arrays, Loader
from cutaway.train.threads import operations, using_threads
from tests.train.common import blobs, seeded


def test_operations_are_twice_the_multiply_adds_of_the_paper() -> None:
    source = Arrays(torch.zeros(4, 1, 32, 32), torch.zeros(4), batch_size=4)
    maps = 6 * 28 * 28 * 25 + 16 * 10 * 10 * 150 + 120 * 400 + 84 * 120 + 10 * 84  # multiply-adds of one image
    assert operations(nets.make("lenet5", seed=0), source) == 4 * 2 * maps
    assert operations(nn.Linear(1, 1), Loader([])) is None


def test_small_steps_use_one_thread_and_the_number_comes_back() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []

    def look(epoch: Epoch) -> None:
        seen.append(torch.get_num_threads())

    for threads in (None, 2):
        net = seeded(lambda: nn.Linear(2, 3))
        fit(net, blobs(), epochs=1, callbacks=[look], threads=threads, progress=False)
    assert seen == [1, 2] and torch.get_num_threads() == before


def test_large_steps_keep_the_number_of_torch() -> None:
    before = torch.get_num_threads()
    source = Arrays(torch.zeros(4096, 256), torch.zeros(4096), batch_size=4096)
    with using_threads(None, nn.Linear(256, 256), source) as number:
        assert number == before
    with pytest.raises(ArgumentError, match="threads=0"), using_threads(0, nn.Linear(1, 1), source):
        pass


def test_tiny_steps_go_without_onednn_and_it_comes_back() -> None:
    seen: list[bool] = []
    for size in (1, 64):
        x, y = torch.randn(64, 1, 32, 32), torch.zeros(64, dtype=torch.int64)
        fit(
            nets.make("lenet5", seed=0), (x[:size], y[:size]), epochs=1, batch_size=size, progress=False,
            callbacks=[lambda epoch: seen.append(torch._C._get_mkldnn_enabled())],
        )  # fmt: skip
    assert seen == [False, True] and torch._C._get_mkldnn_enabled()
