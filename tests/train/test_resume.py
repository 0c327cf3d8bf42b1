"""Stopped anywhere, gone on, the same bits: by an exception, by Ctrl-C, by SIGKILL, past a damaged checkpoint."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cutaway.errors import RunFolderError
from cutaway.train import Epoch, fit, load_run
from cutaway.train.checkpoint import LAST, PREVIOUS
from tests.train.common import blobs, same_weights, seeded, small_net
from tests.train.victim import EPOCHS, train

ROOT = Path(__file__).resolve().parents[2]
TIMES = {"seconds"}
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


class Stop(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture(scope="module")
def whole() -> dict[str, dict[str, Tensor]]:
    """The final weights of runs that were never stopped."""
    before = torch.get_num_threads()
    made = {kind: train(None, kind).state_dict() for kind in ("arrays", "loader")}
    torch.set_num_threads(before)
    return made


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def stopped_at(step: int, kind: str, folder: Path, **settings: Any) -> None:
    """Train until the given step, then fail; checkpoints are written at every fifth step."""
    count = 0

    def adversary(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        nonlocal count
        count += 1
        if count > step:
            raise Stop
        return x

    with pytest.raises(Stop):
        train(folder, kind, checkpoint_every=5, adversary=adversary, **settings)


@pytest.mark.parametrize("kind", ["arrays", "loader"])
def test_mid_epoch_resume_gives_the_same_bits(kind: str, whole: dict[str, Any], tmp_path: Path) -> None:
    stopped_at(37, kind, tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "failed"
    torch.manual_seed(1234)  # another process has another global state
    assert equal(train(tmp_path, kind).state_dict(), whole[kind])
    run = load_run(tmp_path, small_net())
    assert run.status == "completed" and run.history["epoch"] == list(range(1, EPOCHS + 1))


def test_damaged_last_checkpoint_still_leads_to_the_same_bits(whole: dict[str, Any], tmp_path: Path) -> None:
    stopped_at(50, "arrays", tmp_path)
    content = bytearray((tmp_path / LAST).read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / LAST).write_bytes(bytes(content))
    with pytest.warns(UserWarning, match="the checkpoint before"):
        model = train(tmp_path)
    assert equal(model.state_dict(), whole["arrays"])


def test_interrupt_is_clean_marked_and_goes_on(whole: dict[str, Any], tmp_path: Path) -> None:
    def press(epoch: Epoch) -> None:
        if epoch.number == 4:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    x, y = blobs(30)
    run = fit(
        small_net(), (x, y), validation=(x, y), test=(x, y), epochs=9, out=tmp_path, callbacks=[press], progress=False
    )
    assert signal.getsignal(signal.SIGINT) is before
    assert run.status == "interrupted" and run.test is None
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "interrupted"
    assert (tmp_path / LAST).exists() and equal(load_file(tmp_path / "model.safetensors"), run.model.state_dict())
    on = fit(small_net(), (x, y), validation=(x, y), test=(x, y), epochs=9, out=tmp_path, resume=True, progress=False)
    straight = fit(small_net(), (x, y), validation=(x, y), test=(x, y), epochs=9, progress=False)
    assert on.status == "completed" and same_weights(on.model, straight.model)
    for name in set(straight.history) - TIMES:
        assert on.history[name] == straight.history[name]


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    net = seeded(lambda: nn.Linear(2, 3))
    first = fit(net, blobs(), validation=blobs(seed=1), test=blobs(seed=2), epochs=2, out=tmp_path, progress=False)
    content = (tmp_path / "run.json").read_bytes()
    again = fit(nn.Linear(2, 3), blobs(), blobs(seed=1), blobs(seed=2), epochs=2, out=tmp_path, resume=True)
    assert same_weights(again.model, first.model) and again.test == first.test
    assert (tmp_path / "run.json").read_bytes() == content


def test_resuming_with_other_settings_is_refused(tmp_path: Path) -> None:
    stopped_at(37, "arrays", tmp_path)
    with pytest.raises(RunFolderError, match=r"settings\.lr: 0\.02 then, 0\.5 now"):
        fit(small_net(), blobs(120), blobs(60, seed=1), epochs=EPOCHS, batch_size=8, lr=0.5, ema=0.9, seed=7,
            out=tmp_path, resume=True)  # fmt: skip


def kill_and_go_on(folder: Path, kills: int, kind: str, seed: int) -> dict[str, Tensor]:
    """Start the run again and again in a process of its own, killing it at random moments, then let it finish."""
    draw = random.Random(seed)
    for _ in range(kills):
        last = folder / LAST
        stamp = last.stat().st_mtime_ns if last.exists() else None
        child = os.fork()  # quicker by far than a fresh interpreter, and just as dead afterwards
        if child == 0:
            try:
                train(folder, kind, checkpoint_every=3)
            finally:
                os._exit(0)
        done = 0
        while not done and (not last.exists() or last.stat().st_mtime_ns == stamp):  # until training has begun
            time.sleep(0.002)
            done, _ = os.waitpid(child, os.WNOHANG)
        time.sleep(draw.uniform(0, 0.15))
        if not done:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return train(folder, kind).state_dict()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A forked process cannot use the threads of its parent."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@forks
def test_sigkill_at_random_moments_gives_the_same_bits(whole: dict[str, Any], tmp_path: Path, one_thread: None) -> None:
    assert equal(kill_and_go_on(tmp_path, 4, "arrays", seed=0), whole["arrays"])


@forks
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["arrays", "loader"])
def test_sigkill_at_25_random_moments_gives_the_same_bits(
    kind: str, whole: dict[str, Any], tmp_path: Path, one_thread: None
) -> None:
    for turn in range(5):
        assert equal(kill_and_go_on(tmp_path / str(turn), 5, kind, turn + 1), whole[kind])


@pytest.mark.slow
def test_sigkill_of_a_fresh_interpreter(whole: dict[str, Any], tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.train.victim", str(tmp_path / "run")]
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    while process.poll() is None and not (tmp_path / "run" / PREVIOUS).exists():
        time.sleep(0.01)
    process.kill()
    process.communicate()
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    assert equal(load_file(tmp_path / "run" / "model.safetensors"), whole["arrays"])
