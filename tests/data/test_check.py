"""Broken data are named before training starts."""

import numpy as np
import pytest
import torch

from cutaway import data
from cutaway.errors import DataError


def make(x=None, y=None, **fields):
    x = torch.rand(6, 1, 4, 4) if x is None else x
    y = torch.arange(6) % 3 if y is None else y
    return data.Dataset(x, y, ("a", "b", "c"), "toy", "toy.npz", **fields)


def test_sound_data_pass_and_come_back():
    sound = make()
    assert data.check(sound) is sound
    assert data.check(sound, shape=(1, 4, 4)) is sound


def broken(value):
    x = torch.rand(6, 1, 4, 4)
    x[4, 0, 2, 3] = value
    return x


@pytest.mark.parametrize(
    ("data_set", "message"),
    [
        (make(broken(float("nan"))), r"toy: toy.npz, index 4: value nan at \[0, 2, 3\]"),
        (make(broken(float("-inf"))), r"toy: toy.npz, index 4: value -inf at \[0, 2, 3\]"),
        (make(broken(255.0)), r"toy.npz, index 4: value 255.0 at \[0, 2, 3\]; images are floats in \[0, 1\]"),
        (make(y=torch.tensor([0, 1, 2, 3, 1, 7])), r"index 3: label 3 is outside the 3 classes 0 … 2 \(2 examples"),
        (make(y=torch.tensor([0, 1, -1, 0, 1, 2])), r"index 2: label -1"),
        (make(y=torch.arange(5) % 3), r"6 examples but 5 labels"),
        (make(y=torch.zeros(6)), r"y is torch.float32"),
        (make(torch.zeros(6, 1, 4, 4, dtype=torch.uint8)), r"x is torch.uint8; expected floats"),
        (make(torch.rand(6)), r"shape \(6,\); expected"),
        (make()[:0], "this split is empty"),
        (make(files=tuple(f"f{i}.png" for i in range(6)), x=broken(2.0))[2:], r"toy: f4.png, index 4: value 2.0"),
    ],
)
def test_broken_data_are_named(data_set, message):
    with pytest.raises(DataError, match=message):
        data.check(data_set)


def test_a_shape_can_be_demanded():
    with pytest.raises(DataError, match=r"shape \(1, 4, 4\); expected \(1, 8, 8\)"):
        data.check(make(), shape=(1, 8, 8))
    assert data.check(make(broken(2.0)), unit_range=False).x.max() == 2


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.full((20, 4, 4), np.nan), "y": np.arange(20) % 2}, "set.npz: x, index 0: value nan"),
        ({"x": np.zeros((20, 4, 4)), "y": np.r_[np.arange(19) % 2, -3]}, "set.npz: x, index 19: label -3"),
        ({"x": np.zeros((20, 4, 4)), "y": np.r_[np.arange(19) % 2, 0.5]}, "set.npz: y, index 19: label 0.5"),
        ({"x": np.zeros((20, 4, 4)), "y": np.arange(19)}, "20 examples but y 19 labels"),
        ({"x": np.zeros((20, 4, 4, 2, 2)), "y": np.arange(20)}, r"shape \(20, 4, 4, 2, 2\)"),
        ({"x": np.zeros((0, 4, 4)), "y": np.zeros(0, int)}, "this split is empty"),
        ({"x": np.zeros((2, 4, 4)), "y": np.zeros(2, int)}, "split would be empty"),
        ({"x": np.array(["a"] * 5), "y": np.zeros(5, int)}, "values of type <U1"),
        ({"x": np.zeros((5, 4, 4))}, "has x but no y"),
        ({"images": np.zeros((5, 4, 4))}, "holds images; expected x and y"),
        ({"x": np.array([None] * 5), "y": np.zeros(5, int)}, "cannot be read as .npz"),
    ],
)
def test_broken_npz_files_are_named(tmp_path, arrays, message):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(DataError, match=message):
        data.load(f"npz:{tmp_path}/set.npz")


def test_damaged_and_missing_files(tmp_path):
    (tmp_path / "set.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(DataError, match="cannot be read"):
        data.load(f"npz:{tmp_path}/set.npz")
    for name in ("npz:missing.npz", "csv:missing.csv", "imagefolder:missing"):
        with pytest.raises(DataError, match=r"missing.*: no such f"):
            data.load(name)
