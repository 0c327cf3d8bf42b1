"""Files stay short enough to be read in one sitting, folders stay flat, nothing large is committed."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINES_PER_FILE = 500
BYTES_PER_FILE = 1_500_000
LINES_OF_PACKAGE = 45_000
TREES = ("cutaway", "tests", "benchmarks", "examples")


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def python_files() -> list[Path]:
    return [path for tree in TREES for path in sorted((ROOT / tree).rglob("*.py"))]


def test_no_file_is_long() -> None:
    long = {str(path.relative_to(ROOT)): lines(path) for path in python_files() if lines(path) > LINES_PER_FILE}
    assert long == {}, f"more than {LINES_PER_FILE} lines: split these files"


def test_one_folder_level() -> None:
    deep = [str(path.relative_to(ROOT)) for path in python_files() if len(path.relative_to(ROOT).parts) > 3]
    assert deep == [], "Python files lie at most one folder below cutaway/ and tests/"


def test_package_stays_within_its_budget() -> None:
    counts = {path: lines(path) for path in sorted((ROOT / "cutaway").rglob("*.py"))}
    total = sum(counts.values())
    print(f"cutaway: {len(counts)} files, {total} lines of {LINES_OF_PACKAGE}")
    assert total <= LINES_OF_PACKAGE


def test_nothing_large_is_tracked() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    large = {str(path.relative_to(ROOT)): path.stat().st_size for path in paths if path.is_file()}
    assert {name: size for name, size in large.items() if size > BYTES_PER_FILE} == {}
