"""Programs with the model's parameters looked up once, for a search during which they do not change."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cutaway.errors import CutawayError
from cutaway.graph import Graph, Program
from cutaway.graph.backward import start
from cutaway.graph.emit import emit, references
from cutaway.graph.program import forward_program, picked
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


class Halves:
    """A gradient's program cut where the reverse pass begins: one pass forward, then as many back as one likes."""

    def __init__(self, program: Program) -> None:
        self.graph, built = program.graph, program.built
        cut = next(place for place, line in enumerate(built.lines) if line.function is start)
        ahead, back = built.lines[:cut], built.lines[cut:]
        self.output, made = built.returns[0], {name for line in ahead for name in line.targets}
        read = dict.fromkeys(name for line in back for name in references([line.args, line.kwargs]))
        self.kept = list(dict.fromkeys([self.output, *(name for name in read if name in made)]))
        self.leaves = [name for name in built.parameters if name != "seed_0"]
        tables = Tables()
        self.ahead = emit("ahead", self.leaves, reuse(ahead, self.kept, tables), self.kept).function
        self.names = [*self.kept, *built.parameters]
        self.back = emit("back", self.names, reuse(back, built.returns[1:], tables), built.returns[1:]).function
        self.known: dict[str, Any] = {}

    def __call__(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The output (N, K) at images (N, C, H, W), and the function from its adjoint to theirs."""
        with torch.no_grad():
            if not self.known:
                self.known = self.graph.leaf_values((x,), {}, self.leaves)
            leaves = self.known | {self.graph.inputs[0].identifier: x}
            values = dict(zip(self.kept, self.ahead(*picked(leaves, self.leaves)), strict=True))

        def pull(seed: Tensor) -> Tensor:
            with torch.no_grad():
                return self.back(*picked(leaves | values | {"seed_0": seed}, self.names))[0]

        return values[self.output], pull
