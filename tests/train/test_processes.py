"""Several processes give the curve of one, write once, and end together."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # every start of two processes takes seconds
ROOT = Path(__file__).resolve().parents[2]


def start(out: Path, told: str, processes: int) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, str(ROOT / "tests" / "train" / "parallel.py"), str(out), told]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)


def read(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    alone, pair = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("pair")
    for out, processes in ((alone, 1), (pair, 2)):
        done = start(out, "train", processes)
        assert done.returncode == 0, done.stderr[-3000:]
    return alone, pair


def test_two_processes_have_the_curve_of_one(both: tuple[Path, Path]) -> None:
    alone, pair = both
    expected = read(alone / "history-train-alone.json")
    for name in ("history-train-0.json", "history-train-1.json"):
        found = read(pair / name)
        for column in ("loss", "accuracy", "validation_loss", "validation_accuracy", "learning_rate"):
            assert found["history"][column] == pytest.approx(expected["history"][column], abs=1e-5)
        assert found["weights"] == pytest.approx(expected["weights"], abs=1e-4)
        assert found["test"] == pytest.approx(expected["test"], abs=1e-5)


def test_one_process_writes(both: tuple[Path, Path]) -> None:
    _, pair = both
    lines = (pair / "run" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    assert read(pair / "run" / "run.json")["status"] == "completed"


def test_a_finished_run_is_given_back_to_all(both: tuple[Path, Path]) -> None:
    _, pair = both
    done = start(pair, "resume", 2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert read(pair / "history-resume-1.json")["weights"] == read(pair / "history-train-0.json")["weights"]


def test_a_process_that_fails_ends_all_with_its_message(tmp_path: Path) -> None:
    done = start(tmp_path, "crash", 2)
    assert done.returncode != 0 and "the second process fails on purpose" in done.stderr
