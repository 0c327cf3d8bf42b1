"""Parametrisations and transformations do what their formulas say."""

import pytest
import torch

from cutaway.errors import ArgumentError, LookupFailure
from cutaway.rng import generator
from cutaway.visualize import MACO, Crop, Fourier, Jitter, Pixels, Rotate, Scale, colour_matrix, spectrum, transformed
from cutaway.visualize.parametrize import parametrization_of


def smooth(*shape: int) -> torch.Tensor:
    """Images that change slowly, between 0.1 and 0.9."""
    y, x = torch.meshgrid(torch.linspace(0, 3, shape[-2]), torch.linspace(0, 2, shape[-1]), indexing="ij")
    return torch.stack([(x * k + y).sin() for k in range(1, shape[1] + 1)])[None] * 0.4 + 0.5


@pytest.mark.parametrize("made", [Pixels(), Fourier(), Fourier(decay=0.5, colours=torch.eye(3))], ids=type)
@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 3, 7, 10)])
def test_an_image_to_start_from_comes_back(made, shape):
    image = smooth(*shape)
    torch.testing.assert_close(made.canvas(shape, generator(0), image).image(), image, atol=1e-4, rtol=0)


def test_maco_keeps_the_magnitudes_of_the_images_it_measured():
    images = torch.rand(5, 1, 16, 16)
    canvas = MACO(spectrum(images)).canvas((2, 1, 16, 16), generator(0))
    made = canvas.image().detach().logit()  # before the sigmoid: one scale for each image
    ratio = spectrum(made[:1]) / spectrum(images).clamp(min=1e-9)
    inner = ratio[:, 1:8, 1:8]  # elsewhere a real image's phases are bound
    torch.testing.assert_close(inner, inner.mean().expand_as(inner), atol=1e-3, rtol=1e-3)


def test_colours_are_measured_on_images():
    mix = torch.tensor([[0.3, 0.1, 0.0], [0.2, -0.1, 0.1], [0.3, 0.0, -0.1]])
    pixels = mix @ torch.randn(3, 40_000, generator=generator(1))
    images = pixels.reshape(3, 1, 200, 200).transpose(0, 1)
    found = colour_matrix(images)
    covariance = found @ found.T
    torch.testing.assert_close(covariance / covariance.trace(), mix @ mix.T / (mix @ mix.T).trace(), atol=0.01, rtol=0)
    with pytest.raises(ArgumentError, match="3, H, W"):
        colour_matrix(torch.rand(2, 1, 4, 4))


def test_jitter_is_a_shift_by_whole_pixels():
    x = torch.rand(3, 2, 9, 12)
    matrix = Jitter(2).draw(3, (9, 12), generator(5))
    found = transformed(x, [Jitter(2)], generator(5))
    for image, moved, shift in zip(x, found, matrix[:, :2, 2].int().tolist(), strict=True):
        expected = image.roll((-shift[1], -shift[0]), (1, 2))
        torch.testing.assert_close(moved[:, 2:-2, 2:-2], expected[:, 2:-2, 2:-2], atol=1e-5, rtol=0)


def test_a_crop_is_cut_out_and_enlarged():
    x = smooth(1, 1, 16, 16)
    (matrix,) = Crop(0.5, 0.5).draw(1, (16, 16), generator(2))
    left, top = (matrix[:2, 2] + 8 - 4).tolist()  # the corner of an 8 × 8 square
    assert -1e-5 <= left <= 8 + 1e-5 and -1e-5 <= top <= 8 + 1e-5
    found = transformed(x, [Crop(0.5, 0.5)], generator(2))
    rows = torch.arange(16) / 2 + top + 0.25 - 0.5
    columns = torch.arange(16) / 2 + left + 0.25 - 0.5  # pixel centres, halfway steps
    near = x[0, 0][rows.round().long().clamp(0, 15)][:, columns.round().long().clamp(0, 15)]
    assert float((found[0, 0] - near).abs().mean()) < 0.06


def test_a_quarter_turn_and_doubling():
    x = torch.rand(1, 1, 8, 8)

    class Quarter:
        def draw(self, n, size, random):
            return torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])

    torch.testing.assert_close(transformed(x, [Quarter()], generator(0)), x.rot90(1, (2, 3)), atol=1e-5, rtol=0)
    doubled = transformed(smooth(1, 1, 16, 16), [Scale(2, 2)], generator(0))
    middle = torch.nn.functional.interpolate(smooth(1, 1, 16, 16), scale_factor=2, mode="bilinear")[..., 8:24, 8:24]
    torch.testing.assert_close(doubled, middle, atol=1e-5, rtol=0)
    turned = transformed(x, [Rotate(20)], generator(0))
    assert turned.shape == x.shape and turned.min() >= 0 and turned.max() <= 1


def test_what_does_not_fit_is_refused():
    with pytest.raises(LookupFailure, match="'fourier'"):
        parametrization_of("furier")
    with pytest.raises(ArgumentError, match=r"\(1, 3, 4, 4\)"):
        Fourier().canvas((1, 3, 8, 8), generator(0), torch.rand(1, 3, 4, 4))
    with pytest.raises(ArgumentError, match="spectrum"):
        MACO(torch.rand(3, 4, 4)).canvas((1, 3, 8, 8), generator(0))
    with pytest.raises(ArgumentError, match=r"transformation=\(\)"):
        transformed(torch.rand(1, 3, 8), [Jitter(1)], generator(0))
