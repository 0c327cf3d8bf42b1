"""Sentences say what the numbers say."""

import math

import pytest

from cutaway.report.words import Curves, count, duration, percent, short


def falling(n: int, floor: float = 0.05) -> list[float]:
    return [floor + 2 * math.exp(-i / 4) for i in range(n)]


def test_early_stopping_names_the_epochs():
    validation = [*falling(23), *(falling(23)[-1] + 0.001 * i for i in range(1, 13))]
    text = " ".join(Curves(falling(35), validation, best=22).read())
    assert "lowest after epoch 23" in text
    assert "training stopped after epoch 35" in text
    assert "weights of epoch 23 were kept" in text


def test_a_run_that_was_still_improving_is_told_to_go_on():
    assert "more epochs might help" in " ".join(Curves(falling(5), falling(5), best=4).read())


def test_overfitting_is_seen_and_measured():
    train, validation = falling(30, 0.0), [*falling(15), *(falling(15)[-1] * (1 + 0.1 * i) for i in range(1, 16))]
    text = " ".join(Curves(train, validation, best=14).read())
    assert "overfitted" in text
    assert "rose by 150 %" in text


def test_no_overfitting_is_claimed_while_validation_stays_low():
    flat = [*falling(10), *[falling(10)[-1] * 1.01] * 5]
    text = " ".join(Curves(falling(15, 0.0), flat, best=9).read())
    assert "No overfitting shows" in text


def test_a_rise_of_validation_without_a_fall_of_training_is_instability():
    train = [*falling(10), *[5.0] * 3]
    assert "unstable" in " ".join(Curves(train, train, best=9).read())


def test_two_epochs_are_too_few_for_a_verdict():
    text = " ".join(Curves([0.12, 0.08], [0.009, 0.011], best=0).read())
    assert "overfit" not in text
    assert "unstable" not in text


def test_underfitting_is_seen():
    loss = [2.3, 2.25, 2.2, 2.19]
    text = " ".join(Curves(loss, loss, [0.1, 0.12, 0.15, 0.16], [0.1, 0.1, 0.14, 0.15], best=3, examples=100).read())
    assert "underfits" in text
    assert "16.0 %" in text


@pytest.mark.parametrize("examples, expected", [(100, "tell from chance"), (100_000, "more than chance explains")])
def test_a_gap_is_compared_with_chance(examples, expected):
    text = " ".join(Curves([1.0], [1.0], [0.98], [0.96], examples=examples).read())
    assert expected in text


def test_validation_above_training_is_explained():
    assert "made harder by dropout" in " ".join(
        Curves([1.0], [0.8], [0.90], [0.95], examples=100, harder="dropout").read()
    )
    assert "averaged over an epoch" in " ".join(Curves([1.0], [0.8], [0.90], [0.95], examples=100).read())
    assert "averaged over an epoch" in " ".join(Curves([1.0], [0.8]).read())


def test_numbers_in_words():
    assert percent(1.0) == "100.0 %"
    assert count(2, "class", "classes") == "2 classes"
    assert count(1234567) == "1,234,567"
    assert short(999) == "999"
    assert short(2.5e9) == "2.5 G"
    assert duration(59.6) == "1 min 0 s"
    assert duration(9.96) == "10.0 s"
