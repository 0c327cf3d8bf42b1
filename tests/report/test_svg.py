"""Charts: scales place values where they belong, ticks are round, markup is well formed and escaped."""

import math
import xml.etree.ElementTree as xml

import pytest

from cutaway.report.svg import Scale, Series, around, chart, path, tag


def parse(markup: str) -> xml.Element:
    return xml.fromstring(f"<root>{markup}</root>")


@pytest.mark.parametrize("low, high", [(0, 1), (-3.7, 12.2), (0.013, 0.014), (1e5, 9e6), (0, 60000)])
@pytest.mark.parametrize("most", [4, 6])
def test_linear_ticks_are_round_few_and_inside(low, high, most):
    ticks = Scale(low, high).ticks(most)
    assert 2 <= len(ticks) <= most + 1
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    step = ticks[1] - ticks[0]
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(mantissa - round_) for round_ in (1, 2, 5)) < 1e-6


@pytest.mark.parametrize("last", [2, 3, 7, 36, 1000])
def test_whole_ticks_are_whole(last):
    ticks = Scale(1, last, whole=True).ticks(6)
    assert len(ticks) >= 2
    assert all(tick == int(tick) for tick in ticks)


@pytest.mark.parametrize("low, high", [(0.02, 2), (1e-8, 1), (3, 7), (1, 1e12)])
def test_log_ticks_are_few_and_inside(low, high):
    ticks = Scale(low, high, log=True).ticks(5)
    assert 1 <= len(ticks) <= 7
    assert all(low * 0.999 <= tick <= high * 1.001 for tick in ticks)


def test_scale_clips_to_its_range_and_survives_an_empty_one():
    assert Scale(0, 10)(-5) == 0
    assert Scale(0, 10)(50) == 1
    assert Scale(1, 100, log=True)(-1) == 0
    assert Scale(2, 2)(2) == 0


def test_around_leaves_out_what_is_not_finite():
    scale = around([1.0, math.nan, math.inf, 3.0], pad=0)
    assert (scale.low, scale.high) == (1.0, 3.0)
    assert around([0.0, -1.0], log=True) == Scale(0.1, 1.0, log=True)
    assert around([]) == Scale(0.0, 1.0)
    assert around([5.0]).low < 5 < around([5.0]).high


def test_line_passes_through_its_points():
    markup = chart([Series("a", [0, 1], [0, 1])], x=Scale(0, 1), y=Scale(0, 1), xlabel="x", ylabel="y")
    lines = [one for one in parse(markup).iter("path") if "line" in one.attrib["class"]]
    assert [one.attrib["d"] for one in lines] == ["M42 190L350 28"]  # left, bottom to right, top


def test_values_that_are_not_finite_are_left_out_of_the_line():
    given = [Series("a", [0, 1, 2], [0.5, math.nan, 0.5])]
    markup = chart(given, x=Scale(0, 2), y=Scale(0, 1), xlabel="x", ylabel="y")
    assert "nan" not in markup


def test_a_legend_stands_above_two_lines_and_not_above_one():
    one = chart([Series("a", [0], [0])], x=Scale(0, 1), y=Scale(0, 1), xlabel="x", ylabel="y")
    two = chart([Series("a", [0], [0]), Series("b", [0], [0])], x=Scale(0, 1), y=Scale(0, 1), xlabel="x", ylabel="y")
    assert "legend" not in one
    assert [item.text or item[-1].tail for item in parse(two).iter("li")] == ["a", "b"]


def test_text_is_escaped():
    assert "<script>" not in tag("text", "<script>", aria_label='"<')
    parse(tag("text", "<a> & b", aria_label='"<'))


def test_path_rounds_to_tenths():
    assert path([(1 / 3, 2 / 3)]) == "M0.3 0.7"
