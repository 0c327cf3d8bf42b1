"""Programs: straight-line Python functions made from lines, which can be read, run and compiled."""

import linecache
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch

from cutaway.graph.backward import Line, Ref

_serial = count()
_LOCAL = object()  # marks the names of values, which no function may take


@dataclass(frozen=True)
class Emitted:
    """A function made from lines, with its source."""

    function: Callable
    code: str


def references(tree: Any) -> list[str]:
    """The names that stand in a line's arguments."""
    if isinstance(tree, Ref):
        return [tree.name]
    if isinstance(tree, Mapping):
        return [name for branch in tree.values() for name in references(branch)]
    if isinstance(tree, list | tuple):
        return [name for branch in tree for name in references(branch)]
    if isinstance(tree, slice):
        return references((tree.start, tree.stop, tree.step))
    return []


def emit(name: str, parameters: Sequence[str], lines: Sequence[Line], returns: Sequence[str]) -> Emitted:
    """Write lines as the source of one function that frees every value after its last use.

    Args:
        name: the function's name.
        parameters: the names of its parameters.
        lines: what it does.
        returns: the names of what it returns, as a tuple.
    """
    scope: dict[str, Any] = {"torch": torch, "inf": math.inf, "nan": math.nan}
    scope |= dict.fromkeys((*parameters, *(target for line in lines for target in line.targets)), _LOCAL)
    last = {
        used: position
        for position, line in enumerate(lines)
        for used in (*references([line.args, line.kwargs]), *line.targets)
    }
    kept = set(returns)
    text = [f"def {name}({', '.join(parameters)}):"]
    for position, line in enumerate(lines):
        label = _bind(scope, line.label, line.function)
        call = [_literal(scope, line.label, value) for value in line.args]
        call += [f"{key}={_literal(scope, line.label, value)}" for key, value in line.kwargs.items()]
        targets = ", ".join(line.targets)
        code = f"    {targets} = {label}({', '.join(call)})"
        if line.label == "add" and len(line.args) == 2:
            code = f"    {targets} = {call[0]} + {call[1]}"
        elif line.label == "getitem":
            code = f"    {targets} = {call[0]}[{call[1]}]"
        text.append(f"{code}  # {line.note}" if line.note else code)
        used = dict.fromkeys((*references([line.args, line.kwargs]), *line.targets))
        dead = [value for value in used if last[value] == position and value not in kept]
        if dead:
            text.append(f"    del {', '.join(dead)}")
    text.append(f"    return ({''.join(f'{value}, ' for value in returns)})")
    scope = {key: value for key, value in scope.items() if value is not _LOCAL}
    source = "\n".join(text) + "\n"
    filename = f"<cutaway {name} {next(_serial)}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(compile(source, filename, "exec"), scope)
    return Emitted(scope[name], source)


def interpret(lines: Sequence[Line], values: dict[str, Any]) -> dict[str, Any]:
    """Run lines one by one, keeping every value by name (a trace; a program frees them)."""

    def look(tree: Any) -> Any:
        if isinstance(tree, Ref):
            return values[tree.name]
        if isinstance(tree, Mapping):
            return {key: look(branch) for key, branch in tree.items()}
        if isinstance(tree, list | tuple) and not isinstance(tree, torch.Size):
            return type(tree)(look(branch) for branch in tree)
        if isinstance(tree, slice):
            return slice(look(tree.start), look(tree.stop), look(tree.step))
        return tree

    for line in lines:
        result = line.function(*look(line.args), **look(line.kwargs))
        if len(line.targets) == 1:
            values[line.targets[0]] = result
        else:
            values.update(zip(line.targets, result, strict=True))
    return values


def _bind(scope: dict[str, Any], label: str, value: Any) -> str:
    """The name under which a value is known to the program, made unique."""
    name = "".join(letter if letter.isalnum() else "_" for letter in label)
    for attempt in count():
        candidate = name if attempt == 0 else f"{name}_{attempt}"
        if scope.setdefault(candidate, value) is value:
            return candidate
    raise AssertionError("unreachable")


def _literal(scope: dict[str, Any], label: str, value: Any) -> str:
    """An argument as Python source: names for references, literals as they are, the rest bound in the scope."""
    if isinstance(value, Ref):
        return value.name
    if isinstance(value, list | tuple):
        inner = ", ".join(_literal(scope, label, part) for part in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    if isinstance(value, slice):
        return f"slice({', '.join(_literal(scope, label, p) for p in (value.start, value.stop, value.step))})"
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, torch.dtype | torch.layout | torch.memory_format):
        return str(value)
    if isinstance(value, torch.device):
        return f"torch.{value!r}" if not repr(value).startswith("torch") else repr(value)
    return _bind(scope, f"{label}_{type(value).__name__.lower()}", value)
