"""Who may import whom, and what no file of the package may do; read from the syntax trees, nothing is imported."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "cutaway").rglob("*.py"))

# Imports point down. Within a layer the parts are blind to each other, but for those of the first and the last.
LAYERS = (
    {"__init__", "__main__", "cli", "studio"},
    {"experiments", "report"},
    {"train", "explain", "visualize", "attack", "diagnose"},
    {"graph", "nets", "data"},
    {"errors", "rng", "progress", "intervals", "saving"},
)
OPEN_WITHIN = {0, 4}
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}

CORE = {
    "PIL",
    "jaxtyping",
    "jinja2",
    "markupsafe",
    "matplotlib",
    "numpy",
    "rich",
    "safetensors",
    "scipy",
    "sklearn",
    "torch",
    "typer",
}
OPTIONAL = {"datasets", "huggingface_hub", "skimage", "soundfile", "starlette", "timm", "uvicorn"}  # the extras
SAFE_OF_PICKLE = {"PickleError", "UnpicklingError"}  # to catch what torch.load raises
FORBIDDEN = {"cPickle", "cloudpickle", "dill", "joblib", "torchvision"}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def part_of(path: Path) -> str:
    """Name the part of the package a file belongs to: its folder, or its own name at the top."""
    inner = path.relative_to(ROOT / "cutaway").parts
    return inner[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield what is imported anywhere in a tree as (dotted name, line); `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            yield from ((f"{start}.{alias.name}", node.lineno) for alias in node.names)


def inside_functions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the imports that stand inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports(node)


def for_types(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the imports under `if TYPE_CHECKING:`, which never run."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and dotted(node.test).split(".")[-1] == "TYPE_CHECKING":
            yield from (found for statement in node.body for found in imports(statement))


def guarded(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the imports that stand in `try: … except ImportError:`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Try) and any(ast.unparse(h.type or h) == "ImportError" for h in node.handlers):
            yield from (found for statement in node.body for found in imports(statement))


def dotted(node: ast.expr) -> str:
    """Write an attribute chain as it stands in the source: `torch.load`."""
    return ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""


def direction_faults(source: str, path: Path) -> list[str]:
    own, faults = part_of(path), []
    for name, line in imports(ast.parse(source)):
        if name.startswith("."):
            faults.append(f"{relative(path)}:{line}: relative import; write the full name")
            continue
        pieces = name.split(".")
        if pieces[0] != "cutaway":
            continue
        # the package itself, or a name that cutaway/__init__.py re-exports, is the top
        other = pieces[1] if len(pieces) > 1 and pieces[1] in LEVEL else "__init__"
        same = LEVEL[own] == LEVEL[other]
        allowed = own == other or LEVEL[own] < LEVEL[other] or (same and LEVEL[own] in OPEN_WITHIN)
        if not allowed:
            faults.append(f"{relative(path)}:{line}: {own} may not import {name}")
    return faults


def conduct_faults(source: str, path: Path) -> list[str]:
    tree, faults = ast.parse(source), []

    def fault(line: int, text: str) -> None:
        faults.append(f"{relative(path)}:{line}: {text}")

    inside, types, tried = set(inside_functions(tree)), set(for_types(tree)), set(guarded(tree))
    for name, line in imports(tree):
        top = name.split(".")[0]
        if name.startswith("pickle.") and name.split(".")[1] not in SAFE_OF_PICKLE:
            fault(line, f"{name} runs code from files")
        if top in FORBIDDEN:
            fault(line, f"{top} is not used in the package")
        if top not in CORE | OPTIONAL | set(sys.stdlib_module_names) | {"cutaway", "mpl_toolkits"}:
            fault(line, f"{top} is not among the dependencies of pyproject.toml")
        if top in OPTIONAL and (name, line) not in inside | types | tried and part_of(path) != "studio":
            fault(line, f"{top} is an extra; import it where it is used, or under try … except ImportError")
        if top == "matplotlib" and (name, line) not in inside | types and part_of(path) != "report":
            fault(line, "matplotlib is imported inside plot functions only")
        if (name, line) in inside and top not in OPTIONAL | {"matplotlib", "mpl_toolkits"}:
            fault(line, f"{name} is imported inside a function; only matplotlib and optional extras are")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name | ast.FunctionDef):
            named = getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "name", "")
            if re.fullmatch(r"register_\w*hook", named):
                fault(node.lineno, f"{named}: no hooks, ask the graph")
        if isinstance(node, ast.Attribute) and dotted(node).startswith("pickle.") and node.attr not in SAFE_OF_PICKLE:
            fault(node.lineno, f"{dotted(node)} runs code from files")
        if isinstance(node, ast.Call) and dotted(node.func) == "torch.load":
            safe = any(
                key.arg == "weights_only" and isinstance(key.value, ast.Constant) and key.value.value is True
                for key in node.keywords
            )
            if not safe:
                fault(node.lineno, "torch.load without weights_only=True")
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            fault(node.value.lineno, "allow_pickle unpickles")
    if re.search(r"\b(TODO|FIXME|XXX)\b", source):
        faults.append(f"{relative(path)}: unfinished: TODO, FIXME or XXX")
    return faults


def test_core_is_what_the_package_declares() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.match(r"[\w-]+", line)[0] for line in declared}
    imported_as = {"pillow": "PIL", "scikit-learn": "sklearn"}
    assert {imported_as.get(name, name) for name in names} == CORE


def test_every_part_has_a_layer() -> None:
    """A new folder or top-level file has to be given its place in LAYERS."""
    assert {part_of(path) for path in FILES} <= set(LEVEL)


def test_imports_point_down() -> None:
    assert [fault for path in FILES for fault in direction_faults(path.read_text(), path)] == []


def test_conduct() -> None:
    assert [fault for path in FILES for fault in conduct_faults(path.read_text(), path)] == []


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("graph/a.py", "from cutaway.nets import lenet5"),
        ("explain/a.py", "from cutaway import attack"),
        ("train/a.py", "import cutaway.report.page"),
        ("rng.py", "from cutaway.graph import capture"),
        ("graph/a.py", "def f():\n    from cutaway import train"),
        ("nets/a.py", "import cutaway.cli"),
        ("nets/a.py", "from cutaway import fit"),
        ("nets/a.py", "import cutaway as ct"),
        ("nets/a.py", "from .lenet import lenet5"),
    ],
)
def test_direction_is_seen(place: str, source: str) -> None:
    assert direction_faults(source, ROOT / "cutaway" / place)


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("explain/a.py", "from cutaway import errors, graph, rng"),
        ("cli.py", "import cutaway as ct\nfrom cutaway import studio, train"),
        ("report/a.py", "from cutaway.explain import grad_cam"),
        ("__init__.py", "from cutaway.graph import capture"),
    ],
)
def test_direction_allows(place: str, source: str) -> None:
    assert direction_faults(source, ROOT / "cutaway" / place) == []


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("explain/a.py", "import matplotlib.pyplot as plt"),
        ("nets/a.py", "from torchvision import models"),
        ("nets/a.py", "import pickle\npickle.load(file)"),
        ("nets/a.py", "from pickle import loads"),
        ("cli.py", "from click import Context"),
        ("data/a.py", "import datasets"),
        ("nets/a.py", "def f():\n    import json"),
        ("nets/a.py", "state = torch.load(path)"),
        ("nets/a.py", "state = torch.load(path, weights_only=False)"),
        ("nets/a.py", "values = np.load(path, allow_pickle=True)"),
        ("explain/a.py", "model.register_full_backward_hook(f)"),
        ("explain/a.py", "# TODO: later"),
    ],
)
def test_misconduct_is_seen(place: str, source: str) -> None:
    assert conduct_faults(source, ROOT / "cutaway" / place)


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("explain/a.py", "def plot():\n    import matplotlib.pyplot as plt"),
        ("explain/a.py", "if TYPE_CHECKING:\n    from matplotlib.figure import Figure"),
        ("report/figures.py", "import matplotlib.pyplot as plt"),
        ("data/a.py", "def load():\n    import datasets"),
        ("nets/a.py", "state = torch.load(path, weights_only=True)"),
        ("nets/a.py", "try:\n    import huggingface_hub\nexcept ImportError:\n    huggingface_hub = None"),
        ("nets/a.py", "import pickle\ntry:\n    f()\nexcept pickle.UnpicklingError:\n    pass"),
    ],
)
def test_conduct_allows(place: str, source: str) -> None:
    assert conduct_faults(source, ROOT / "cutaway" / place) == []
