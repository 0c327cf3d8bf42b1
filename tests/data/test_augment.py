"""Augmentations against their definitions; all are reproducible by seed and leave the global generators alone."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from cutaway import data
from cutaway.data import geometry, pixels
from cutaway.errors import ArgumentError, LookupFailure
from cutaway.rng import generator


@pytest.mark.parametrize("name", data.AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_augmentation_is_fixed_by_its_generator(name, channels, global_randomness_untouched):
    x = torch.rand(8, channels, 12, 16, generator=generator(5))
    kept = x.clone()
    function = data.AUGMENTATIONS[name]
    first, second, other = (function(x, generator(seed)) for seed in (1, 1, 2))
    assert first.shape == x.shape and first.dtype == x.dtype and first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(x, kept)
    changed = (first != x).flatten(1).any(1)
    assert changed.sum() >= 2 and len({tuple(image.flatten().tolist()) for image in first - x}) > 2  # not all alike


def test_flip_mirrors_about_half_of_the_images():
    x = torch.rand(400, 1, 3, 4)
    y = geometry.flip(x, generator(0))
    mirrored = (y == x.flip(3)).flatten(1).all(1)
    assert torch.equal(y[~mirrored], x[~mirrored]) and 160 < mirrored.sum() < 240
    assert torch.equal(geometry.flip(x, generator(0), 1.0, vertical=True), x.flip(2))


def test_shift_moves_by_whole_pixels_without_wrapping():
    x = torch.rand(300, 2, 6, 5) + 1
    y = geometry.shift(x, generator(0), pixels=2, fill=0.0)
    seen = set()
    for before, after in zip(x, y, strict=True):
        found = []
        for dy in range(-2, 3):
            for dx in range(-2, 3):
                moved = np.zeros_like(before)
                rows, columns = slice(max(dy, 0), 6 + min(dy, 0)), slice(max(dx, 0), 5 + min(dx, 0))
                source = slice(max(-dy, 0), 6 + min(-dy, 0)), slice(max(-dx, 0), 5 + min(-dx, 0))
                moved[:, rows, columns] = before[:, source[0], source[1]]
                found += [(dy, dx)] if np.array_equal(moved, after) else []
        assert len(found) == 1
        seen |= set(found)
    assert len(seen) == 25
    repeated = geometry.shift(x, generator(0), pixels=2)
    assert repeated.min() >= 1 and torch.equal(repeated[y > 0], y[y > 0])


def test_a_rotation_by_a_right_angle_is_exact(monkeypatch):
    monkeypatch.setattr(geometry, "uniform", lambda x, generator, low, high: torch.full((len(x),), high))
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(geometry.rotate(x, generator(0), 90.0), torch.rot90(x, -1, (2, 3)), atol=1e-5, rtol=0)
    wide = torch.zeros(1, 1, 5, 21)
    wide[..., 2, :] = 1  # a horizontal line becomes a vertical one of the height of the image: pixels stay square
    turned = geometry.rotate(wide, generator(0), 90.0)
    torch.testing.assert_close(turned[0, 0, :, 10], torch.ones(5), atol=1e-5, rtol=0)
    assert turned[0, 0, :, :9].abs().max() < 1e-5


def test_scale_skew_move_and_crop_go_where_they_should(monkeypatch):
    monkeypatch.setattr(geometry, "uniform", lambda x, generator, low, high: torch.full((len(x),), high))
    y, x = torch.meshgrid(torch.arange(16.0) - 7.5, torch.arange(16.0) - 7.5, indexing="ij")
    ramp = torch.stack([x, y])[None]  # two channels that hold each pixel's own coordinates
    inner = (..., slice(5, 11), slice(5, 11))
    doubled = geometry.rescale(ramp, generator(0), 1.0, 2.0)
    torch.testing.assert_close(doubled[inner], ramp[inner] / 2)
    skewed = geometry.skew(ramp, generator(0), 45.0)
    torch.testing.assert_close(skewed[0, 0][inner], (x + y)[inner])
    torch.testing.assert_close(skewed[0, 1][inner], y[inner])
    moved = geometry.affine(ramp, generator(0), 0.0, (1.0, 1.0), 0.0, 3.0)
    torch.testing.assert_close(moved[inner], ramp[inner] + 3)
    monkeypatch.setattr(geometry, "uniform", lambda x, generator, low, high: torch.full((len(x),), low))
    cut = geometry.crop(ramp, generator(0), 0.5)  # the upper left quarter
    torch.testing.assert_close(cut[0, 0][inner], (x / 2 - 4)[inner])
    for bad in ({"scale": (0.0, 1.0)}, {"skew": 90.0}):
        with pytest.raises(ArgumentError, match="expected"):
            geometry.affine(ramp, generator(0), **bad)


def test_blur_is_scipys_gaussian(monkeypatch):
    monkeypatch.setattr(pixels, "uniform", lambda x, generator, low, high: torch.linspace(0.7, high, len(x)))
    x = torch.rand(3, 2, 15, 18)
    y = pixels.blur(x, generator(0), sigma=1.5)
    for image, blurred, sigma in zip(x.numpy(), y.numpy(), np.linspace(0.7, 1.5, 3), strict=True):
        expected = gaussian_filter(image.astype(np.float64), (0, sigma, sigma), mode="nearest", radius=5)
        np.testing.assert_allclose(blurred, expected, atol=1e-5)


def test_brightness_contrast_color_and_noise_change_what_they_should():
    x = torch.rand(64, 3, 8, 8) * 0.4 + 0.3
    ratio = (pixels.brightness(x, generator(0)) / x).flatten(1)
    assert ratio.std(1).max() < 1e-5 and ratio.min() >= 0.8 and ratio.max() <= 1.2 and ratio.mean(1).std() > 0.05
    y = pixels.contrast(x, generator(0))
    torch.testing.assert_close(y.mean((1, 2, 3)), x.mean((1, 2, 3)))
    stretch = y.std((1, 2, 3)) / x.std((1, 2, 3))
    assert stretch.min() >= 0.79 and stretch.max() <= 1.21 and stretch.std() > 0.05
    balance = (
        pixels.color(x.mean(1, keepdim=True).repeat(1, 3, 1, 1), generator(0)) / x.mean(1, keepdim=True)
    ).flatten(2)
    assert (
        balance.std(2).max() < 1e-5 and balance.min() >= 0.8 and balance.max() <= 1.2
    )  # grey only changes its balance
    difference = pixels.noise(x, generator(0), 0.02) - x
    assert difference.std().item() == pytest.approx(0.02, rel=0.03) and abs(difference.mean()) < 1e-3


def test_cutout_covers_one_square():
    x = torch.zeros(200, 2, 10, 12)
    covered = (pixels.cutout(x, generator(0), size=4, fill=1.0) == 1)[:, 0]
    assert covered.sum((1, 2)).max() == 16 and covered.any(0).all()  # everywhere, and clipped only by the border
    for mask in covered[:40]:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.all() and max(box.shape) <= 4 and min(box.shape) >= 1


def test_mixup_mixes_images_and_labels_by_the_same_weight():
    y = torch.arange(2000) % 5
    x = y[:, None, None, None].float().expand(-1, 1, 2, 2)  # the image tells its label
    mixed, labels = data.mixup(x, y, 5, generator(0), alpha=0.4)
    torch.testing.assert_close(labels.sum(1), torch.ones(2000))
    torch.testing.assert_close(mixed[:, 0, 0, 0], labels @ torch.arange(5.0))
    again, _ = data.mixup(x, y, 5, generator(0), alpha=0.4)
    assert torch.equal(mixed, again)
    own = labels.gather(1, y[:, None])[:, 0]
    different = (labels > 0).sum(1) == 2
    variance = 0.25 / (2 * 0.4 + 1)  # of Beta(0.4, 0.4)
    assert own[different].mean().item() == pytest.approx(0.5, abs=0.03)
    assert own[different].std().item() == pytest.approx(math.sqrt(variance), abs=0.02)
    with pytest.raises(ArgumentError, match="alpha=0"):
        data.mixup(x, y, 5, generator(0), alpha=0)


def test_steps_are_chained_by_name_settings_or_function():
    x = torch.rand(4, 1, 8, 8)
    chained = data.augmentation(("flip", {"probability": 1.0}), lambda x, generator: x / 2)
    assert torch.equal(chained(x, generator(0)), x.flip(3) / 2)
    assert torch.equal(data.augmentation()(x, generator(0)), x)
    with pytest.raises(LookupFailure, match="'flip'"):
        data.augmentation("flipp")
