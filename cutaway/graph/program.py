"""Programs: what a graph is asked for, built once and run many times."""

from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import torch

from cutaway.errors import ArgumentError
from cutaway.graph.backward import (
    Choice,
    Line,
    Ref,
    Reverse,
    adjoint_name,
    at_reference,
    choose,
    forward_lines,
    refuse_out_of_reach,
    renamed,
    shape_line,
)
from cutaway.graph.emit import Emitted, emit
from cutaway.graph.emit import references as names_in
from cutaway.graph.nodes import Node, moves
from cutaway.graph.replay import Replay
from cutaway.graph.reuse import Tables, reuse
from cutaway.graph.rows import RuleSet, compares

if TYPE_CHECKING:
    from cutaway.graph.graph import Graph

_NONE = choose([], (), (), None)


@cache
def _tables() -> Tables:
    return Tables()


class Built:
    """The emitted function of a program and the names of its parameters.

    Attributes:
        compared: whether it takes a reference beside the inputs.
        one_serves_all: whether a reference may be a batch of one for inputs of any batch size.
    """

    def __init__(
        self, name: str, parameters: list[str], lines: list[Line], returns: list[str], origins: Mapping[Node, str]
    ) -> None:
        self.name, self.parameters, self.lines, self.returns, self.origins = name, parameters, lines, returns, origins
        self.compared = self.one_serves_all = False

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

    def __call__(self, *inputs: Any, seed: Any = None, reference: Any = None, **keywords: Any) -> Any:
        """Compute the adjoints: one tensor if `wrt` was one name, otherwise a tuple.

        Args:
            inputs, keywords: the model's inputs.
            seed: the adjoint of `of`: None for ones, a tensor like it, a function of its value, or a tuple of those.
            reference: for rules that compare (`rules.deep_lift_rescale`), what the inputs are compared with: a tensor
                like the input, or a tuple of all of the model's inputs. A seed that is a function gets both values.
        """
        adjoints = tuple(self.evaluate(*inputs, seed=seed, reference=reference, **keywords)[1].values())
        return adjoints[0] if self.single else adjoints

    def evaluate(self, *inputs: Any, seed: Any = None, reference: Any = None, **keywords: Any) -> tuple[dict, dict]:
        """Compute values and adjoints: two dicts, keyed by the names as they were asked for.

        Values at a reference have the keys (name, "reference").
        """
        with torch.no_grad():
            return self._run(self.built.emitted, inputs, keywords, seed, reference)

    def differentiable(
        self, *inputs: Any, seed: Any = None, reference: Any = None, **keywords: Any
    ) -> tuple[dict, dict]:
        """As `evaluate`, under the caller's grad mode: the program is itself a function that can be differentiated."""
        return self._run(self.built.pure, inputs, keywords, seed, reference)

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

    def _run(
        self, emitted: Emitted, inputs: tuple, keywords: Mapping[str, Any], seed: Any, reference: Any
    ) -> tuple[dict, dict]:
        env = self.graph.leaf_values(inputs, keywords, self.built.parameters)
        if self.built.compared:
            if reference is None:
                raise ArgumentError(
                    "these rules compare the input with a reference: pass reference=, a tensor shaped like the input"
                )
            given = reference if isinstance(reference, tuple) else (reference,)
            bound = self.graph.leaf_values(given, keywords, ())  # inputs alone
            env |= {at_reference(name): value for name, value in bound.items()}
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
    refuse_out_of_reach(of, wrt)
    choice = choose(graph.nodes, of, wrt, rules)
    compared = compares(rules)
    walk = Reverse(choice, of, wrt, compared)
    walk.walk(graph.nodes)
    missing = [node for node in wrt if node not in walk.ready]
    nodes = graph.needed([*of, *values, *missing])
    lines = []
    leaves = [shape_line(node) for node in walk.shapes if node.op is None]
    for line, node in zip(forward_lines(nodes, choice), [n for n in nodes if n.op is not None], strict=True):
        lines.append(line)
        if node in walk.shapes:
            lines.append(shape_line(node))
    ends = [node for node in (*of, *values) if moves(node)] if compared else []
    moving = [node for node in graph.needed([*walk.references, *ends]) if moves(node)]
    lines = [*leaves, *lines, *reference_lines(moving, choice), *walk.lines]
    if not compared:
        return assemble(graph, "gradient", lines, [*of, *values], wrt, missing, len(of), choice.origins)
    again = [at_reference(node.identifier) if moves(node) else node.identifier for node in (*of, *values)]
    built = assemble(graph, "gradient", lines, [*of, *values], wrt, missing, len(of), choice.origins, again)
    built.compared, built.one_serves_all = True, all(map(_by_example, moving))
    return built


def reference_lines(nodes: Sequence[Node], choice: Choice) -> list[Line]:
    """The forward lines of nodes that depend on an input, under their names at the reference."""
    lines = forward_lines(nodes, choice)
    inputs = {node.identifier for node in nodes if node.op is None}
    names = {name: at_reference(name) for name in (*inputs, *(target for line in lines for target in line.targets))}
    return [renamed(line, names) for line in lines]


def _by_example(node: Node) -> bool:
    """Whether a value keeps the batch as its first dimension, and only there: then one example broadcasts to all."""
    shapes = [node.shape] if node.parts is None else [shape for shape, _ in node.parts]
    return all(
        [str(size).isalpha() for size in shape] == [place == 0 for place in range(max(1, len(shape)))]
        for shape in shapes
        if shape is not None
    )


def assemble(
    graph: "Graph",
    name: str,
    lines: list,
    values: Sequence[Node],
    wrt: Sequence[Node],
    missing: Sequence[Node] = (),
    seeds: int = 0,
    origins: Mapping[Node, str] | None = None,
    references: Sequence[str] = (),
) -> Built:
    """Put lines together to a function: which leaves it reads, what it returns."""
    zeros = [
        Line((adjoint_name(n),), torch.zeros_like, "zeros_like", (Ref(n.identifier),), note="no path") for n in missing
    ]
    lines = [*lines, *zeros]
    returns = [*(node.identifier for node in values), *references, *(adjoint_name(node) for node in wrt)]
    used = {name for line in lines for name in names_in([line.args, line.kwargs])} | set(returns)
    leaves = [node for node in graph.nodes if node.op is None]
    names = [node.identifier for node in leaves]
    names += [at_reference(node.identifier) for node in leaves if node.kind == "input"]
    parameters = [*(name for name in names if name in used), *(f"seed_{position}" for position in range(seeds))]
    return Built(name, parameters, lines, returns, origins or {})


def picked(values: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """The values of some names, in order."""
    return [values.get(name) for name in names]
