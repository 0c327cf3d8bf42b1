"""Pictures of every kind are read as a person sees them; what cannot be read is refused with its name and size."""

import numpy as np
import pytest
import torch
from PIL import Image

from cutaway import data
from cutaway.errors import DataError

RAMP = np.linspace(0, 1, 40 * 60).reshape(40, 60)
EXPECTED = torch.from_numpy(np.round(255 * RAMP) / 255).float()


@pytest.mark.parametrize(
    ("pixels", "ending"),
    [
        (np.round(65535 * RAMP).astype(np.uint16), "png"),
        (np.round(65535 * RAMP).astype(np.uint16), "tif"),
        (np.round(65535 * RAMP).astype(np.int32), "tif"),
        (RAMP.astype(np.float32), "tif"),
        (np.round(255 * RAMP).astype(np.uint8), "png"),
    ],
)
def test_any_depth_keeps_its_greys(pixels, ending, tmp_path):
    Image.fromarray(pixels).save(tmp_path / f"ramp.{ending}")
    for channels in (1, 3):
        found = data.read_image(tmp_path / f"ramp.{ending}", channels=channels)
        torch.testing.assert_close(found, EXPECTED.expand(channels, -1, -1), rtol=0, atol=1.01 / 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_places_are_white(mode, tmp_path):
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 4, 2))
    if mode == "P":
        image = image.convert("P")
        image.save(tmp_path / "half.png", transparency=image.getpixel((0, 3)))
        expected = data.read_image(tmp_path / "half.png")[:, 3]
        assert (expected == 1).all()
        return
    image.convert(mode).save(tmp_path / "half.png")
    found = data.read_image(tmp_path / "half.png")
    assert (found[:, :2] == 0).all() and (found[:, 2:] == 1).all()


def test_half_transparent_red_is_pink(tmp_path):
    Image.new("RGBA", (2, 2), (255, 0, 0, 128)).save(tmp_path / "red.png")
    found = data.read_image(tmp_path / "red.png")[:, 0, 0]
    torch.testing.assert_close(found, torch.tensor([1.0, 127 / 255, 127 / 255]), rtol=0, atol=0.005)


def test_exif_turns_and_cmyk_is_ink(tmp_path):
    image, exif = Image.new("RGB", (6, 4), "white"), Image.Exif()
    image.paste((255, 0, 0), (0, 0, 2, 4))
    exif[0x0112] = 6  # turn clockwise by a quarter
    image.save(tmp_path / "turned.png", exif=exif)
    found = data.read_image(tmp_path / "turned.png")
    assert found.shape == (3, 6, 4) and (found[1, :2] == 0).all() and (found[1, 2:] == 1).all()
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "ink.tif")  # no cyan: red
    torch.testing.assert_close(data.read_image(tmp_path / "ink.tif")[:, 0, 0], torch.tensor([1.0, 0.0, 0.0]))


def test_of_an_animation_the_first_picture_is_read(tmp_path):
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    assert data.read_image(tmp_path / "film.gif")[:, 0, 0].tolist() == [1.0, 0.0, 0.0]


def test_a_truncated_picture_is_refused_with_name_and_size(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.jpg \(60 × 40 pixels\): cannot be read .*truncated"):
        data.read_image(tmp_path / "cut.jpg")


def test_a_huge_picture_is_refused_with_name_and_size(tmp_path, monkeypatch):
    Image.new("1", (300, 200)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
    with pytest.raises(DataError, match=r"huge\.png: cannot be read as a picture: .*60000 pixels"):
        data.read_image(tmp_path / "huge.png")


def test_imagenets_names_are_built_in(monkeypatch):
    monkeypatch.delenv("CUTAWAY_DATA", raising=False)
    names = data.imagenet_classes()
    assert len(names) == 1000
    assert [names[k] for k in (0, 1, 151, 368, 999)] == ["tench", "goldfish", "Chihuahua", "gibbon", "toilet tissue"]
