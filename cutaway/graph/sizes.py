"""Free sizes in numbers: a shape holds names and expressions ("N", "2*N") where the batch size is free."""

import ast
import operator
from collections.abc import Callable
from math import prod
from typing import Any

from cutaway.errors import ArgumentError
from cutaway.graph.nodes import Node, Size

_ARITHMETIC: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
}
_FUNCTIONS: dict[str, Callable] = {"Max": max, "Min": min, "floor": int, "FloorDiv": operator.floordiv}


def number_shape(shape: tuple[Size, ...] | None, batch: int = 1) -> tuple[int, ...] | None:
    """Write a shape in numbers: "N" is the batch, any other free size 1.

    >>> number_shape(("N", "2*N", 4), batch=3)
    (3, 6, 4)
    """
    return None if shape is None else tuple(s if isinstance(s, int) else _evaluate(s, batch) for s in shape)


def number_bytes(node: Node, batch: int = 1) -> int:
    """The memory of a node's value, all its parts together."""
    parts = ((node.shape, node.dtype),) if node.parts is None else node.parts
    return sum(
        prod(number_shape(shape, batch) or ()) * dtype.itemsize for shape, dtype in parts if shape is not None and dtype
    )


def _evaluate(text: str, batch: int) -> int:
    """The value of a size like "2*N" or "(N + 1)//2"."""

    def value(tree: ast.expr) -> Any:
        if isinstance(tree, ast.Constant):
            return tree.value
        if isinstance(tree, ast.Name):
            return batch if tree.id == "N" else 1
        if isinstance(tree, ast.BinOp):
            return _ARITHMETIC[type(tree.op)](value(tree.left), value(tree.right))
        if isinstance(tree, ast.UnaryOp):
            return _ARITHMETIC[type(tree.op)](value(tree.operand))
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
            return _FUNCTIONS[tree.func.id](*map(value, tree.args))
        raise ArgumentError(f"cannot read the size {text!r}")

    return int(value(ast.parse(text, mode="eval").body))
