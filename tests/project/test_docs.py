"""The pages do not lie: commands exist, links lead somewhere, and nothing in them belongs to one machine."""

import re
import subprocess
from pathlib import Path

import pytest
import typer

from cutaway import cli

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = {".git", ".venv", ".bench", "runs", "build", "dist", "__pycache__", ".pytest_cache", ".ruff_cache"}

FOLDERS_OF_MACHINES = "/(?:" + "|".join(("work", "tmp", "home", "root", "Users", "farm")) + r")/\w"
REGISTRIES = (
    r"\b(?:" + "|".join((r"pypi\.", r"files\.pythonhosted\.", r"download\.pytorch\.", r"registry\.npmjs\.")) + ")"
)
PERSONAL = re.compile(rf"(?<![\w.:/]){FOLDERS_OF_MACHINES}|{REGISTRIES}org")


def tracked() -> list[Path]:
    """List the files under version control, or all but build products where there is no git."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    return [path for path in sorted(ROOT.rglob("*")) if path.is_file() and not SKIPPED & set(path.parts)]


def text_of(path: Path) -> str:
    """Return a file's text, empty for pictures and other bytes."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


FENCED = re.compile(r"^```.*?^```", flags=re.S | re.M)
INLINE = re.compile(r"`[^`\n]*`")


def without_code(text: str) -> str:
    """Blank out fenced and inline code, where brackets are no links."""
    return INLINE.sub("", FENCED.sub("", text))


def code_of(text: str) -> str:
    """Keep the fenced and inline code only."""
    return "\n".join(FENCED.findall(text) + INLINE.findall(FENCED.sub("", text)))


def links(text: str) -> list[str]:
    """List the targets of links and pictures of a Markdown page that lie in the repository."""
    prose = without_code(text)
    found = re.findall(r"\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)", prose) + re.findall(r"(?:src|href)=\"([^\"]+)\"", prose)
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(text: str) -> set[str]:
    """Make the anchors of a page's headings as GitHub does."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path, text: str) -> list[str]:
    dead = []
    for target in links(text):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve()
        known = anchors(text_of(path) if name else text) if anchor and path.exists() else {anchor}
        if not path.exists() or (anchor not in known and path.suffix in ("", ".md")):
            dead.append(target)
    return dead


PAGES = [path for path in tracked() if path.suffix == ".md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page, text_of(page)) == []


def test_commands_of_the_readme_are_targets_of_make() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", text_of(ROOT / "Makefile"), flags=re.M))
    for name in ("README.md", "CONTRIBUTING.md"):
        shown = set(re.findall(r"\bmake ([a-z][a-z-]+)\b", code_of(text_of(ROOT / name))))
        assert shown - targets == set(), f"{name} shows targets that Makefile lacks"
    screen = "\n".join(text_of(ROOT / "README.md").splitlines()[:30])
    assert "make demo" in screen and "make test" in screen, "both commands stand in the first screen"
    assert re.search(r"!\[[^]]+\]\(docs/images/\S+\)", screen), "with the picture they produce"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_verbs_shown_are_verbs_of_the_command_line(name: str) -> None:
    shown = set(re.findall(r"(?<!import )\bcutaway ([a-z]+)\b", code_of(text_of(ROOT / name))))
    assert shown <= set(typer.main.get_command(cli.app).commands)


def test_tour_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", text_of(ROOT / "README.md"), flags=re.S | re.M)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["run"].test["accuracy"] > 0.5
    assert names["trace"]["model.c3"].adjoint.shape == (8, 16, 10, 10)
    assert "def " in names["program"].code
    assert names["attribution"].score is not None
    assert names["attack"].success.sum() >= names["attack"].control.success.sum()
    assert (tmp_path / "attack.png").stat().st_size > 10_000


def test_help_lists_every_target() -> None:
    makefile = text_of(ROOT / "Makefile")
    phony = set(re.search(r"^\.PHONY: (.+)$", makefile, flags=re.M)[1].split()) - {"help", "lint"}
    assert phony == set(re.findall(r"@echo \"make ([a-z-]+)", makefile))


def test_nothing_belongs_to_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path in tracked()
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if PERSONAL.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("line", ["see /" + "tmp/x", '"/' + 'home/me/data"', "https://pypi" + ".org/simple"])
def test_paths_of_machines_are_seen(line: str) -> None:
    assert PERSONAL.search(line)


def test_dead_links_are_seen() -> None:
    text = "# A heading\n[a](#a-heading) [b](LICENSE) [c](missing.md) [d](#missing) ![e](docs/none.png) `[f](g)`\n"
    assert dead_links(ROOT / "README.md", text) == ["missing.md", "#missing", "docs/none.png"]
