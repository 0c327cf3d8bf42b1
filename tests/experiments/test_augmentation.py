"""Augmentation is measured on few labels, read, and shown."""

import os
from pathlib import Path

import pytest
import torch

from cutaway import data
from cutaway.experiments import augmentation
from cutaway.experiments.augmentation import SEEN, _sample, read

COLUMN = "test accuracy %"


def test_it_runs_reads_and_draws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUTAWAY_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = augmentation(seeds=2, labels=50, epochs=15, progress=False)
    ways = {row["way"]: row for row in found.rows}
    assert list(ways) == ["nothing", *(name for name in data.AUGMENTATIONS if name != "color")]  # digits are grey
    assert all(10 < row[COLUMN] <= 100 and row["n"] == 2 for row in found.rows)
    assert ways["flip"][COLUMN] < ways["nothing"][COLUMN]  # a mirrored digit is none
    before, after = list(found.rows[0])[-2:]
    assert ways["shift"][before] < ways["shift"][after]  # what is trained with it stands it better
    assert ways["nothing"][before] == ways["nothing"][after]
    figure = found.plot()
    assert len(figure.findobj(lambda one: hasattr(one, "get_images") and one.get_images())) == 14 + 7
    assert (found.save(tmp_path / "out") / "figure.png").stat().st_size > 100_000 and "digits:" in found.reading


def test_the_figure_shows_a_difference_for_everything() -> None:
    for what, x in {"image": _sample(), "text": ["The quick child made a big mistake."]}.items():
        for way in data.KINDS[what]:
            changed = data.augmentation((way, SEEN[what].get(way, {})), of=what)(x, torch.Generator().manual_seed(0))
            assert not (torch.equal(changed, x) if what == "image" else changed == x), way


def test_reading_tells_better_from_worse() -> None:
    def row(way: str, mean: float, moved: float = 50.0) -> dict:
        return {
            "data": "d",
            "way": way,
            COLUMN: mean,
            "sd": 1.0,
            "low": mean - 1,
            "high": mean + 1,
            "n": 8,
            "a": 40.0,
            "b": moved,
        }

    text = read([row("nothing", 80), row("shift", 85, 90.0), row("flip", 70), row("blur", 81)])
    assert "clearly better: shift; clearly worse: flip; not to be told apart: blur" in text
    assert "stand shift best" in text and "40.0 to 90.0" in text


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("CUTAWAY_DATA"), reason="CUTAWAY_DATA names no folder")
def test_moving_spoken_digits_in_time_helps() -> None:
    rows = {row["way"]: row for row in augmentation(seeds=4, epochs=60, progress=False).rows if "spoken" in row["data"]}
    assert list(rows) == ["nothing", *data.SOUND_AUGMENTATIONS]
    assert rows["shift"]["low"] > rows["nothing"]["high"]
