"""The public interface is what each folder's `__all__` says, and every name of it explains itself."""

import importlib
import inspect
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ["cutaway", *(f"cutaway.{path.parent.name}" for path in sorted((ROOT / "cutaway").glob("*/__init__.py")))]
MODULES = ["cutaway.errors", "cutaway.rng"]  # public without __all__: everything they define

# Public functions without an executable example, and why.
WITHOUT_EXAMPLE = {
    "cutaway.attack.load": "reads a file that Attack.save has written",
    "cutaway.train.load_initial": "reads a run folder",
    "cutaway.train.load_run": "reads a run folder",
}


def defined_in(module: types.ModuleType) -> list[str]:
    """List the public functions and classes a module defines itself."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def public_names() -> list[tuple[str, str]]:
    """List every public name as (module, name)."""
    pairs = []
    for folder in FOLDERS:
        pairs += [(folder, name) for name in getattr(importlib.import_module(folder), "__all__", ())]
    for module in MODULES:
        pairs += [(module, name) for name in defined_in(importlib.import_module(module))]
    return pairs


PUBLIC = public_names()


def faults(place: str, name: str) -> list[str]:
    """Say what a public name lacks, in words."""
    value = getattr(importlib.import_module(place), name, None)
    if value is None:
        return [f"{place}.{name} does not resolve"]
    if not callable(value) or isinstance(value, types.GenericAlias):
        return []  # tables and constants are described where they are defined
    text = inspect.getdoc(value) or ""
    if inspect.isclass(value) and value.__doc__ is None:
        text = ""  # getdoc would answer with a parent's
    if not text:
        return [f"{place}.{name} has no docstring"]
    if inspect.isclass(value) and text.startswith(f"{value.__name__}("):
        return [f"{place}.{name} has only the docstring that dataclass makes"]
    if inspect.isfunction(value) and ">>>" not in text and f"{place}.{name}" not in WITHOUT_EXAMPLE:
        return [f"{place}.{name} has no example"]
    return []


@pytest.mark.parametrize("folder", FOLDERS)
def test_folder_says_what_it_exports(folder: str) -> None:
    module = importlib.import_module(folder)
    assert module.__doc__
    exported = list(getattr(module, "__all__", ()))
    assert len(set(exported)) == len(exported)
    ours = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and str(getattr(value, "__module__", "")).startswith("cutaway")
    ]
    assert set(ours) <= set(exported), "what a folder imports for its users stands in its __all__"


@pytest.mark.parametrize(("place", "name"), PUBLIC, ids=lambda value: value)
def test_public_name_explains_itself(place: str, name: str) -> None:
    assert faults(place, name) == []


def test_exceptions_are_needed() -> None:
    """The table of exceptions holds only names that exist and really lack an example."""
    for full in WITHOUT_EXAMPLE:
        place, name = full.rsplit(".", 1)
        assert ">>>" not in (inspect.getdoc(getattr(importlib.import_module(place), name)) or "")


def test_missing_names_are_seen() -> None:
    assert faults("cutaway.errors", "no_such_error")
