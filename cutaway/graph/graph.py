"""The graph of a computation: its nodes, and the requests one can make of it."""

import copy
import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from cutaway.errors import ArgumentError, nearest
from cutaway.graph import cost as costs
from cutaway.graph import draw as drawing
from cutaway.graph import measure as measuring
from cutaway.graph import orders as elimination
from cutaway.graph import trace as tracing
from cutaway.graph import walks
from cutaway.graph.backward import ancestors
from cutaway.graph.forward import Tangents, forward_mode
from cutaway.graph.nodes import Node, map_nodes, nodes_in
from cutaway.graph.passes import USUAL, optimized
from cutaway.graph.program import Program, build, forward_program, picked
from cutaway.graph.rows import RuleSet, cache_key


class Graph:
    """A captured computation. Parameters and buffers stay the module's own tensors, so a graph follows training.

    Attributes:
        nodes: all nodes in topological order.
        module: the module the parameters are read from, each time the graph runs.
        updates: buffers the computation changes (running statistics in training mode), with the node of the new value.
        dynamic: whether the batch size is free.
        specialised: whether the graph holds for the recorded inputs only (the model branches on the values it sees).
    """

    def __init__(self, module: nn.Module, nodes: list[Node], outputs: list[Any], in_spec: Any, out_spec: Any) -> None:
        self.module, self.nodes = module, nodes
        self.output_values = outputs  # what is returned, flat: nodes or plain values
        self.in_spec, self.out_spec = in_spec, out_spec
        self.updates: dict[str, Node] = {}
        self.input_slots: list[Any] = []  # the flat inputs: nodes, or the constant an argument was captured with
        self.specialised = False
        self.programs: dict[Any, Any] = {}
        self.preparations: dict[Node, Any] = {}
        self.by_name = {node.name: node for node in nodes}
        self.by_module = _module_outputs(nodes, self.outputs)

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
        """A node by its name or a module's path (its output); "input" (or "x") and "output" are the first ones."""
        if isinstance(name, Node):
            return name
        if name == "output" and self.outputs:  # also where some module inside is called so
            return self.outputs[0]
        if name in self.by_name:
            return self.by_name[name]
        if name in self.by_module:
            return self.by_module[name]
        if name in ("x", "input") and self.inputs:
            return self.inputs[0]
        raise nearest(name, dict.fromkeys([*self.by_name, *self.by_module, "input", "output"]), "node")

    def __contains__(self, name: str) -> bool:
        return name in self.by_name or name in self.by_module or name in ("x", "input", "output")

    def __repr__(self) -> str:
        operations = sum(node.op is not None for node in self.nodes)
        return f"<Graph of {type(self.module).__name__}: {operations} operations, {len(self.parameters)} parameters>"

    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        """Compute the outputs, in the structure the model returns them."""
        program = forward_program(self)
        with torch.no_grad():
            env = self.leaf_values(inputs, keywords, program.parameters)
            found = iter(program.emitted.function(*picked(env, program.parameters)))
        flat = [next(found) if isinstance(value, Node) else value for value in self.output_values]
        return pytree.tree_unflatten(flat, self.out_spec)

    def run(self, *inputs: Any, rules: RuleSet | None = None, **keywords: Any) -> tracing.Trace:
        """Run forward and keep every node's value."""
        return tracing.run(self, inputs, keywords, rules)

    def gradient(
        self,
        of: str | Node | Sequence[str | Node] = "output",
        wrt: str | Node | Sequence[str | Node] | None = None,
        rules: RuleSet | None = None,
        values: Sequence[str | Node] = (),
    ) -> Program:
        """Make the program that computes adjoints: the derivative of `of` with respect to `wrt`.

        Args:
            of: the node (or nodes) differentiated.
            wrt: the node or nodes whose adjoint is wanted; the first input by default.
            rules: a rule set laid over the table of backward rules.
            values: nodes whose value is wanted too.
        """
        single = wrt is None or isinstance(wrt, str | Node)
        wrt_keys: list[str | Node] = (
            [self.inputs[0].name] if wrt is None else [wrt] if isinstance(wrt, str | Node) else [*wrt]
        )
        of_keys: list[str | Node] = [of] if isinstance(of, str | Node) else [*of]
        wrt_nodes, of_nodes = [self[name] for name in wrt_keys], [self[name] for name in of_keys]
        value_nodes = [self[name] for name in values]
        for node in wrt_nodes:
            if not node.differentiable or node.shape is None:
                raise ArgumentError(
                    f"cannot differentiate with respect to {node.name!r}: it is not a real tensor ({node.dtype})"
                )
        key = (tuple(of_nodes), tuple(wrt_nodes), cache_key(rules), tuple(value_nodes))
        built = self.remembered(key, lambda: build(self, of_nodes, wrt_nodes, rules, value_nodes))
        keys: list[Any] = [*of_keys, *values]
        if built.compared:
            keys += [(key, "reference") for key in keys]
        return Program(self, built, single, keys, wrt_keys)

    def cost(
        self, of: str | Node = "output", wrt: str | Node | Sequence[str | Node] | None = None, batch: int = 1
    ) -> costs.Cost:
        """Count parameters, multiply-adds and activation memory by node and module; see `cutaway.graph.cost`."""
        return costs.cost(self, of, wrt, batch)

    def measure(self, *inputs: Any, repeats: int = 10, of: str | Node = "output", wrt: Any = None) -> measuring.Timing:
        """Measure the time of every operation, forward and backward; see `cutaway.graph.measure`."""
        return measuring.measure(self, inputs, of, wrt, repeats)

    def draw(self, path: str | Path | None = None, depth: int | None = 1, **options: Any) -> drawing.Drawing:
        """Draw the graph, modules open to a depth, to `path` (.svg or .html) if given; see `cutaway.graph.draw`."""
        return drawing.draw(self, path, depth, **options)

    def jvp(self, of: str | Node = "output", wrt: str | Node | Sequence[str | Node] | None = None) -> Tangents:
        """Make the forward-mode program: how `of` moves when `wrt` moves along given tangents."""
        names = [self.inputs[0]] if wrt is None else [wrt] if isinstance(wrt, str | Node) else [*wrt]
        return forward_mode(self, self[of], [self[name] for name in names])

    def jacobian(
        self, of: str | Node, wrt: str | Node, mode: str = "auto", chunk: int = 64
    ) -> Callable[..., torch.Tensor]:
        """Make the function that computes the Jacobian of one node by another from the inputs; see `walks.jacobian`.

        >>> import torch, cutaway as ct
        >>> layer = torch.nn.Linear(3, 2)
        >>> graph = ct.capture(layer, torch.randn(1, 3))
        >>> bool((graph.jacobian("output", "input")(torch.randn(1, 3))[0] == layer.weight).all())
        True
        """
        return lambda *inputs, **keywords: walks.jacobian(self, self[of], self[wrt], inputs, mode, chunk, **keywords)

    def paths(self, source: str | Node, target: str | Node, limit: int = 1_000) -> Callable[..., walks.Paths]:
        """Make the function that lists every path between two nodes with its derivatives; see `walks.paths`."""
        return lambda *inputs, **keywords: walks.paths(self, self[source], self[target], inputs, limit, **keywords)

    def orders(self, target: str | Node = "output", source: str | Node = "input", batch: int = 1) -> elimination.Orders:
        """Compare the costs of forward, reverse and the best elimination order between two nodes."""
        return elimination.orders(self, self[target], self[source], batch)

    def optimized(self, passes: Sequence[str] = USUAL, keep: Sequence[str] = ()) -> "Graph":
        """The graph after passes that keep its answer: batch norms folded, convolutions fused, channels last, …

        Args:
            passes: names from `passes.PASSES`.
            keep: names of nodes whose values are wanted; a pass that would merge or cut one of them is left out.

        >>> import torch, cutaway as ct
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.ReLU()).eval()
        >>> graph = ct.capture(model, torch.randn(2, 1, 8, 8)).optimized()
        >>> [node.name for node in graph.nodes if node.kind == "operation"]
        ['input.channels_last', '2']
        """
        key = ("optimized", tuple(passes), tuple(keep))
        return self.derived(key, lambda: copy.copy(optimized(self, passes, keep)))  # no passes give the graph itself

    def derived(self, key: Any, make: "Callable[[], Graph]") -> "Graph":
        """Another graph made of this one for a key, once; it reads the same module."""

        def kept() -> Graph:
            made = make()
            made.module = None  # type: ignore[assignment]  # what a cached graph keeps must not keep the module alive
            return made

        found = copy.copy(self.remembered(key, kept))
        found.module = self.module
        return found

    def remembered(self, key: Any, make: Callable[[], Any]) -> Any:
        """What was made for a key before; made now, and kept, the first time."""
        if not _hashable(key):  # a rule set with dicts inside
            return make()
        if key not in self.programs:
            self.programs[key] = make()
        return self.programs[key]

    def leaf_values(
        self, inputs: tuple, keywords: Mapping[str, Any], names: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """The values of inputs, parameters, buffers and constants by identifier; all, or those with the given names."""
        values: dict[str, Any] = {}
        for node, given in self._bind_inputs(inputs, keywords):
            values[node.identifier] = given
        wanted = None if names is None else set(names)
        for node in self.nodes:
            if node.op is None and node.kind != "input" and (wanted is None or node.identifier in wanted):
                values[node.identifier] = self.leaf_value(node)
        return values

    def leaf_value(self, node: Node) -> torch.Tensor:
        """The value of a parameter, buffer, constant, or of what a pass prepared from them."""
        if node.kind == "constant":
            return node.value
        if node.kind == "prepared":
            return self.prepared(node)
        return tensor_at(self.module, node.target)

    def prepared(self, node: Node) -> Any:
        """A value that depends on parameters only: computed anew when one of them has changed since."""
        sources = [self.leaf_value(source) for source in nodes_in(node.args)]
        versions = tuple((id(source), getattr(source, "_version", None)) for source in sources)
        known = self.preparations.get(node)
        if known is None or known[0] != versions:
            with torch.no_grad():
                args = map_nodes(self.leaf_value, node.args)
                known = self.preparations[node] = (versions, node.value(*args, **node.kwargs), sources)
        return known[1]

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
                raise ArgumentError(
                    f"the graph was captured with the argument {slot!r}, but got {given!r}; capture again"
                )
        return bound

    def needed(self, wanted: Sequence[Node]) -> list[Node]:
        """The nodes the wanted ones are computed from, themselves included, in order."""
        reach = ancestors(wanted)
        return [node for node in self.nodes if node in reach]


def tensor_at(module: nn.Module, target: str) -> torch.Tensor:
    """A module's parameter or buffer by its qualified name."""
    path, _, leaf = target.rpartition(".")
    return getattr(module.get_submodule(path) if path else module, leaf)


def _hashable(key: Any) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True


def _check_input(node: Node, given: Any, sizes: dict[str, int]) -> None:
    if not isinstance(given, torch.Tensor):
        raise ArgumentError(
            f"input {node.name!r} was a tensor when the graph was captured, but got {type(given).__name__}: {given!r}"
        )
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


def _module_outputs(nodes: Sequence[Node], returned: Sequence[Node]) -> dict[str, Node]:
    """For each module call, the last node computed inside that is used outside of it (the first part of a tuple)."""
    found: dict[str, Node] = {}
    for node in nodes:
        if node.shape is None or (node.op is operator.getitem and node.args[1] != 0):
            continue
        for _, call, _ in node.call:
            outside = node in returned or any(call not in {c for _, c, _ in user.call} for user in node.users)
            if outside and call:
                found[call] = node
    return found
