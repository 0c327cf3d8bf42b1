"""Data by name, splits, order and statistics."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cutaway import data
from cutaway.errors import ArgumentError, DataError, LookupFailure

real = pytest.mark.skipif(not os.environ.get("CUTAWAY_DATA"), reason="CUTAWAY_DATA names no folder of data files")


def test_digits_are_split_without_overlap_and_by_class():
    parts = data.load("digits", seed=0)
    places = torch.cat([part.index for part in parts])
    assert torch.equal(places.sort().values, torch.arange(1797))
    whole = torch.cat([part.y for part in parts]).bincount() / 1797
    for part in parts:
        assert (part.y.bincount() - whole * len(part)).abs().max() <= 1
        assert part.x.dtype == torch.float32 and part.x.min() == 0 and part.x.max() == 1 and part.y.dtype == torch.int64
    again, other = data.load("digits", seed=0), data.load("digits", seed=1)
    assert all(torch.equal(a.x, b.x) for a, b in zip(parts, again, strict=True))
    assert not torch.equal(parts[2].index, other[2].index)
    assert [part.name for part in parts] == ["digits train", "digits validation", "digits test"]


def test_stratified_takes_the_nearest_whole_share_of_every_class():
    y = torch.tensor([0] * 50 + [1] * 30 + [2] * 21)
    rest, held = data.stratified(y, 0.2, seed=1)
    assert y[held].bincount().tolist() == [10, 6, 4] and len(rest) + len(held) == 101
    assert len(data.stratified(y, 7, seed=1)[1]) == 7
    for fraction in (0.0, 1.0, 101):
        with pytest.raises(ArgumentError, match="empty"):
            data.stratified(y, fraction, seed=0)


def test_order_depends_on_seed_and_epoch_alone_and_the_cursor_goes_on():
    part = data.load("digits")[0]
    torch.manual_seed(0)
    first = [y for _, y in part.batches(64, seed=3, epoch=2)]
    torch.manual_seed(1)
    resumed = [y for _, y in part.batches(64, seed=3, epoch=2, start=5 * 64)]
    assert all(torch.equal(a, b) for a, b in zip(first[5:], resumed, strict=True))
    assert torch.equal(torch.cat(first).bincount(), part.y.bincount())
    assert not torch.equal(first[0], next(part.batches(64, seed=3, epoch=3))[1])
    assert not torch.equal(part.order(3, 2), part.order(4, 2))
    assert torch.equal(torch.cat([x for x, _ in part.batches(100)]), part.x)
    assert [len(y) for _, y in part.batches(500, drop_last=True)] == [500, 500]
    for arguments in ({"batch_size": 0}, {"batch_size": 2, "start": len(part) + 1}):
        with pytest.raises(ArgumentError, match="start"):
            part.batches(**arguments)


def test_statistics_are_those_of_numpy():
    x = torch.rand(50, 3, 5, 4)
    x[:, 2] = 0.5
    mean, std = data.statistics(data.Dataset(x, torch.zeros(50, dtype=torch.long), ("a",)))
    np.testing.assert_allclose(mean, x.double().numpy().mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(std[:2], x.double().numpy().std((0, 2, 3))[:2], rtol=1e-6)
    assert std[2] == 1


def test_unknown_names_list_the_nearest():
    with pytest.raises(LookupFailure, match="'digits'"):
        data.load("digit")
    with pytest.raises(LookupFailure, match="'imagefolder:PATH'"):
        data.load("imagefoldr:x")
    with pytest.raises(ArgumentError, match="size"):
        data.load("digits", size=3)


def test_a_missing_file_says_where_it_was_looked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("CUTAWAY_DATA", str(tmp_path))
    for name in ("mnist", "usps", "cifar10", "cifar10_jpeg", "fashion_mnist", "imagenet_samples"):
        with pytest.raises(DataError, match=f"(?s){tmp_path}.*CUTAWAY_DATA"):
            data.load(name)


def test_npz_of_whole_and_of_official_parts(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (40, 6, 5, 3), np.uint8), np.arange(40) % 4
    np.savez(tmp_path / "whole.npz", x=x, y=y)
    train, validation, test = data.load(f"npz:{tmp_path}/whole.npz")
    assert (len(train), len(validation), len(test), train.shape) == (28, 4, 8, (3, 6, 5))
    np.testing.assert_array_equal(train.x.numpy(), x[train.index].transpose(0, 3, 1, 2).astype(np.float32) / 255)
    np.savez(tmp_path / "parts.npz", x_train=x[:30], y_train=y[:30], x_test=x[30:], y_test=y[30:], classes=list("abcd"))
    train, validation, test = data.load(f"npz:{tmp_path}/parts.npz", validation=6)
    assert (len(train), len(validation), len(test), test.classes) == (24, 6, 10, ("a", "b", "c", "d"))
    np.testing.assert_array_equal(test.y, y[30:])


def test_image_folder(tmp_path):
    shades = {}
    for label, name in enumerate(["cat", "dog"]):
        (tmp_path / name).mkdir()
        for i in range(10):
            shades[f"{name}/{i}.png"] = 100 * label + i
            Image.new("RGB", (12, 8), (100 * label + i,) * 3).save(tmp_path / name / f"{i}.png")
    parts = data.load(f"imagefolder:{tmp_path}", size=4)
    assert parts[0].classes == ("cat", "dog") and parts[0].shape == (3, 4, 4)
    assert [len(part) for part in parts] == [14, 2, 4]
    for part in parts:
        for i in range(len(part)):
            file = part.place(i).split(",")[0]
            assert part.x[i].unique().item() * 255 == pytest.approx(shades[str(Path(file).relative_to(tmp_path))])
            assert Path(file).parent.name == part.classes[part.y[i]]


def test_a_broken_picture_is_named_and_refused_or_skipped(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.new("L", (6, 6)).save(tmp_path / name / f"{i}.png")
    (tmp_path / "b" / "3.png").write_bytes((tmp_path / "b" / "3.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"b/3\.png.*skip"):
        data.load(f"imagefolder:{tmp_path}", test=0.4)
    with pytest.warns(UserWarning, match=r"skipped .*b/3\.png"):
        parts = data.load(f"imagefolder:{tmp_path}", test=0.4, validation=2, broken="skip")
    assert sum(len(part) for part in parts) == 9
    Image.new("L", (7, 6)).save(tmp_path / "b" / "3.png")
    with pytest.raises(DataError, match=r"b/3\.png has shape \(3, 6, 7\).*size="):
        data.load(f"imagefolder:{tmp_path}")


def test_centre_crop_and_resize_keep_proportions(tmp_path):
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = 255  # the central square is white
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert data.read_image(tmp_path / "wide.png", 40).min() == 1
    assert data.read_image(tmp_path / "wide.png", 20, resize=40).shape == (3, 20, 20)
    assert data.read_image(tmp_path / "wide.png", resize=20, channels=1).shape == (1, 20, 40)
    assert data.read_image(tmp_path / "wide.png", (10, 40)).shape == (3, 10, 40)


def test_csv_tables(tmp_path):
    file = tmp_path / "iris.csv"
    file.write_text("width,height,species\n" + "".join(f"{i}.5,{i},{'rose' if i % 2 else 'iris'}\n" for i in range(20)))
    train, validation, test = data.load(f"csv:{file}")
    assert train.classes == ("iris", "rose") and [len(train), len(validation), len(test)] == [14, 2, 4]
    assert torch.equal(train.x, torch.stack([train.index + 0.5, train.index.float()], 1))
    assert torch.equal(train.y, train.index % 2)
    with pytest.raises(LookupFailure, match="species"):
        data.load(f"csv:{file}", target="specie")
    for broken, message in [("3,x,rose", "row 21, column 'height': 'x'"), ("3,rose", "row 21: 2 cells")]:
        bad = tmp_path / "bad.csv"
        bad.write_text(file.read_text() + broken + "\n")
        with pytest.raises(DataError, match=message):
            data.load(f"csv:{bad}")
    bad.write_text(file.read_text() + "nan,3,rose\n")
    with pytest.raises(DataError, match=r"index 20: value nan at \[0\]"):
        data.load(f"csv:{bad}")


@real
def test_usps_and_mnist_are_what_the_literature_counts():
    train, validation, test = data.load("usps")
    assert (len(train), len(validation), len(test), train.shape) == (6562, 729, 2007, (1, 16, 16))
    assert (train.y.bincount() + validation.y.bincount()).tolist() == [
        1194,
        1005,
        731,
        658,
        652,
        556,
        664,
        645,
        542,
        644,
    ]
    assert test.y.bincount().tolist() == [359, 264, 198, 166, 200, 160, 170, 147, 166, 177]
    train, validation, test = data.load("mnist", validation=5000)
    assert (len(train), len(validation), len(test), train.shape) == (55000, 5000, 10000, (1, 28, 28))
    total = train.x.double().sum() + validation.x.double().sum()
    assert total.item() / 60000 / 784 == pytest.approx(0.130659, abs=2e-6)


@real
@pytest.mark.slow
def test_cifar10_has_the_known_statistics():
    train, validation, test = data.load("cifar10")
    assert (len(train), len(validation), len(test), train.shape) == (45000, 5000, 500, (3, 32, 32))
    assert train.y.bincount().tolist() == [4500] * 10
    mean, std = data.statistics(train)
    torch.testing.assert_close(mean, torch.tensor([0.49140, 0.48216, 0.44653]), atol=1e-3, rtol=0)
    torch.testing.assert_close(std, torch.tensor([0.24703, 0.24349, 0.26159]), atol=1e-3, rtol=0)
    assert test.classes[3] == "cat" and len(test.place(0)) > 0


@real
def test_imagenet_samples():
    train, validation, test = data.load("imagenet_samples", size=64, resize=64)
    assert (len(train), len(validation), len(test), test.shape, len(test.classes)) == (0, 0, 120, (3, 64, 64), 1000)
    assert "goldfish" in test.place(0) and test.classes[test.y[0]] == "goldfish"
