"""The verbs write what they say they write, and refuse in words."""

import wave

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cutaway import cli

NET = """
import torch
from torch import nn


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 10))


def colour():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    for name in ("photo", "painting"):
        pixels = torch.rand(40, 50, 3, generator=torch.Generator().manual_seed(len(name)))
        Image.fromarray((pixels * 255).byte().numpy()).save(tmp_path / f"{name}.png")
    return tmp_path


def call(*words: str):
    return CliRunner().invoke(cli.app, list(words))


def written(found, path) -> None:
    assert found.exit_code == 0, found.stderr
    assert found.stdout.splitlines()[-1] == f"wrote   {path.name}"
    assert path.stat().st_size > 500


@pytest.mark.parametrize(
    "words",
    [
        ["--model", "net.py:make", "--data", "digits"],
        ["--model", "net.py:make", "--data", "digits", "--layer", "3", "--channels", "0,2", "--steps", "3"],
        ["--model", "net.py:make", "--data", "digits", "--layer", "3", "--examples"],
        ["--model", "net.py:make", "--data", "digits", "--class", "7", "--steps", "3"],
        ["photo.png"],
    ],
    ids=["filters", "channels", "examples", "class", "by hand"],
)
def test_visualize_writes_its_picture(folder, words):
    written(call("visualize", *words, "--out", "found.png"), folder / "found.png")


def test_visualize_looks_at_sounds(folder):
    with wave.open(str(folder / "tone.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(800)
        sound.writeframes((np.sin(np.arange(900) / 9) * 20_000).astype(np.int16).tobytes())
    written(call("visualize", "tone.wav", "--out", "found.png"), folder / "found.png")


def test_dream_and_style_write_their_pictures(folder):
    options = ["--model", "net.py:colour", "--size", "40", "--steps", "2"]
    written(call("dream", "photo.png", *options, "--octaves", "2", "--out", "a.png"), folder / "a.png")
    written(call("dream", "photo.png", *options, "-l", "1", "--guide", "painting.png", "-o", "b.png"), folder / "b.png")
    written(call("style", "photo.png", "painting.png", *options, "--keep-colour", "-o", "c.png"), folder / "c.png")
    with Image.open(folder / "c.png") as image:
        assert image.size == (50, 40)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["visualize"], "--model"),
        (["visualize", "none.png"], "no such file"),
        (["visualize", "-m", "net.py:make", "-d", "digits", "-l", "33"], "unknown node '33'"),
        (["visualize", "-m", "net.py:make", "-d", "digits", "-l", "3", "--channels", "a"], "--channels a"),
        (["dream", "none.png", "-m", "net.py:colour"], "no such file"),
        (["style", "photo.png", "painting.png", "-m", "net.py:colour", "--start", "nois"], "'noise'"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(folder, words, said):
    found = call(*words)
    assert found.exit_code == 2 and said in found.stderr and "Traceback" not in found.stderr
