"""Metrics and the interval of a proportion."""

import pytest
import torch
from scipy.stats import binomtest

from cutaway.errors import ArgumentError, LookupFailure
from cutaway.intervals import wilson_interval
from cutaway.rng import generator
from cutaway.train.metrics import accuracy, metric_functions, per_example, top5


@pytest.mark.parametrize(("right", "n"), [(0, 10), (1, 10), (355, 359), (359, 359), (5000, 10000)])
def test_wilson_interval_agrees_with_scipy(right: int, n: int) -> None:
    expected = binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right, n) == pytest.approx((expected.low, expected.high), abs=1e-7)


def test_wilson_interval_refuses_nonsense() -> None:
    with pytest.raises(ArgumentError, match="5 successes of 4"):
        wilson_interval(5, 4)


def test_top5_and_accuracy_by_sorting() -> None:
    z = torch.randn(50, 9, generator=generator(0))
    y = torch.randint(0, 9, (50,), generator=generator(1))
    ranks = [sorted(range(9), key=lambda k, row=row: -row[k]).index(t) for row, t in zip(z.tolist(), y, strict=True)]
    assert top5(z, y).tolist() == [float(rank < 5) for rank in ranks]
    assert accuracy(z, y).tolist() == [float(rank == 0) for rank in ranks]


def test_accuracy_of_one_logit_compares_with_zero() -> None:
    assert accuracy(torch.tensor([[2.0], [-1.0]]), torch.tensor([1.0, 1.0])).tolist() == [1.0, 0.0]


def test_metrics_by_name_and_function() -> None:
    def mine(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.sum(1)

    assert list(metric_functions(["accuracy", mine])) == ["accuracy", "mine"]
    with pytest.raises(LookupFailure, match="accuracy"):
        metric_functions(["acuracy"])
    with pytest.raises(ArgumentError, match=r"\(3,\) for 2 examples"):
        per_example(torch.zeros(3), 2)
