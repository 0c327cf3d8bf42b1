"""Train neural networks, open them up, and break them.

The names below are loaded when they are first used, so that `import cutaway` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cutaway import attack, data, diagnose, experiments, explain, graph, nets, report, train, visualize
    from cutaway.graph import Graph, Node, Program, Trace, capture, grad, jvp, rules
    from cutaway.train import Run, Trainer, fit, fit_many

__version__ = "0.1.0"

_FOLDERS = ("attack", "data", "diagnose", "experiments", "explain", "graph", "nets", "report", "train", "visualize")
_NAMES = {
    **dict.fromkeys(("Graph", "Node", "Program", "Trace", "capture", "grad", "jvp", "rules"), "graph"),
    **dict.fromkeys(("Run", "Trainer", "fit", "fit_many"), "train"),
}
__all__ = [
    "Graph",
    "Node",
    "Program",
    "Run",
    "Trace",
    "Trainer",
    "attack",
    "capture",
    "data",
    "diagnose",
    "experiments",
    "explain",
    "fit",
    "fit_many",
    "grad",
    "graph",
    "jvp",
    "nets",
    "report",
    "rules",
    "train",
    "visualize",
]


def __getattr__(name: str) -> Any:
    if name in _FOLDERS:
        return importlib.import_module(f"cutaway.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"cutaway.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'cutaway' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
