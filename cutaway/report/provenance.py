"""How this was made: data, settings, versions and machine, and the command that makes it again."""

import shlex
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from cutaway.report.page import Figure, Section, table
from cutaway.report.subject import Subject
from cutaway.report.svg import tag
from cutaway.report.words import count, listed

TITLE = "How this was made"


def section(subject: Subject) -> Section:
    """Make the chapter from run.json."""
    record = subject.record
    words = []
    if subject.sizes:
        parts = [f"{count(n)} {part}" for part, n in subject.sizes.items()]
        words.append(f"The {subject.data} data were split into {listed(parts)} examples.")
    figures = []
    for title, caption, rows in (
        (
            "Settings",
            "Look here first when a result cannot be repeated: every setting of the run is listed.",
            settings(record),
        ),
        (
            "Versions and machine",
            "Look for differences here when another machine gives other numbers.",
            machine(record),
        ),
    ):
        if rows:
            figures.append(Figure(title, caption, table(["", ""], rows, class_="tight")))
    return Section("provenance", TITLE, words, figures, extra=_command(record))


def settings(record: Mapping[str, Any]) -> list[list[object]]:
    """Network, data, augmentation and every setting that was given a value, as rows."""
    model, data = record.get("model") or {}, record.get("data") or {}
    given = {
        "network": model.get("name") or model.get("class"),
        "network settings": model.get("settings"),
        "data": data.get("name"),
        "data settings": data.get("settings"),
        "augmentation": record.get("augment"),
        **(record.get("settings") or {}),
    }
    return [[name.replace("_", " "), _text(value)] for name, value in given.items() if value not in (None, (), [], {})]


def machine(record: Mapping[str, Any]) -> list[list[object]]:
    """Versions, machine and the state of the code, as rows."""
    found = dict(record.get("environment") or {})
    found.pop("command", None)
    rows: list[list[object]] = [[name, _text(value)] for name, value in found.items() if value not in (None, "")]
    if git := record.get("git"):
        rows.append(["commit", f"{git['commit'][:12]}{' with changes' if git.get('changed') else ''}"])
    return rows


def _command(record: Mapping[str, Any]) -> Markup:
    words = (record.get("environment") or {}).get("command") or [""]
    if not words[0].endswith(("cutaway", "__main__.py")):
        return Markup("")  # trained from Python
    return tag("p", "The command was:") + tag("pre", shlex.join(["cutaway", *words[1:]]))


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(
            f"{key} ({_text(one)})" if isinstance(one, Mapping) else f"{key} {_text(one)}" for key, one in value.items()
        )
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
