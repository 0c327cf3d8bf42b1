"""Programs with the model's parameters looked up once, for a search during which they do not change."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cutaway.errors import CutawayError
from cutaway.graph.backward import start
from cutaway.graph.emit import emit, references
from cutaway.graph.graph import Graph
from cutaway.graph.program import Built, Program, forward_program, picked
from cutaway.graph.reuse import Tables, reuse


class Held:
    """A gradient's program, or the forward one of a graph, ready to be called with images again and again.

    Looking up and checking some hundred parameters costs as much as a layer; here the first call does it.
    """

    def __init__(self, what: Program | Graph) -> None:
        self.graph, built = (what.graph, what.built) if isinstance(what, Program) else (what, forward_program(what))
        self.function, self.names = built.emitted.function, built.parameters
        self.known: dict[str, Any] = {}
        self.program = what if isinstance(what, Program) else None

    @cached_property
    def halves(self) -> "Halves":
        """A gradient's program in two halves."""
        if self.program is None:
            raise CutawayError("the forward program of a graph has no reverse pass")
        return Halves(self.program)

    def __call__(self, x: Tensor, seed: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, ...]:
        """The outputs at images (N, C, H, W), and for a gradient's program their adjoint (N, C, H, W)."""
        with torch.no_grad():
            if not self.known:
                self.known = self.graph.leaf_values((x,), {}, self.names)
            here = {self.graph.inputs[0].identifier: x, "seed_0": seed}
            return self.function(*picked(self.known | here, self.names))


@dataclass(frozen=True)
class Cut:
    """A gradient's program cut where the reverse pass begins: two functions, and the names of what they take."""

    ahead: Callable[..., tuple]
    back: Callable[..., tuple]
    leaves: list[str]
    kept: list[str]  # what the first gives and the second takes; the output comes first


def cut(built: Built) -> Cut:
    """Cut a program; each half overwrites only values of its own."""
    place = next(place for place, line in enumerate(built.lines) if line.function is start)
    ahead, back = built.lines[:place], built.lines[place:]
    made = {name for line in ahead for name in line.targets}
    read = dict.fromkeys(name for line in back for name in references([line.args, line.kwargs]))
    kept = list(dict.fromkeys([built.returns[0], *(name for name in read if name in made)]))
    leaves, adjoint, tables = built.parameters[:-1], built.returns[1:], Tables()  # the last parameter is the seed
    first = emit("ahead", leaves, reuse(ahead, kept, tables), kept)
    second = emit("back", [*kept, *built.parameters], reuse(back, adjoint, tables), adjoint)
    return Cut(first.function, second.function, leaves, kept)


class Halves:
    """A gradient's program in two halves: one pass forward, then as many back as one likes."""

    def __init__(self, program: Program) -> None:
        self.graph = program.graph
        self.cut: Cut = self.graph.remembered(("halves", program.built), lambda: cut(program.built))
        self.known: dict[str, Any] = {}

    def __call__(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The output (N, K) at images (N, C, H, W), and the function from its adjoint to theirs."""
        if not self.known:
            self.known = self.graph.leaf_values((x,), {}, self.cut.leaves)
        leaves = picked(self.known | {self.graph.inputs[0].identifier: x}, self.cut.leaves)
        with torch.no_grad():
            kept = self.cut.ahead(*leaves)

        def pull(seed: Tensor) -> Tensor:
            with torch.no_grad():
                return self.cut.back(*kept, *leaves, seed)[0]

        return kept[0], pull
