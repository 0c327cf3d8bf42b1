"""The best examples are the best, from one pass over batches; receptive fields are where gradients can reach."""

import pytest
import torch
from torch import nn

from cutaway.data import Dataset
from cutaway.errors import ArgumentError, LookupFailure
from cutaway.graph import capture
from cutaway.visualize import dataset_examples
from cutaway.visualize.field import receptive_field


@pytest.mark.parametrize("by", ["max", "mean"])
def test_the_best_are_those_of_a_sort_over_everything(small, by):
    x = torch.rand(50, 3, 12, 12)
    x[30] = x[4]  # equal scores: the earlier one first
    found = dataset_examples(small, x, "add", k=5, by=by, batch_size=7, progress=False)
    small.eval()
    maps = small.maps(x)[1].detach().flatten(2)
    scores = maps.amax(2) if by == "max" else maps.mean(2)
    order = scores.sort(dim=0, descending=True, stable=True)
    torch.testing.assert_close(found.scores, order.values[:5].T)
    best = scores.gather(0, found.index.T)
    torch.testing.assert_close(best, order.values[:5])
    assert found.seen == 50
    for unit in range(6):
        assert torch.equal(found.top(unit), x[found.index[unit]])
        row = found.index[unit].tolist()
        assert 30 not in row or 4 not in row or row.index(4) < row.index(30)


def test_places_are_where_the_maximum_lies(small):
    x = torch.rand(9, 3, 12, 12)
    found = dataset_examples(small, x, "relu", k=2, batch_size=4, progress=False)
    small.eval()
    maps = small.maps(x)[0].detach()
    for unit in range(6):
        for score, index, place in zip(found.scores[unit], found.index[unit], found.place[unit], strict=True):
            torch.testing.assert_close(maps[index, unit, place[0], place[1]], score)
    crop, place = found.crops(0)[0], found.place[0, 0]
    top, left = max(0, int(place[0]) - 1), max(0, int(place[1]) - 1)
    assert torch.equal(crop, x[found.index[0, 0], :, top : int(place[0]) + 2, left : int(place[1]) + 2])


def test_every_source_of_data_gives_the_same_and_parts_join(small):
    x = torch.rand(20, 3, 12, 12)
    labels = torch.zeros(20, dtype=torch.long)
    whole = dataset_examples(small, x, "add", k=4, progress=False)
    stream = ((part, labels[: len(part)]) for part in x.split(6))
    for each in (
        dataset_examples(small, Dataset(x, labels, ("a",)), "add", k=4, batch_size=3, progress=False),
        dataset_examples(small, stream, "add", k=4, progress=False),
        dataset_examples(small, x[:8], "add", k=4).merged(dataset_examples(small, x[8:], "add", k=4)),
    ):
        assert torch.equal(each.index, whole.index) and torch.equal(each.place, whole.place)
        assert set(each.images) == set(whole.index.unique().tolist())


def test_memory_does_not_grow_with_the_data(small):
    found = dataset_examples(small, (torch.rand(8, 3, 12, 12) for _ in range(12)), "add", k=2, progress=False)
    assert found.seen == 96 and len(found.images) <= 12
    assert all(image.untyped_storage().nbytes() == image.nbytes for image in found.images.values())


def test_few_examples_and_layers_without_places(small, tmp_path):
    found = dataset_examples(small, torch.rand(3, 3, 12, 12), "output", k=5, progress=False)
    assert (found.index[:, 3:] == -1).all() and found.scores[:, 3:].isneginf().all()
    assert len(found.top(0)) == 3 and found.crops(0)[0].shape == (3, 12, 12)
    assert found.save(tmp_path / "examples.png").stat().st_size > 5_000
    assert found.save(tmp_path / "examples.npz").exists()


NETS = {
    "strides": (nn.Conv2d(1, 2, 5, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(2, 2, 3, padding=1)),
    "dilation": (nn.Conv2d(1, 2, 3, padding=2, dilation=2), nn.BatchNorm2d(2), nn.AvgPool2d(2)),
    "sides": (nn.Conv2d(1, 2, (1, 5), (1, 3), (0, 2)), nn.Sigmoid()),
}


@pytest.mark.parametrize("name", NETS)
def test_receptive_field_is_where_gradients_reach(name):
    net = nn.Sequential(*NETS[name]).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.uniform_(0.1, 1)
    x = torch.rand(1, 1, 24, 24, dtype=torch.float64)
    graph = capture(net, x)
    fields = receptive_field(graph, graph["output"])
    size = net(x).shape[2:]
    # a maximum can come from anywhere in its window, but sends its gradient to one place: a mean sends it to all
    oracle = [nn.AvgPool2d(m.kernel_size, m.stride) if isinstance(m, nn.MaxPool2d) else m for m in net]
    for place in ((0, 0), (size[0] // 2, size[1] // 2), (size[0] - 1, size[1] - 1)):
        y = x.clone().requires_grad_()
        (adjoint,) = torch.autograd.grad(nn.Sequential(*oracle)(y)[0, 0, place[0], place[1]], y)
        reached = adjoint[0, 0] != 0
        for axis, found in enumerate(fields):
            lines = reached.any(1 - axis).nonzero()[:, 0]
            assert found.at(place[axis], 24) == (int(lines[0]), int(lines[-1]) + 1)


def test_a_place_that_sees_everything_has_no_field(small, x):
    graph = capture(small, x)
    assert receptive_field(graph, graph["output"]) is None
    assert receptive_field(graph, graph["add"])[0].at(6, 12) == (4, 9)


def test_what_does_not_fit_is_refused(small, x):
    with pytest.raises(ArgumentError, match="k=0"):
        dataset_examples(small, x, "add", k=0)
    with pytest.raises(LookupFailure, match="'mean'"):
        dataset_examples(small, x, "add", by="means")
    with pytest.raises(ArgumentError, match="empty"):
        dataset_examples(small, x[:0], "add")
    with pytest.raises(LookupFailure, match="'add'"):
        dataset_examples(small, x, "ad")
    with pytest.raises(ArgumentError, match="0 … 5"):
        dataset_examples(small, x, "add", k=1).top(6)
