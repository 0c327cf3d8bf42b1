"""Several processes give the curve of one, write once, and end together; in shards as well."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import nn

from cutaway.errors import ArgumentError
from cutaway.train import OPTIMIZERS, fit
from tests.train.common import blobs

slow = pytest.mark.slow  # every start of two processes takes seconds
ROOT = Path(__file__).resolve().parents[2]
MEASURED = ("loss", "accuracy", "validation_loss", "validation_accuracy", "learning_rate")
NAMES = [name for name in OPTIMIZERS if name != "lbfgs"]


def start(out: Path, told: str, processes: int, *flags: str) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, str(ROOT / "tests" / "train" / "parallel.py"), str(out), told, *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def trained(out: Path, told: str, processes: int, *flags: str) -> Path:
    done = start(out, told, processes, *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def same(pair: Path, alone: Path, told: str, loose: float = 1.0) -> None:
    """Both processes found the curve, the weights and the test metrics of the one."""
    expected = read(alone / f"history-{told}-alone.json")
    for number in range(2):
        found = read(pair / f"history-{told}-{number}.json")
        for column in MEASURED:
            assert found["history"][column] == pytest.approx(expected["history"][column], abs=1e-5 * loose), told
        assert found["weights"] == pytest.approx(expected["weights"], abs=1e-4 * loose), told
        assert found["test"] == pytest.approx(expected["test"], abs=1e-5 * loose), told


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    alone, pair = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("pair")
    return trained(alone, "train", 1), trained(pair, "train", 2)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    alone, pair = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("shards")
    told = ",".join(["shard", "half", *NAMES])
    return trained(alone, told, 1), trained(pair, told, 2, "shard")


@slow
def test_two_processes_have_the_curve_of_one(both: tuple[Path, Path]) -> None:
    alone, pair = both
    same(pair, alone, "train")


@slow
def test_one_process_writes(both: tuple[Path, Path]) -> None:
    _, pair = both
    lines = (pair / "train" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    assert read(pair / "train" / "run.json")["status"] == "completed"


@slow
def test_a_finished_run_is_given_back_to_all(both: tuple[Path, Path]) -> None:
    _, pair = both
    before = read(pair / "history-train-0.json")["weights"]
    trained(pair, "train", 2, "resume")
    assert read(pair / "history-train-1.json")["weights"] == before


@slow
@pytest.mark.parametrize("flags", [(), ("shard",)])
def test_a_process_that_fails_ends_all_with_its_message(tmp_path: Path, flags: tuple[str, ...]) -> None:
    done = start(tmp_path, "crash", 2, *flags)
    assert done.returncode != 0 and "the second process fails on purpose" in done.stderr


@slow
@pytest.mark.parametrize("told", ["shard", *NAMES])
def test_shards_have_the_curve_of_one_process(shards: tuple[Path, Path], told: str) -> None:
    alone, pair = shards
    same(pair, alone, told)


@slow
def test_shards_in_float16_have_the_curve_of_one_process_as_far_as_float16_goes(shards: tuple[Path, Path]) -> None:
    alone, pair = shards
    same(pair, alone, "half", loose=1e3)


@slow
def test_one_process_writes_whole_weights_of_shards(shards: tuple[Path, Path]) -> None:
    _, pair = shards
    state = load_file(pair / "shard" / "model.safetensors")
    assert state["0.weight"].shape == (129, 2) and state["2.bias"].shape == (127,)
    found = [value.double().sum().item() for _, value in sorted(state.items())]
    assert found == pytest.approx(read(pair / "history-shard-1.json")["weights"], abs=1e-6) or len(found) == 6
    assert len((pair / "shard" / "history.jsonl").read_text().splitlines()) == 3


@slow
def test_shards_go_on_to_the_same_result_in_several_processes_and_in_one(
    shards: tuple[Path, Path], tmp_path: Path
) -> None:
    _, whole = shards
    expected = load_file(whole / "shard" / "last.safetensors")
    for number, (processes, loose) in enumerate(((2, 0.0), (1, 1e-5))):
        place = tmp_path / str(number)
        assert start(place, "shard", 2, "shard", "crash").returncode != 0
        assert 1 <= len((place / "shard" / "history.jsonl").read_text().splitlines()) <= 2
        trained(place, "shard", processes, "shard", "resume")
        found = load_file(place / "shard" / "last.safetensors")
        assert set(found) == set(expected)
        for name in expected:
            if name.startswith(("/model", "/optimizer", "/ema", "/best", "/meter")):
                assert (found[name] - expected[name]).abs().max() <= loose, name


@slow
def test_shards_that_explode_are_named_by_all(tmp_path: Path) -> None:
    done = start(tmp_path, "spoiled", 2, "shard")
    assert done.returncode != 0
    assert "epoch 1, step 2 (learning rate 1e+30): the loss squared_error is inf" in done.stderr


def test_shards_need_several_processes() -> None:
    with pytest.raises(ArgumentError, match="torchrun --nproc-per-node=2 -m cutaway train"):
        fit(nn.Linear(2, 3), blobs(), epochs=1, shard=True, progress=False)
