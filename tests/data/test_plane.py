"""The classic two-dimensional sets lie where their formulas say."""

import math
from typing import ClassVar

import pytest
import torch
from PIL import Image

from cutaway import data
from cutaway.errors import ArgumentError, DataError


@pytest.mark.parametrize(
    ("name", "classes"), [("moons", 2), ("circles", 2), ("spirals", 3), ("xor", 2), ("checkerboard", 2)]
)
def test_sets_are_split_and_fixed_by_the_seed(name, classes):
    settings = {"arms": 3} if name == "spirals" else {}
    first, second, other = (data.load(name, seed=seed, n=300, **settings) for seed in (1, 1, 2))
    assert sum(map(len, first)) == 300 and first[0].shape == (2,) and len(first[0].classes) == classes
    assert torch.equal(first[0].x, second[0].x) and not torch.equal(first[0].x, other[0].x)
    assert first[0].y.unique().tolist() == list(range(classes))
    noisy = data.load(name, seed=1, n=300, noise=0.5, **settings)
    assert not torch.equal(noisy[0].x, first[0].x)
    with pytest.raises(ArgumentError, match="n=1"):
        data.load(name, n=1)


def whole(name, **settings):
    parts = data.load(name, seed=0, n=600, noise=0.0, **settings)
    return torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts])


def test_formulas():
    x, y = whole("moons")
    torch.testing.assert_close(x[y == 0].norm(dim=1), torch.ones(300))
    torch.testing.assert_close((x[y == 1] - torch.tensor([1.0, 0.5])).norm(dim=1), torch.ones(300))
    assert x[y == 0][:, 1].min() >= 0 and x[y == 1][:, 1].max() <= 0.5
    x, y = whole("circles", factor=0.3)
    torch.testing.assert_close(x.norm(dim=1), torch.where(y == 0, 1.0, 0.3))
    x, y = whole("spirals", arms=2, turns=1.0)
    radius = x.norm(dim=1)
    phase = torch.atan2(x[:, 1], x[:, 0]) - 2 * math.pi * radius - math.pi * y
    torch.testing.assert_close(torch.cos(phase), torch.ones(600), atol=1e-4, rtol=0)
    x, y = whole("xor")
    assert torch.equal(y == 1, (x[:, 0] > 0) != (x[:, 1] > 0))
    x, y = whole("checkerboard", squares=4)
    column, row = ((x + 1) * 2).floor().long().T
    assert torch.equal(y, (column + row) % 2)


def test_arrays_become_a_checked_set():
    made = data.from_arrays(torch.rand(10, 8, 8), [0, 1] * 5, classes=("even", "odd"))
    assert made.shape == (1, 8, 8) and made.classes == ("even", "odd") and made.y.dtype == torch.int64
    assert [len(part) for part in data.split(made, validation=2, test=2)] == [6, 2, 2]
    with pytest.raises(DataError, match="index 3: label 7"):
        data.from_arrays(torch.rand(4, 2), [0, 1, 0, 7], classes=("a", "b"))
    with pytest.raises(DataError, match="images are floats"):
        data.from_arrays(torch.rand(4, 1, 2, 2) * 255, [0, 1, 0, 1])


def test_hub_sets_are_read_or_their_failure_explained(monkeypatch):
    monkeypatch.setattr(data.hub, "datasets", None)
    with pytest.raises(DataError, match="datasets is not installed"):
        data.load("hub:mnist")

    class Rows(list):
        features: ClassVar = {"image": None, "label": type("ClassLabel", (), {"names": ["dark", "light"]})()}

    class Hub:
        @staticmethod
        def load_dataset(name):
            if name != "owner/shades":
                raise ConnectionError("offline\nmore")
            shades = [{"image": Image.new("L", (6, 4), 200 * (i % 2)), "label": i % 2} for i in range(20)]
            return {"train": Rows(shades), "test": Rows(shades[:6])}

    monkeypatch.setattr(data.hub, "datasets", Hub)
    train, validation, test = data.load("hub:owner/shades", validation=4)
    assert (len(train), len(validation), len(test), train.shape) == (16, 4, 6, (1, 4, 6))
    torch.testing.assert_close(train.x[:, 0, 0, 0], train.y * 200 / 255)
    with pytest.raises(DataError, match=r"hub:other: cannot be fetched \(offline\)"):
        data.load("hub:other")
