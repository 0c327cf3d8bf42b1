"""Schedules at the points where their definition gives the value, and within [0, 1] everywhere."""

import itertools
import math

import pytest

from cutaway.errors import ArgumentError, LookupFailure
from cutaway.train.schedules import SCHEDULES, cosine, exponential, one_cycle, schedule_function, staircase, warm_up


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_stays_between_zero_and_the_full_rate(name: str) -> None:
    values = [SCHEDULES[name](i / 1000) for i in range(1001)]
    assert min(values) >= 0 and max(values) == pytest.approx(1.0)


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name not in ("one_cycle", "restarts")])
def test_every_schedule_but_one_cycle_never_rises(name: str) -> None:
    values = [SCHEDULES[name](i / 1000) for i in range(1001)]
    assert all(b <= a for a, b in itertools.pairwise(values))


def test_values_of_the_definitions() -> None:
    assert cosine(0.25) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert exponential(0.75) == pytest.approx(0.01**0.75)
    assert [staircase(p, at=(0.3, 0.6)) for p in (0.2, 0.3, 0.7)] == pytest.approx([1, 0.1, 0.01])
    assert one_cycle(0.3) == pytest.approx(1.0) and one_cycle(0.0) == pytest.approx(0.04)


def test_warm_up_rises_and_then_spans_the_whole_schedule() -> None:
    warm = warm_up(cosine, 0.2)
    assert [warm(p) for p in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx([0, 0.5, 1, 0.5, 0], abs=1e-12)
    with pytest.raises(ArgumentError, match="warm_up=1"):
        warm_up(cosine, 1.0)


def test_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(LookupFailure, match="cosine"):
        schedule_function("cosin")
