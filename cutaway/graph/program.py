"""Programs: what a graph is asked for, built once and run many times."""

from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import torch

from cutaway.graph.backward import Line, Ref, Reverse, adjoint_name, choose, forward_lines, shape_line
from cutaway.graph.emit import Emitted, emit, references
from cutaway.graph.nodes import Node
from cutaway.graph.replay import Replay
from cutaway.graph.reuse import Tables, reuse
from cutaway.graph.rows import RuleSet

if TYPE_CHECKING:
    from cutaway.graph.graph import Graph

_NONE = choose([], (), (), None)


@cache
def _tables() -> Tables:
    return Tables()


class Built:
    """The emitted function of a program and the names of its parameters."""

    def __init__(
        self, name: str, parameters: list[str], lines: list[Line], returns: list[str], origins: Mapping[Node, str]
    ) -> None:
        self.name, self.parameters, self.lines, self.returns, self.origins = name, parameters, lines, returns, origins

    @cached_property
    def emitted(self) -> Emitted:
        """The function that overwrites values in their last use: the one that is run."""
        return emit(self.name, self.parameters, reuse(self.lines, self.returns, _tables()), self.returns)

    @cached_property
    def pure(self) -> Emitted:
        """The function that overwrites nothing: the one that can itself be differentiated."""
        return emit(self.name, self.parameters, self.lines, self.returns)


class Program:
    """A compiled request: values and adjoints as one straight-line function.

    Call it with the model's inputs; `code` shows what it does, `origins` which rule served which node.
    """

    def __init__(self, graph: "Graph", built: Built, single: bool, values: list, wrt: list) -> None:
        self.graph, self.built, self.single = graph, built, single
        self.value_keys, self.wrt_keys = values, wrt

    @property
    def code(self) -> str:
        """The function's Python source, readable and runnable."""
        return self.built.emitted.code

    @property
    def origins(self) -> dict[str, str]:
        """For each node on the way back, what served it: "rule", "replaced" or "fallback"."""
        return {node.name: origin for node, origin in self.built.origins.items()}

    def __call__(self, *inputs: Any, seed: Any = None, **keywords: Any) -> Any:
        """Compute the adjoints: one tensor if `wrt` was one name, otherwise a tuple.

        Args:
            inputs, keywords: the model's inputs.
            seed: the adjoint of `of`: None for ones, a tensor like it, a function of its value, or a tuple of those.
        """
        adjoints = tuple(self.evaluate(*inputs, seed=seed, **keywords)[1].values())
        return adjoints[0] if self.single else adjoints

    def evaluate(self, *inputs: Any, seed: Any = None, **keywords: Any) -> tuple[dict, dict]:
        """Compute values and adjoints: two dicts, keyed by the names as they were asked for."""
        with torch.no_grad():
            return self._run(self.built.emitted, inputs, keywords, seed)

    def differentiable(self, *inputs: Any, seed: Any = None, **keywords: Any) -> tuple[dict, dict]:
        """As `evaluate`, under the caller's grad mode: the program is itself a function that can be differentiated."""
        return self._run(self.built.pure, inputs, keywords, seed)

    def replay(self, *inputs: torch.Tensor, seed: Any = None) -> Replay:
        """Record the program as a CUDA graph for inputs of these shapes.

        Args:
            inputs: tensors on a CUDA device.
            seed: the adjoint of `of`, the same in every replay: None for ones, a tensor, or a function of its value
                that does not wait for the device.

        Raises:
            ArgumentError: an input is not on a CUDA device.
        """
        return Replay(self, inputs, seed)

    def _run(self, emitted: Emitted, inputs: tuple, keywords: Mapping[str, Any], seed: Any) -> tuple[dict, dict]:
        env = self.graph.leaf_values(inputs, keywords, self.built.parameters)
        seeds = seed if isinstance(seed, tuple | list) else (seed,)
        env |= {f"seed_{position}": each for position, each in enumerate(seeds)}
        results = emitted.function(*picked(env, self.built.parameters))
        split = len(self.value_keys)
        values = dict(zip(self.value_keys, results[:split], strict=True))
        return values, dict(zip(self.wrt_keys, results[split:], strict=True))


def forward_program(graph: "Graph") -> Built:
    """The program that only computes the outputs."""
    if "forward" not in graph.programs:
        lines = forward_lines(graph.needed(graph.outputs), _NONE)
        graph.programs["forward"] = assemble(graph, "forward", lines, graph.outputs, [])
    return graph.programs["forward"]


def build(graph: "Graph", of: list[Node], wrt: list[Node], rules: RuleSet | None, values: list[Node]) -> Built:
    """Make the program of a request: the forward lines it needs, then the reverse walk."""
    choice = choose(graph.nodes, of, wrt, rules)
    walk = Reverse(choice, of, wrt)
    walk.walk(graph.nodes)
    missing = [node for node in wrt if node not in walk.ready]
    nodes = graph.needed([*of, *values, *missing])
    lines = []
    leaves = [shape_line(node) for node in walk.shapes if node.op is None]
    for line, node in zip(forward_lines(nodes, choice), [n for n in nodes if n.op is not None], strict=True):
        lines.append(line)
        if node in walk.shapes:
            lines.append(shape_line(node))
    lines = [*leaves, *lines, *walk.lines]
    return assemble(graph, "gradient", lines, [*of, *values], wrt, missing, len(of), choice.origins)


def assemble(
    graph: "Graph",
    name: str,
    lines: list,
    values: Sequence[Node],
    wrt: Sequence[Node],
    missing: Sequence[Node] = (),
    seeds: int = 0,
    origins: Mapping[Node, str] | None = None,
) -> Built:
    """Put lines together to a function: which leaves it reads, what it returns."""
    zeros = [
        Line((adjoint_name(n),), torch.zeros_like, "zeros_like", (Ref(n.identifier),), note="no path") for n in missing
    ]
    lines = [*lines, *zeros]
    returns = [*(node.identifier for node in values), *(adjoint_name(node) for node in wrt)]
    used = {name for line in lines for name in references([line.args, line.kwargs])} | set(returns)
    leaves = [node.identifier for node in graph.nodes if node.op is None and node.identifier in used]
    parameters = [*leaves, *(f"seed_{position}" for position in range(seeds))]
    return Built(name, parameters, lines, returns, origins or {})


def picked(values: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """The values of some names, in order."""
    return [values.get(name) for name in names]
