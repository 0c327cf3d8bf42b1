"""Losses against their definitions by sums, in float64."""

import math

import pytest
import torch
from torch.nn import functional as F

from cutaway.errors import ArgumentError, LookupFailure
from cutaway.rng import generator
from cutaway.train.losses import (
    absolute_error,
    binary_cross_entropy,
    cross_entropy,
    hinge,
    loss_function,
    squared_error,
)

Z = torch.randn(6, 4, generator=generator(0), dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 3, 1, 1])


def log_softmax_by_sums(row: list[float]) -> list[float]:
    total = math.log(sum(math.exp(value) for value in row))
    return [value - total for value in row]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 2.0, 3.0]])
def test_cross_entropy_is_the_sum_of_its_definition(smoothing: float, weights: list[float] | None) -> None:
    expected = []
    for row, target in zip(Z.tolist(), Y.tolist(), strict=True):
        log_p, total = log_softmax_by_sums(row), 0.0
        for k in range(4):
            wanted = (1 - smoothing) * (k == target) + smoothing / 4
            total -= (weights[k] if weights else 1.0) * wanted * log_p[k]
        expected.append(total)
    found = loss_function("cross_entropy", smoothing, weights)(Z, Y)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-12)


def test_cross_entropy_of_maps_is_the_mean_over_places() -> None:
    logits = torch.randn(2, 3, 4, 5, generator=generator(1), dtype=torch.float64)
    targets = torch.randint(0, 3, (2, 4, 5), generator=generator(2))
    expected = F.cross_entropy(logits, targets, reduction="none").flatten(1).mean(1)
    torch.testing.assert_close(cross_entropy(logits, targets), expected)


def test_squared_and_absolute_error_by_sums() -> None:
    target = torch.randn(6, 4, generator=generator(3), dtype=torch.float64)
    for function, power in ((squared_error, 2), (absolute_error, 1)):
        expected = [
            sum(abs(a - b) ** power for a, b in zip(row, wanted, strict=True)) / 4
            for row, wanted in zip(Z.tolist(), target.tolist(), strict=True)
        ]
        torch.testing.assert_close(function(Z, target), torch.tensor(expected, dtype=torch.float64))


def test_squared_error_takes_class_indices_as_one_hot() -> None:
    torch.testing.assert_close(squared_error(Z, Y), squared_error(Z, F.one_hot(Y, 4).double()))


def test_binary_cross_entropy_has_the_minus_sign() -> None:
    z, t = [0.3, -1.2, 2.0], [1.0, 0.0, 0.25]
    s = [1 / (1 + math.exp(-value)) for value in z]
    expected = [-(b * math.log(a) + (1 - b) * math.log(1 - a)) for a, b in zip(s, t, strict=True)]
    found = binary_cross_entropy(torch.tensor(z).double()[:, None], torch.tensor(t).double()[:, None])
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_hinge_by_sums() -> None:
    expected = [
        sum(max(0.0, 1 + row[k] - row[y]) for k in range(4) if k != y)
        for row, y in zip(Z.tolist(), Y.tolist(), strict=True)
    ]
    torch.testing.assert_close(hinge(Z, Y), torch.tensor(expected, dtype=torch.float64))


def test_unknown_names_and_misplaced_settings_are_refused() -> None:
    with pytest.raises(LookupFailure, match="cross_entropy"):
        loss_function("crossentropy")
    with pytest.raises(ArgumentError, match="belong to 'cross_entropy'"):
        loss_function("hinge", label_smoothing=0.1)
    with pytest.raises(ArgumentError, match="outside"):
        loss_function("cross_entropy", label_smoothing=1.0)
