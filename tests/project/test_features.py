"""The feature table tells the truth: every id is there, and what it calls working has a public name and a test."""

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import typer

import cutaway

ROOT = Path(__file__).resolve().parents[2]
GROUPS = {"G": 10, "N": 22, "T": 14, "D": 10, "E": 14, "A": 12, "R": 5}
IDS = [f"{group}{number}" for group, count in GROUPS.items() for number in range(1, count + 1)]
STATES = ("works", "not yet")


@dataclass(frozen=True)
class Row:
    id: str
    what: str
    state: str
    name: str
    test: str


def read(text: str) -> list[Row]:
    """Read the rows of the tables: lines whose first cell is an id."""
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and re.fullmatch(r"[A-Z]\d+", cells[0]):
            assert len(cells) == 5, f"five cells are wanted: {line}"
            found.append(Row(*cells))
    return found


def page() -> str:
    return (ROOT / "docs" / "features.md").read_text(encoding="utf-8")


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def resolves(name: str) -> bool:
    """Tell whether `ct.explain.grad_cam` is what a user gets after `import cutaway as ct`."""
    value = cutaway
    for piece in name.split(".")[1:]:
        if piece.startswith("_") or not hasattr(value, piece):
            return False
        value = getattr(value, piece)
    return True


@cache
def verbs() -> set[str]:
    """Return the verbs of the command line: its subcommands, or nothing where there is no command line."""
    if not (ROOT / "cutaway" / "cli").exists():
        return set()
    from cutaway import cli

    return set(typer.main.get_command(cli.app).commands)


def reference_fault(reference: str) -> str | None:
    """Say what is wrong with `tests/folder/test_file.py::test_name`, or None."""
    match = re.fullmatch(r"(tests/\w+/test_\w+\.py)::(test_\w+)", reference)
    if match is None:
        return f"{reference} is not written as tests/folder/test_file.py::test_name"
    path = ROOT / match[1]
    if not path.exists():
        return f"{match[1]} does not exist"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name == match[2]:
            return None if can_fail(node) else f"{reference} cannot fail"
    return f"{reference} does not exist"


def can_fail(test: ast.FunctionDef) -> bool:
    """Tell whether a test runs and checks anything: an assert, `raises` or a call to a check, and no fixed skip."""
    marks = {ast.unparse(mark).split("(")[0] for mark in test.decorator_list}
    if marks & {"pytest.mark.skip", "pytest.mark.xfail"}:
        return False
    checks = re.compile(r"assert|raises|warns|check")
    return any(
        isinstance(node, ast.Assert)
        or (isinstance(node, ast.Call) and checks.search(ast.unparse(node.func).split(".")[-1]))
        for node in ast.walk(test)
    )


def row_faults(row: Row) -> list[str]:
    """Say what is wrong with a row, in words."""
    names, tests = quoted(row.name), quoted(row.test)
    faults = []
    if row.state not in STATES:
        faults.append(f"{row.id}: state {row.state!r} is not one of {STATES}")
    if not row.what:
        faults.append(f"{row.id}: says nothing")
    if row.state == "works":
        if not any(name.startswith("ct.") for name in names):
            faults.append(f"{row.id}: works, but names nothing public")
        if not tests:
            faults.append(f"{row.id}: works, but no test holds it")
    for name in names:
        if name.startswith("ct."):
            if not resolves(name):
                faults.append(f"{row.id}: {name} is not there")
        elif not name.startswith("cutaway "):
            faults.append(f"{row.id}: {name} is neither ct.… nor a command")
    faults += [f"{row.id}: {fault}" for fault in map(reference_fault, tests) if fault]
    return faults


def unknown_verbs(text: str, known: set[str]) -> list[str]:
    """Return the commands a page shows whose verb the command line lacks."""
    shown = [code.split() for code in quoted(text) if code.startswith("cutaway ")]
    return [" ".join(words) for words in shown if words[1] not in known]


def test_every_id_is_listed_once_and_in_order() -> None:
    assert [row.id for row in read(page())] == IDS


@pytest.mark.parametrize("row", read(page()), ids=lambda row: row.id)
def test_row_is_honest(row: Row) -> None:
    assert row_faults(row) == []


def test_commands_exist() -> None:
    assert unknown_verbs(page(), verbs()) == []


GOOD = "`tests/project/test_features.py::test_row_is_honest`"


@pytest.mark.parametrize(
    ("state", "name", "test"),
    [
        ("works", "–", GOOD),
        ("works", "`ct.capture`", "–"),
        ("works", "`ct.no_such_name`", GOOD),
        ("works", "`ct.capture`", "`tests/project/test_features.py::test_that_is_not_there`"),
        ("works", "`ct.capture`", "`tests/nowhere/test_features.py::test_row_is_honest`"),
        ("nearly", "–", "–"),
        ("not yet", "`ct.no_such_name`", "–"),
    ],
)
def test_dishonest_rows_are_seen(state: str, name: str, test: str) -> None:
    assert row_faults(Row("G1", "a graph", state, name, test))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def test_a():\n    assert f(1) == 1", True),
        ("def test_a():\n    with pytest.raises(ValueError):\n        f(1)", True),
        ("def test_a():\n    torch.testing.assert_close(f(1), 1)", True),
        ("def test_a():\n    f(1)", False),
        ("@pytest.mark.skip(reason='slow')\ndef test_a():\n    assert f(1) == 1", False),
        ("@pytest.mark.xfail\ndef test_a():\n    assert f(1) == 1", False),
    ],
)
def test_tests_that_cannot_fail_are_seen(source: str, expected: bool) -> None:
    assert can_fail(ast.parse(source).body[0]) is expected


def test_unknown_verbs_are_seen() -> None:
    assert unknown_verbs("`cutaway fly` and `cutaway train lenet5`", {"train"}) == ["cutaway fly"]


def test_an_honest_row_passes() -> None:
    assert row_faults(Row("G1", "a graph", "works", "`ct.capture`, `ct.explain.gradient`", GOOD)) == []
