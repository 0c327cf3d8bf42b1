"""The one progress bar: silent off a terminal, and with share, rate, time left and note on one."""

import pytest

from cutaway import progress


def test_nothing_is_written_off_a_terminal(capfd: pytest.CaptureFixture) -> None:
    assert list(progress.track(range(3), "counting")) == [0, 1, 2]
    assert capfd.readouterr() == ("", "")


def test_a_terminal_shows_what_is_done(capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    monkeypatch.setenv("COLUMNS", "120")
    clock = iter(range(100))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with progress.bar("pgd", 8) as tick:
        tick("3 left")
        tick("2 left")  # two after one second more: one a second
        tick("1 left", done=7)
    shown = capfd.readouterr().err
    assert "pgd" in shown and "1 left" in shown and "7/8" in shown
    assert "3/s" in shown  # from 1 to 7 in two seconds


def test_no_bar_when_none_is_wanted(capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress.bar("pgd", 2, shown=False) as tick:
        tick("half")
    assert capfd.readouterr() == ("", "")
