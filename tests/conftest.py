"""What every test shares: one thread, a headless matplotlib, a fixed start of the global generators."""

import os
import random
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

matplotlib.use("Agg")
torch.set_num_threads(1)  # the tests' models are small, workers share the cores, and sums are the same everywhere


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with the data sets that are too large for the repository."""
    named = os.environ.get("CUTAWAY_DATA")
    if not named:
        pytest.skip("needs the data sets: set CUTAWAY_DATA to their folder")
    folder = Path(named).resolve()
    if not folder.is_dir():
        pytest.fail(f"CUTAWAY_DATA={named!r} is not a folder")
    return folder


def pytest_collectstart() -> None:
    """Give the networks that a test file makes when it is imported the same weights in every run."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _isolated() -> Iterator[None]:
    """Start each test from the same global random state and see that it leaves torch's global switches alone."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.manual_seed(0)
    before = _switches()
    yield
    after = _switches()
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
    if before != after:
        torch.set_default_dtype(before["default dtype"])
        torch.set_grad_enabled(before["grad enabled"])
        torch.use_deterministic_algorithms(before["deterministic"])
        changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
        pytest.fail(f"the test changed torch's global switches (before, after): {changed}")


@pytest.fixture
def global_randomness_untouched() -> Iterator[None]:
    """Fail the test when torch's, NumPy's or Python's global generator has moved by its end."""
    before = _randomness()
    yield
    moved = [name for name, state in _randomness().items() if state != before[name]]
    if moved:
        pytest.fail(f"the global generator of {', '.join(moved)} has moved")


def _switches() -> dict:
    return {
        "default dtype": torch.get_default_dtype(),
        "grad enabled": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def _randomness() -> dict[str, bytes | str]:
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": np.random.get_state()[1].tobytes() + bytes(np.random.get_state()[2]),
        "random": repr(random.getstate()),
    }


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the size of the package under the results."""
    lines = {path: len(path.read_text().splitlines()) for path in (ROOT / "cutaway").rglob("*.py")}
    longest = max(lines, key=lambda path: lines[path])
    terminalreporter.write_line(
        f"size: {len(lines)} files, {sum(lines.values())} lines, median {statistics.median(lines.values()):.0f}, "
        f"longest {longest.relative_to(ROOT)} ({lines[longest]})"
    )
