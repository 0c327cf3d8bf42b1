"""Figures hold what they were given."""

import base64
import io
import re
import xml.etree.ElementTree as xml

import numpy as np
import torch
from PIL import Image

from cutaway.report.figures import Ridge, Tile, cases, matrix, ridges, tiles
from cutaway.report.images import NEGATIVE, POSITIVE, overlay, picture, pixels, signed
from cutaway.report.page import bind, table
from cutaway.report.svg import Scale


def parse(markup: str) -> xml.Element:
    closed = re.sub("(<img[^>]*)>", r"\1/>", str(markup))
    return xml.fromstring(f"<root>{closed}</root>")


def decoded(markup: str) -> np.ndarray:
    source = parse(markup).find("img").attrib["src"]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


def test_grey_picture_keeps_its_pixels():
    image = torch.tensor([[[0.0, 1.0], [0.5, 0.25]]])
    assert decoded(picture(image, "a")).tolist() == [[0, 255], [128, 64]]


def test_colour_picture_keeps_its_channels():
    image = torch.zeros(3, 2, 2)
    image[0] = 1
    assert decoded(picture(image, "red"))[0, 0].tolist() == [255, 0, 0]


def test_other_channel_counts_become_grey():
    assert pixels(torch.stack([torch.zeros(2, 2), torch.ones(2, 2)])).tolist() == [[128, 128], [128, 128]]


def test_signed_map_tells_sign_by_colour_and_size_by_alpha():
    shown = decoded(signed(torch.tensor([[1.0, -0.5, 0.0]]), "map"))[0]
    assert shown[0].tolist() == [*POSITIVE, 255]
    assert shown[1].tolist() == [*NEGATIVE, 128]
    assert shown[2, 3] == 0
    assert decoded(signed(torch.tensor([[1.0]]), "map", largest=2.0))[0, 0, 3] == 128


def test_overlay_of_nothing_is_the_image():
    image = torch.rand(1, 8, 8)
    shown = decoded(overlay(image, torch.zeros(2, 2), "none"))
    assert shown.shape == (64, 64, 3)
    assert np.abs(shown[::8, ::8, 0].astype(int) - pixels(image)).max() <= 1


def test_large_pictures_are_reduced():
    markup = picture(torch.rand(3, 600, 400), "large")
    assert max(decoded(markup).shape[:2]) <= 160
    assert len(markup) < 40_000


def test_matrix_shows_every_count_once():
    texts = [one.text for one in parse(matrix([[7, 2], [0, 9]], ["cat", "dog"])).iter("text")]
    assert sorted(t for t in texts if t and t.isdigit()) == ["2", "7", "9"]  # zeros are left blank


def test_ridges_draw_start_and_end_of_every_layer():
    rows = [Ridge(name, [0, 1, 2], [1, 3], [2, 2], "note") for name in ("first", "second")]
    found = parse(ridges(rows, Scale(0, 2), "activation"))
    kinds = [one.attrib["class"] for one in found.iter("path")]
    assert kinds.count("area blue") == kinds.count("line grey dashed") == 2


def test_cases_keep_their_order():
    rows = [[Tile(picture(torch.zeros(1, 2, 2), "x"), label) for label in ("a", "b")] for _ in range(3)]
    found = parse(cases(["left", "right"], rows))
    assert [one.text for one in found.iter("b")] == ["a", "b"] * 3
    assert [one.text for one in found.iter("span")] == ["left", "right"]


def test_text_in_tiles_and_tables_is_escaped():
    assert "<i>" not in tiles([Tile(picture(torch.zeros(1, 2, 2), "<i>"), "<i>", "<i>")])
    assert "<i>" not in table(["<i>"], [["<i>"]])


def test_numbers_stay_with_their_units():
    assert bind("98.3 ± 0.2 % of 360") == "98.3\u00a0±\u00a00.2\u00a0% of 360"
