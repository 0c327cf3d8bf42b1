"""Print and photograph: each stage against a definition or another library, the whole against finite differences."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_sample_image

from cutaway import attack
from cutaway import graph as G
from cutaway.attack.channel import CORNERS, STAGES, blurred, homography, lit, noisy, printed, sampled, viewed
from cutaway.attack.draws import Draws
from cutaway.attack.jpeg import CHROMINANCE, COSINES, LUMINANCE, jpeg, steps
from cutaway.errors import ArgumentError

STILL = dict.fromkeys(("gamut", "perspective", "gain", "offset", "gamma", "blur", "noise", "quality", "crop"))


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    """A photograph (1, 3, 101, 83) whose sides are no multiples of 8."""
    whole = torch.tensor(np.array(load_sample_image("china.jpg")))  # (427, 640, 3)
    return whole[150:251, 300:383].permute(2, 0, 1)[None].float() / 255


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def pillow(x: torch.Tensor, quality: int) -> torch.Tensor:
    """The picture after a real JPEG file, in 0 … 255."""
    pixels = (x[0] * 255).round().byte()
    held = Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy())
    stream = io.BytesIO()
    held.save(stream, "jpeg", quality=quality)
    found = torch.tensor(np.array(Image.open(io.BytesIO(stream.getvalue())))).float()
    return found[None] if len(pixels) == 1 else found.permute(2, 0, 1)


@pytest.mark.parametrize("quality", [20, 50, 75, 95])
def test_jpeg_is_pillows(photo, quality):
    theirs, ours = pillow(photo, quality), jpeg(photo, torch.tensor([float(quality)]))[0] * 255
    lost = (photo[0] * 255 - theirs).abs().mean()
    apart = (ours - theirs).abs()
    assert apart.mean() < 0.9 and apart.mean() < 0.45 * lost  # a fraction of what compression changes
    assert (apart <= 2).double().mean() > 0.9
    grey = photo.mean(1, keepdim=True)
    apart = (jpeg(grey, torch.tensor([float(quality)]))[0] * 255 - pillow(grey, quality)).abs()
    assert apart.mean() < 0.3 and (apart <= 2).double().mean() > 0.98  # no colour to be resampled


def test_each_image_has_its_own_quality(photo):
    both = jpeg(torch.cat([photo, photo]), torch.tensor([20.0, 90.0]))
    assert torch.equal(both[1:], jpeg(photo, torch.tensor([90.0])))
    assert (both[0] - photo[0]).abs().mean() > 2 * (both[1] - photo[0]).abs().mean()


def test_the_gradient_of_jpeg_passes_straight_through(photo):
    basis = torch.tensor(COSINES, dtype=torch.float64)
    assert torch.allclose(basis @ basis.T, torch.eye(8).double(), atol=1e-12)
    grey = photo.mean(1, keepdim=True)[..., :96, :80].double().mul(0.6).add(0.2).requires_grad_()
    weight = torch.rand(grey.shape, generator=torch.Generator().manual_seed(0)).double()
    (found,) = torch.autograd.grad((weight * jpeg(grey, numbers(80))).sum(), grey)
    assert torch.allclose(found, weight, atol=1e-9)  # the transform is orthonormal, so that the identity is left


def test_quantisation_tables_are_pillows(photo):
    stream = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(stream, "jpeg", quality=37)
    theirs = sorted(Image.open(stream).quantization.items())  # type: ignore[attr-defined]
    for (_, table), ours in zip(theirs, (LUMINANCE, CHROMINANCE), strict=True):
        assert steps(ours, numbers(37))[0].flatten().tolist() == list(table)


def test_blur_is_scipys(photo):
    found = blurred(photo.double().repeat(2, 1, 1, 1), numbers(0.7, 1.3), 4)
    for image, sigma in zip(found, (0.7, 1.3), strict=True):
        theirs = gaussian_filter(photo[0].double().numpy(), (0, sigma, sigma), mode="nearest", radius=(0, 4, 4))
        assert np.abs(image.numpy() - theirs).max() < 1e-12
    assert torch.equal(blurred(photo, torch.zeros(1), 2), photo)


def test_print_light_and_noise_are_their_formulas(photo):
    assert torch.equal(printed(photo, torch.zeros(1)), photo)
    muted = printed(photo, torch.tensor([0.3]))
    assert muted.std() < photo.std() and muted.min() > 0.1 and muted.max() < 0.9
    assert (muted.std(1) <= 0.7 * photo.std(1) + 1e-6).all()  # less colour
    x = torch.tensor([[[[0.25, 0.81]]]], dtype=torch.float64)
    assert torch.allclose(lit(x, numbers(0.8), numbers(0.1), numbers(0.5)), torch.tensor([[[[0.5, 0.82]]]]).double())
    grain = torch.randn(1, 1, 300, 300, generator=torch.Generator().manual_seed(0)).double()
    for level in (0.2, 0.7):
        spread = noisy(torch.full_like(grain, level), numbers(0.02), grain).std()
        assert spread == pytest.approx(0.02 * (0.5 + level) ** 0.5, rel=0.02)


def test_homographies_take_corners_to_corners():
    corners = torch.tensor(CORNERS).double() + 0.1 * torch.rand(5, 4, 2, generator=torch.Generator().manual_seed(0))
    square = torch.cat([torch.tensor(CORNERS).double(), torch.ones(4, 1).double()], 1)
    seen = square @ homography(corners).transpose(1, 2)
    assert torch.allclose(seen[..., :2] / seen[..., 2:], corners, atol=1e-12)
    still = sampled(torch.tensor(CORNERS)[None].double(), 6, 9)
    x = torch.rand(1, 2, 6, 9, generator=torch.Generator().manual_seed(1)).double()
    assert torch.allclose(viewed(x, still), x, atol=1e-12)
    right = sampled(torch.tensor(CORNERS)[None].double() + torch.tensor([2 * 2 / 9, 0.0]), 6, 9)
    assert torch.allclose(viewed(x, right)[..., :7], x[..., 2:], atol=1e-12)  # two pixels further on


def test_a_line_stays_a_line_in_perspective():
    ramp = torch.linspace(-1, 1, 64)[None, None, :, None].expand(1, 1, 64, 64).double()
    corners = torch.tensor([[[-0.9, -0.8], [0.8, -0.9], [0.9, 0.7], [-0.7, 0.8]]]).double()
    grid = sampled(corners, 64, 64)
    middle = homography(corners)[0] @ numbers(0, 0, 1)
    seen = viewed(ramp, grid)[0, 0, 31:33, 31:33].mean()
    assert seen == pytest.approx(float(middle[1] / middle[2]) * 64 / 63, abs=2e-3)
    line = grid[0, :, 20]  # what a column of the picture is read from
    rise = (line[1:] - line[:-1])[:, 0] / (line[1:] - line[:-1])[:, 1]
    assert rise.std() < 1e-9


def test_a_channel_without_stages_is_nothing(photo):
    nothing = attack.Channel(**STILL)
    assert nothing.draw(photo, Draws(0, torch.arange(1)), "a") == ()
    assert torch.equal(nothing(photo), photo)
    for field in STILL:
        one = attack.Channel(**STILL | {field: getattr(attack.Channel(), field)})
        assert not torch.equal(one(photo, seed=1), photo), field
        assert one(photo, seed=1).shape == photo.shape
    assert {field for stage in STAGES for field in stage.fields} == set(STILL)


def test_what_happens_to_an_image_depends_on_its_index_alone(photo, global_randomness_untouched):
    three = torch.cat([photo, photo.flip(3), photo])
    channel = attack.Channel()
    draws = Draws(3, torch.arange(3))
    whole = channel.apply(three, *channel.draw(three, draws, "a"))
    last = channel.apply(three[2:], *channel.draw(three[2:], draws.keep(torch.tensor([2])), "a"))
    assert torch.allclose(whole[2:], last, atol=1.1 / 255)  # one step of the file at most
    assert not torch.allclose(whole[0], whole[2], atol=0.05)
    assert torch.equal(channel(three, seed=5), channel(three, seed=5))
    assert not torch.equal(channel(three, seed=5), channel(three, seed=6))
    assert whole.min() >= 0 and whole.max() <= 1


def test_strengths_fill_their_ranges():
    channel, draws = attack.Channel(blur=(0.5, 2.0)), Draws(0, torch.arange(2000))
    found = channel.number("blur", draws, "a")
    assert 0.5 <= found.min() < 0.51 and 1.99 < found.max() < 2.0
    assert found.mean() == pytest.approx(1.25, abs=0.03)
    with pytest.raises(ArgumentError, match=r"quality=\(60, 101\).*≤ 100"):
        attack.Channel(quality=(60, 101))
    with pytest.raises(ArgumentError, match="low ≤ high"):
        attack.Channel(blur=(2.0, 1.0))


def test_the_gradient_through_the_channel_is_finite_differences():
    x = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).double().mul(0.4).add(0.3)
    channel = attack.Channel(quality=None, gain=(0.9, 1.0), offset=(-0.02, 0.02), noise=(0.01, 0.01))
    drawn = channel.draw(x, Draws(0, torch.arange(2)), "a")
    assert torch.autograd.gradcheck(lambda images: channel.apply(images, *drawn), x.requires_grad_())


@pytest.mark.slow
def test_the_engine_captures_a_network_behind_the_channel(net):
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    channel = attack.Channel()
    drawn = channel.draw(x, Draws(0, torch.arange(2)), "a")

    def seen(images, *numbers):
        return net(channel.apply(images, *numbers))

    ours = G.capture(seen, x, *drawn).gradient()(x, *drawn)
    leaf = x.clone().requires_grad_()
    (theirs,) = torch.autograd.grad(seen(leaf, *drawn).sum(), leaf)
    assert theirs.abs().max() > 0 and torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)
