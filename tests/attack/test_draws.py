"""The per-example streams are random, independent and the same in any batch."""

import torch
from scipy.stats import kstest

from cutaway.attack.draws import Draws


def test_distributions():
    draws = Draws(5, torch.arange(200))
    assert kstest(draws.uniform((50,), "a").flatten().numpy(), "uniform").pvalue > 1e-3
    assert kstest(draws.normal((50,), "a").flatten().numpy(), "norm").pvalue > 1e-3
    assert draws.sign((50,), "b").unique().tolist() == [-1, 1]
    assert abs(draws.sign((50,), "b").mean()) < 0.03
    assert draws.integer(7, "c").unique().tolist() == list(range(7))


def test_names_seeds_and_examples_are_uncorrelated():
    draws = Draws(0, torch.arange(60))
    base = draws.normal((300,), "a").flatten()
    others = [
        draws.normal((300,), "b"),
        Draws(1, draws.index).normal((300,), "a"),
        draws.normal((300,), "a").roll(1, 0),
    ]
    others += [draws.normal((300,), "a").roll(1, 1)]
    for other in others:
        assert abs((base * other.flatten()).mean()) < 4 / len(base) ** 0.5


def test_any_batch_gives_an_example_the_same_numbers(global_randomness_untouched):
    draws = Draws(0, torch.arange(8))
    rows = torch.tensor([6, 1])
    assert torch.equal(draws.keep(rows).uniform((3, 2), "x", 4), draws.uniform((3, 2), "x", 4)[rows])
