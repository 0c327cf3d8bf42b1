"""A flat program in C, compiled for this machine: a tiny network's step costs less than torch takes to be called."""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from cutaway.train.cleaning import draws_numbers
from cutaway.train.native_source import HEAD, Source, Unwritten, Value
from cutaway.train.native_table import RESHAPED, TABLE

_FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math",
          "-fno-signed-zeros", "-fassociative-math", "-freciprocal-math", "-w")  # fmt: skip
_LARGEST = 1 << 26  # bytes of the workspace
_SLOWEST = 120  # seconds for the compiler


@cache
def compiler() -> str | None:
    """The C compiler of this machine: `CC`, else cc, gcc or clang."""
    return next(
        (found for name in (os.environ.get("CC"), "cc", "gcc", "clang") if name and (found := shutil.which(name))), None
    )


def native(program: fx.GraphModule, example: tuple[Tensor, ...]) -> Callable[..., tuple[Tensor, ...]] | None:
    """Write a flat program in C and compile it.

    What it draws at random is drawn by torch, in the same order. The answers differ from torch's by rounding.

    Args:
        program: cleaned, with the shapes and types of its values.
        example: tensors that it takes.

    Returns:
        A function of tensors of these shapes to the program's answers; None where there is no compiler, where the
        program holds what the table does not know, or where it changes what it is given.

    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> traced = make_fx(lambda a, b: ((a @ b).tanh(),))(torch.ones(2, 3), torch.ones(3, 4))
    >>> run = native(traced, (torch.ones(2, 3), torch.ones(3, 4)))
    >>> run is None or run(torch.ones(2, 3), torch.zeros(3, 4))[0].shape
    torch.Size([2, 4])
    """
    if compiler() is None or any(tensor.device.type != "cpu" for tensor in example):
        return None
    try:
        return _Native(program, example)
    except (Unwritten, subprocess.SubprocessError, OSError):
        return None


class _Native:
    """The compiled program and what a call needs."""

    def __init__(self, program: fx.GraphModule, example: tuple[Tensor, ...], fresh: int = 2) -> None:
        self.kept: list[Tensor] = []
        self.drawn: list[tuple[Callable[..., Tensor], tuple, dict]] = []
        source, self.found = self._write(program, example)
        if source.size > _LARGEST:
            raise Unwritten(f"a workspace of {source.size} bytes")
        self.workspace = torch.empty(source.size + 64, dtype=torch.uint8)
        start = -(-self.workspace.data_ptr() // 64) * 64
        count = 1 + len(self.kept) + len(example) + len(self.drawn) + len(self.found)
        self.addresses: Any = (ctypes.c_void_p * count)()
        self.first = 1 + len(self.kept)
        self.reused = [torch.empty(shape, dtype=dtype) for shape, dtype in self.found[fresh:]]
        self.fresh = self.found[:fresh]
        self.addresses[: self.first] = [start, *(tensor.data_ptr() for tensor in self.kept)]
        self.run = _compile(
            f"{HEAD}\nint run(void **p) {{\n  char *w = p[0];\n  int bad = 0;\n  "
            + "\n  ".join(source.lines)
            + "\n  return bad;\n}\n"
        )

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        inputs = [tensor if tensor.is_contiguous() else tensor.contiguous() for tensor in given]
        inputs += [draw(*arguments, **told) for draw, arguments, told in self.drawn]
        found = (*(torch.empty(shape, dtype=dtype) for shape, dtype in self.fresh), *self.reused)
        self.addresses[self.first :] = [tensor.data_ptr() for tensor in (*inputs, *found)]
        if self.run(self.addresses):
            raise IndexError("a target or an index lies outside of what it chooses from")
        return found

    def _write(self, program: fx.GraphModule, example: tuple[Tensor, ...]) -> tuple[Source, list[tuple[Any, Any]]]:
        """Write every node; constants come first, then what is given, what is drawn, and the answers."""
        nodes = list(program.graph.nodes)
        self.kept = [_short(getattr(program, str(node.target))) for node in nodes if node.op == "get_attr"]
        draws = [node for node in nodes if node.op == "call_function" and draws_numbers(node)]
        self.drawn = [_draw(node, program) for node in draws]
        before = [node for op in ("get_attr", "placeholder") for node in nodes if node.op == op] + draws
        tensors = (*self.kept, *example, *(node.meta["val"] for node in draws))
        source = Source()
        for place, (node, tensor) in enumerate(zip(before, tensors, strict=True), 1):
            source.known[node] = Value(f"p[{place}]", torch.empty(tensor.shape, dtype=tensor.dtype, device="meta"))
        source.constants = dict(zip(before, self.kept, strict=False))
        answers = next(node for node in nodes if node.op == "output").args[0]
        rooms = [(answer, f"p[{place}]") for place, answer in enumerate(answers, 1 + len(before))]
        source.places = {_origin(answer): room for answer, room in rooms}
        for node in nodes:
            if node.op == "call_function" and node not in source.known:
                if node.target not in TABLE:
                    raise Unwritten(f"the operation {node.target}")
                source.known[node] = TABLE[node.target](source, node)
        for answer, room in rooms:
            value = source.value(answer)
            if value.name != room or not value.like.is_contiguous() or value.like.storage_offset():
                source.copy(Value(room, torch.empty(value.like.shape, dtype=value.like.dtype, device="meta")), value)
        return source, [(source.value(answer).like.shape, source.value(answer).like.dtype) for answer in answers]


def _short(tensor: Tensor) -> Tensor:
    """Constants as they are read; whole numbers take half the memory where they fit."""
    fits = tensor.dtype == torch.int64 and (not tensor.numel() or int(tensor.abs().max()) < 1 << 31)
    return tensor.to(torch.int32).contiguous() if fits else tensor.contiguous()


def _draw(node: fx.Node, program: fx.GraphModule) -> tuple[Callable[..., Tensor], tuple, dict]:
    """What draws a node's numbers: its operation, with constants; of what it does not read the shape alone."""

    def constant(source: fx.Node) -> Tensor:
        if source.op == "get_attr":
            return getattr(program, str(source.target))
        if node.target is not torch.ops.aten.bernoulli.p:
            raise Unwritten(f"{node.target} of what was computed")
        return torch.empty(source.meta["val"].shape, dtype=source.meta["val"].dtype)

    arguments, told = fx.map_arg((node.args, node.kwargs), constant)
    target: Any = node.target
    return target, arguments, told


def _origin(node: fx.Node) -> fx.Node:
    """The operation whose answer is looked at, number by number in its order."""
    while node.target in RESHAPED and node.args[0].meta["val"].is_contiguous():  # pyright: ignore
        node = node.args[0]  # pyright: ignore
    return node


def _compile(text: str) -> Callable[[Any], int]:
    with tempfile.TemporaryDirectory(prefix="cutaway") as folder:  # loaded, it no longer needs its file
        source, library = Path(folder) / "program.c", Path(folder) / "program.so"
        source.write_text(text, "utf-8")
        subprocess.run(
            [str(compiler()), *_FLAGS, str(source), "-o", str(library), "-lm"],
            check=True, capture_output=True, timeout=_SLOWEST,
        )  # fmt: skip
        run = ctypes.CDLL(str(library)).run
    run.argtypes, run.restype = [ctypes.c_void_p], ctypes.c_int
    return run
