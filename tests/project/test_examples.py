"""The examples run, and print what stands at their top."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = {
    "least_squares.py": ["-8.8, -1.9", "w → dot → add → sub → pow → add_1", "residual = y - prediction"],
    "own_rule.py": ["equal to ct.rules.guided: True", "vjp_relu_self"],
}


def test_every_example_is_here() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize("name", list(EXPECTED))
def test_an_example_prints_what_it_promises(name: str) -> None:
    command = [sys.executable, str(ROOT / "examples" / name)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    for text in EXPECTED[name]:
        assert text in done.stdout
