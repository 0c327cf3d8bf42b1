"""Augmentations at points where the result is known."""

import pytest
import torch
from torch.nn import functional as F

from cutaway.errors import ArgumentError, LookupFailure
from cutaway.rng import generator
from cutaway.train.augment import AUGMENTS, affine, flip, make_augment, shift

X = torch.rand(64, 2, 6, 5, generator=generator(0))


@pytest.mark.parametrize("name", AUGMENTS)
def test_every_augmentation_keeps_shape_and_range_and_is_seeded(name: str) -> None:
    made = AUGMENTS[name](X, generator(1))
    assert made.shape == X.shape and made.min() >= 0 and made.max() <= 1 + 1e-6
    assert torch.equal(made, AUGMENTS[name](X, generator(1))) and not torch.equal(made, AUGMENTS[name](X, generator(2)))


def test_affine_without_amounts_is_the_identity() -> None:
    torch.testing.assert_close(affine(X, generator(0), shift=0, rotate=0, scale=0), X, atol=1e-5, rtol=0)


def test_shift_gives_each_of_the_nine_places() -> None:
    padded = F.pad(X, [1] * 4)
    seen = set()
    for image, whole in zip(shift(X, generator(3), pixels=1), padded, strict=True):
        found = [
            (i, j) for i in range(3) for j in range(3) if torch.equal(image, whole[:, i : i + 6, j : j + 5])
        ]  # fmt: skip
        assert len(found) == 1
        seen |= set(found)
    assert len(seen) == 9


def test_flip_mirrors_some_and_keeps_the_others() -> None:
    made = flip(X, generator(4))
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(made, X, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(made, X, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True)) and 16 < sum(mirrored) < 48


def test_several_by_name() -> None:
    both = make_augment({"flip": {"share": 1.0}, "shift": {"pixels": 0}})
    assert torch.equal(both(X, generator(0)), X.flip(3)) and make_augment(None) is None
    with pytest.raises(LookupFailure, match="'flip'"):
        make_augment("flp")
    with pytest.raises((ArgumentError, TypeError)):
        make_augment({"flip": {"pixels": 3}})(X, generator(0))
