"""The graph of a computation: its nodes, and the requests one can make of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from cutaway.errors import ArgumentError, nearest
from cutaway.graph import trace as tracing
from cutaway.graph.backward import Reverse, adjoint_name, ancestors, choose, forward_lines, shape_line
from cutaway.graph.nodes import Node
from cutaway.graph.program import Emitted, emit
from cutaway.graph.rules import RuleSet


class Graph:
    """A captured computation. Parameters and buffers stay the module's own tensors, so a graph follows training.

    Attributes:
        nodes: all nodes in topological order.
        module: the module the parameters are read from, each time the graph runs.
        updates: buffers the computation changes (running statistics in training mode), with the node of the new value.
        dynamic: whether the batch size is free.
    """

    def __init__(self, module: nn.Module, nodes: list[Node], outputs: list[Any], in_spec: Any, out_spec: Any) -> None:
        self.module, self.nodes = module, nodes
        self.output_values = outputs  # what is returned, flat: nodes or plain values
        self.in_spec, self.out_spec = in_spec, out_spec
        self.updates: dict[str, Node] = {}
        self.input_slots: list[Any] = []  # the flat inputs: nodes, or the constant an argument was captured with
        self.programs: dict[Any, Any] = {}
        self.by_name = {node.name: node for node in nodes}
        self.by_module = _module_outputs(nodes)

    @property
    def inputs(self) -> list[Node]:
        """The nodes of the tensors given to the computation."""
        return [slot for slot in self.input_slots if isinstance(slot, Node)]

    @property
    def outputs(self) -> list[Node]:
        """The nodes of the tensors returned."""
        return [value for value in self.output_values if isinstance(value, Node)]

    @property
    def parameters(self) -> list[Node]:
        """The nodes of the module's parameters."""
        return [node for node in self.nodes if node.kind == "parameter"]

    @property
    def dynamic(self) -> bool:
        """Whether the batch size is free."""
        return any(isinstance(size, str) for node in self.inputs for size in node.shape or ())

    def __getitem__(self, name: str | Node) -> Node:
        """A node by its name, by a module's path (the node of that module's output), or "output"."""
        if isinstance(name, Node):
            return name
        if name in self.by_name:
            return self.by_name[name]
        if name in self.by_module:
            return self.by_module[name]
        if name == "output" and self.outputs:
            return self.outputs[0]
        raise nearest(name, [*self.by_name, *self.by_module, "output"], "node")

    def __contains__(self, name: str) -> bool:
        return name in self.by_name or name in self.by_module or name == "output"

    def __repr__(self) -> str:
        operations = sum(node.op is not None for node in self.nodes)
        return f"<Graph of {type(self.module).__name__}: {operations} operations, {len(self.parameters)} parameters>"

    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        """Compute the outputs, in the structure the model returns them."""
        program = self._plain()
        with torch.no_grad():
            found = iter(program(*_picked(self.leaf_values(inputs, keywords), program.parameters)))
        flat = [next(found) if isinstance(value, Node) else value for value in self.output_values]
        return pytree.tree_unflatten(flat, self.out_spec)

    def run(self, *inputs: Any, rules: RuleSet | None = None, **keywords: Any) -> tracing.Trace:
        """Run forward and keep every node's value."""
        return tracing.run(self, inputs, keywords, rules)

    def gradient(
        self,
        of: str | Node | Sequence[str | Node] = "output",
        wrt: str | Node | Sequence[str | Node] = "",
        rules: RuleSet | None = None,
        values: Sequence[str | Node] = (),
    ) -> "Program":
        """Make the program that computes adjoints: the derivative of `of` with respect to `wrt`.

        Args:
            of: the node (or nodes) differentiated.
            wrt: the node or nodes whose adjoint is wanted; the first input by default.
            rules: a rule set laid over the table of backward rules.
            values: nodes whose value is wanted too.
        """
        single = isinstance(wrt, str | Node)
        wrt_nodes = [self.inputs[0] if name == "" else self[name] for name in ([wrt] if single else wrt)]
        of_nodes = [self[name] for name in ([of] if isinstance(of, str | Node) else of)]
        value_nodes = [self[name] for name in values]
        for node in wrt_nodes:
            if not node.differentiable or node.shape is None:
                raise ArgumentError(f"cannot differentiate with respect to {node.name!r}: it is not a real tensor ({node.dtype})")
        key = (tuple(of_nodes), tuple(wrt_nodes), _frozen(rules), tuple(value_nodes))
        built = self.programs.get(key) if key[2] is not None else None
        if built is None:
            built = _build(self, of_nodes, wrt_nodes, rules, value_nodes)
            if key[2] is not None:
                self.programs[key] = built
        keys = [node.name if wanted == "" else wanted for node, wanted in zip(wrt_nodes, [wrt] if single else wrt, strict=True)]
        of_keys = [of] if isinstance(of, str | Node) else list(of)
        return Program(self, built, single, [*of_keys, *values], keys)

    def leaf_values(self, inputs: tuple, keywords: Mapping[str, Any]) -> dict[str, Any]:
        """The values of inputs, parameters, buffers and constants by identifier."""
        values: dict[str, Any] = {}
        for node, given in self._bind_inputs(inputs, keywords):
            values[node.identifier] = given
        module = self.module
        for node in self.nodes:
            if node.kind in ("parameter", "buffer"):
                values[node.identifier] = _tensor_at(module, node.target)
            elif node.kind == "constant":
                values[node.identifier] = node.value
        return values

    def _bind_inputs(self, inputs: tuple, keywords: Mapping[str, Any]) -> list[tuple[Node, torch.Tensor]]:
        flat, spec = pytree.tree_flatten((inputs, dict(keywords)))
        if spec != self.in_spec:
            raise ArgumentError(f"the graph was captured for inputs {self.in_spec}, but got {spec}")
        sizes: dict[str, int] = {}
        bound = []
        for slot, given in zip(self.input_slots, flat, strict=True):
            if isinstance(slot, Node):
                _check_input(slot, given, sizes)
                bound.append((slot, given))
            elif not isinstance(given, torch.Tensor) and given != slot:
                raise ArgumentError(f"the graph was captured with the argument {slot!r}, but got {given!r}; capture again")
        return bound

    def _plain(self) -> "Built":
        if "forward" not in self.programs:
            self.programs["forward"] = _assemble(self, "forward", forward_lines(self._needed(self.outputs), _NONE), self.outputs, [])
        return self.programs["forward"]

    def _needed(self, wanted: Sequence[Node]) -> list[Node]:
        reach = ancestors(wanted)
        return [node for node in self.nodes if node in reach]


_NONE = choose([], (), (), None)


class Built:
    """The emitted function of a program and the names of its parameters."""

    def __init__(self, emitted: Emitted, parameters: list[str], origins: Mapping[Node, str]) -> None:
        self.emitted, self.parameters, self.origins = emitted, parameters, origins

    def __call__(self, *values: Any) -> tuple:
        return self.emitted.function(*values)


class Program:
    """A compiled request: values and adjoints as one straight-line function.

    Attributes:
        code: the function's Python source, readable and runnable.
        origins: for each node on the way back, whether a table row ("rule"), a given rule ("replaced") or the local vjp
            ("fallback") served it.
    """

    def __init__(self, graph: Graph, built: Built, single: bool, values: list, wrt: list) -> None:
        self.graph, self.built, self.single = graph, built, single
        self.value_keys, self.wrt_keys = values, wrt

    @property
    def code(self) -> str:
        return self.built.emitted.code

    @property
    def origins(self) -> dict[str, str]:
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
            return self.differentiable(*inputs, seed=seed, **keywords)

    def differentiable(self, *inputs: Any, seed: Any = None, **keywords: Any) -> tuple[dict, dict]:
        """As `evaluate`, under the caller's grad mode: the program is itself a function that can be differentiated."""
        env = self.graph.leaf_values(inputs, keywords)
        seeds = seed if isinstance(seed, tuple | list) else (seed,)
        env |= {f"seed_{position}": each for position, each in enumerate(seeds)}
        results = self.built(*_picked(env, self.built.parameters))
        split = len(self.value_keys)
        values = dict(zip(self.value_keys, results[:split], strict=True))
        return values, dict(zip(self.wrt_keys, results[split:], strict=True))


def _build(graph: Graph, of: list[Node], wrt: list[Node], rules: RuleSet | None, values: list[Node]) -> Built:
    choice = choose(graph.nodes, of, wrt, rules)
    walk = Reverse(choice, of, wrt)
    walk.walk(graph.nodes)
    missing = [node for node in wrt if node not in walk.ready]
    nodes = graph._needed([*of, *values, *missing])
    lines = []
    leaves = [shape_line(node) for node in walk.shapes if node.op is None]
    for line, node in zip(forward_lines(nodes, choice), [n for n in nodes if n.op is not None], strict=True):
        lines.append(line)
        if node in walk.shapes:
            lines.append(shape_line(node))
    lines = [*leaves, *lines, *walk.lines]
    return _assemble(graph, "gradient", lines, [*of, *values], wrt, missing, len(of), choice.origins)


def _assemble(
    graph: Graph,
    name: str,
    lines: list,
    values: Sequence[Node],
    wrt: Sequence[Node],
    missing: Sequence[Node] = (),
    seeds: int = 0,
    origins: Mapping[Node, str] | None = None,
) -> Built:
    from cutaway.graph.backward import Line, Ref
    from cutaway.graph.program import references

    zeros = [Line((adjoint_name(n),), torch.zeros_like, "zeros_like", (Ref(n.identifier),), note="no path") for n in missing]
    lines = [*lines, *zeros]
    returns = [*(node.identifier for node in values), *(adjoint_name(node) for node in wrt)]
    used = {name for line in lines for name in references([line.args, line.kwargs])} | set(returns)
    leaves = [node.identifier for node in graph.nodes if node.op is None and node.identifier in used]
    parameters = [*leaves, *(f"seed_{position}" for position in range(seeds))]
    return Built(emit(name, parameters, lines, returns), parameters, origins or {})


def _picked(values: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    return [values.get(name) for name in names]


def _frozen(rules: RuleSet | None) -> Any:
    """A hashable key for a rule set; None for one that cannot be cached."""
    return tuple() if not rules else ("rules", id(rules), *((str(k), id(v)) for k, v in rules.items()))


def _tensor_at(module: nn.Module, target: str) -> torch.Tensor:
    path, _, leaf = target.rpartition(".")
    return getattr(module.get_submodule(path) if path else module, leaf)


def _check_input(node: Node, given: Any, sizes: dict[str, int]) -> None:
    if not isinstance(given, torch.Tensor):
        raise ArgumentError(f"input {node.name!r} was a tensor when the graph was captured, but got {type(given).__name__}: {given!r}")
    expected = node.shape or ()
    fits = len(given.shape) == len(expected) and all(
        sizes.setdefault(want, got) == got if isinstance(want, str) else want == got
        for want, got in zip(expected, given.shape, strict=False)
    )
    if not fits:
        wanted = ", ".join(map(str, expected))
        raise ArgumentError(
            f"input {node.name!r} has shape {tuple(given.shape)}, but the graph was captured for ({wanted}); "
            f"capture the model again with an input of this shape"
        )


def _module_outputs(nodes: Sequence[Node]) -> dict[str, Node]:
    """For each module call, the last node computed inside that is used outside of it."""
    found: dict[str, Node] = {}
    for node in nodes:
        inside = {call for _, call, _ in node.call}
        for _, call, _ in node.call:
            outside = not node.users or any(call not in {c for _, c, _ in user.call} for user in node.users)
            if outside and call and node.shape is not None:
                found[call] = node
        del inside
    return found


Callback = Callable[[Node], Any]
