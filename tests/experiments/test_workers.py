"""Jobs in processes of their own give what they give in this one, and their failures are heard."""

import importlib
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cutaway.errors import ArgumentError, CutawayError
from cutaway.experiments.workers import side_by_side

JOBS = """
import os, signal, time
import torch
from cutaway.errors import DataError
from cutaway.progress import bar

def seen(number):
    with bar("counting", number) as tick:
        for _ in range(number):
            tick()
    return number, torch.get_num_threads(), float(torch.ones(number).sum())

def refuse():
    raise DataError("no digits")

def stumble():
    raise ZeroDivisionError("by nought")

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def wait_long(mark):
    mark.write_text(str(os.getpid()))
    time.sleep(60)
    mark.with_suffix(".done").touch()
"""


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that the other processes can import as well."""
    (tmp_path / "jobs_of_this_test.py").write_text(JOBS)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("jobs_of_this_test", None)
    return importlib.import_module("jobs_of_this_test")


def test_results_come_in_the_order_of_the_jobs_with_the_cores_shared_out(jobs: Any) -> None:
    asked = {name: partial(jobs.seen, number) for name, number in (("a", 3), ("b", 1), ("c", 2))}
    found = side_by_side(asked, 2, progress=False)
    assert list(found) == ["a", "b", "c"] and [one[0] for one in found.values()] == [3, 1, 2]
    assert {one[1] for one in found.values()} == {max(1, (os.cpu_count() or 1) // 2)}
    assert [one[2] for one in side_by_side(asked, 1).values()] == [3.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ("refuse", "no digits"),
        pytest.param("stumble", "by nought", marks=pytest.mark.slow),
        pytest.param("die", "ended without a word", marks=pytest.mark.slow),
    ],
)
def test_a_failure_is_heard_and_ends_the_others(job: str, words: str, tmp_path: Path, jobs: Any) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(CutawayError, match=words):
        side_by_side({"bad": getattr(jobs, job), "slow": partial(jobs.wait_long, mark)}, 2, progress=False)
    assert not mark.with_suffix(".done").exists()
    if mark.exists():
        with pytest.raises(ProcessLookupError):
            os.kill(int(mark.read_text()), 0)


def test_control_c_ends_the_jobs(tmp_path: Path, jobs: Any) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import signal\nfrom functools import partial\nfrom pathlib import Path\n"
        "from cutaway.experiments.workers import side_by_side\n"
        f"from {jobs.__name__} import wait_long\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in a background shell
        f"    marks = [Path({str(tmp_path)!r}) / name for name in 'ab']\n"
        "    side_by_side({mark.name: partial(wait_long, mark) for mark in marks}, 2)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(Path(__file__).parents[2]), str(tmp_path)))}
    process = subprocess.Popen([sys.executable, str(script)], env=environment, start_new_session=True)
    marks = [tmp_path / name for name in "ab"]
    until = time.monotonic() + 120
    while not all(mark.exists() and mark.read_text() for mark in marks) and time.monotonic() < until:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) != 0
    for mark in marks:
        with pytest.raises(ProcessLookupError):
            os.kill(int(mark.read_text()), 0)


def test_workers_below_one_are_refused() -> None:
    with pytest.raises(ArgumentError, match="workers=0"):
        side_by_side({}, 0)
