"""Filters made by hand against scipy's and against their definitions."""

import pytest
import torch
from scipy import ndimage

from cutaway.errors import ArgumentError, LookupFailure
from cutaway.visualize import city, denoise, edges, lines, match, panels, smooth, sobel


@pytest.mark.parametrize("shape", [(1, 2, 40), (2, 3, 20, 24)])
def test_smoothing_and_medians_are_scipys(shape):
    x = torch.rand(shape, dtype=torch.float64)
    for n in range(shape[0]):
        for c in range(shape[1]):
            plane, options = x[n, c].numpy(), {"mode": "mirror"}
            pairs = [
                (smooth(x, 1.5), ndimage.gaussian_filter(plane, 1.5, truncate=5 / 1.5, **options)),
                (smooth(x, 5, "uniform"), ndimage.uniform_filter(plane, 5, **options)),
                (denoise(x, 3), ndimage.median_filter(plane, 3, **options)),
            ]
            for found, expected in pairs:
                torch.testing.assert_close(found[n, c], torch.from_numpy(expected), atol=1e-6, rtol=0)


def test_sobel_is_scipys():
    x = torch.rand(1, 1, 9, 12, dtype=torch.float64)
    parts = [torch.from_numpy(ndimage.sobel(x[0, 0].numpy(), axis, mode="mirror")) for axis in (0, 1)]
    torch.testing.assert_close(sobel(x)[0, 0], (parts[0] ** 2 + parts[1] ** 2).sqrt())


@pytest.mark.parametrize("angle", [0, 30, 90, 135, 200, 270])
def test_edges_are_the_slope_in_the_direction(angle):
    y, x = torch.meshgrid(-torch.arange(15.0), torch.arange(15.0), indexing="ij")  # y counts upwards
    turned = torch.deg2rad(torch.tensor(float(angle)))
    ramp = (x * turned.cos() + y * turned.sin())[None, None]
    assert float(edges(ramp, angle)[0, 0, 7, 7]) == pytest.approx(1.0, abs=1e-4)
    assert float(edges(ramp, angle + 90)[0, 0, 7, 7]) == pytest.approx(0.0, abs=1e-4)


def test_edges_of_a_signal():
    step = torch.zeros(1, 1, 30)
    step[..., 15:] = 1
    found = edges(step)[0, 0]
    assert int(found.argmax()) in (14, 15) and found[:10].abs().max() == 0
    torch.testing.assert_close(edges(step, 180)[0, 0], -found)


@pytest.mark.parametrize("shape", [(1, 2, 30), (1, 3, 12, 14)])
def test_a_match_is_the_correlation(shape):
    x = torch.rand(shape, dtype=torch.float64)
    spans = [slice(4, 9)] * (len(shape) - 2)
    pattern = x[(0, slice(None), *spans)]
    found = match(3 * x + 1, pattern)
    assert float(found.max()) == pytest.approx(1.0)
    place = (0, 0, *[4] * (len(shape) - 2))
    assert float(found[place]) == pytest.approx(1.0)
    other = x[(0, slice(None), *[slice(1, 6)] * (len(shape) - 2))]
    expected = torch.corrcoef(torch.stack([other.flatten(), pattern.flatten()]))[0, 1]
    torch.testing.assert_close(found[(0, 0, *[1] * (len(shape) - 2))], expected)


def test_a_city_has_long_vertical_lines_and_a_landscape_has_none():
    houses, hills = torch.zeros(1, 3, 60, 60), torch.zeros(1, 3, 60, 60)
    for left in (5, 20, 40):
        houses[..., 15:, left : left + 8] = 1
    rows = torch.arange(60.0)[:, None]
    hills[0, :] = (rows > 30 + 6 * (torch.arange(60.0) / 7).sin()).float()
    assert city(houses)[0] > 5 * city(hills)[0]
    assert lines(houses)[0, 0, 40, 5] > 0.2 and lines(houses, vertical=False)[0, 0, 40, 5] < 1e-6


def test_panels_are_drawn_and_saved(tmp_path):
    found = panels(torch.rand(1, 3, 40, 48))
    assert found.city is not None and len(found.plot().axes) >= len(found.maps) + 1
    assert found.save(tmp_path / "panels.png").stat().st_size > 10_000
    assert found.save(tmp_path / "panels.npz").exists()
    assert panels(torch.rand(1, 1, 200)).plot().axes


def test_what_does_not_fit_is_refused():
    x = torch.rand(1, 1, 8, 8)
    with pytest.raises(LookupFailure, match="'gaussian'"):
        smooth(x, 1, "gauss")
    for call in (
        lambda: smooth(x, 0),
        lambda: smooth(x, 4, "uniform"),
        lambda: smooth(x, 9.0),
        lambda: denoise(x, 2),
        lambda: match(x, torch.ones(1, 2, 2)),
        lambda: match(x, torch.rand(2, 2, 2)),
        lambda: match(x, torch.rand(1, 9, 2)),
        lambda: sobel(x[0]),
        lambda: lines(x, 4),
        lambda: panels(torch.rand(2, 1, 8, 8)),
        lambda: edges(torch.rand(8)),
    ):
        with pytest.raises(ArgumentError):
            call()
