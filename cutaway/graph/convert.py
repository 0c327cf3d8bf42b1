"""From an exported program to our nodes: tidy the operations, name everything."""

import keyword
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.utils import _pytree as pytree

from cutaway.errors import CaptureError
from cutaway.graph.functional_form import functional_twin, in_place, is_functional, remove_identities
from cutaway.graph.graph import Graph, tensor_at
from cutaway.graph.nodes import Node, link, nodes_in
from cutaway.graph.rows import TABLE

aten = torch.ops.aten
_FULL = 2**63 - 1

# operations that carry no value: checks on shapes and metadata
CHECKS = {
    "aten._assert_tensor_metadata",
    "aten._assert_async",
    "aten._assert_scalar",
    "aten._linalg_check_errors",
    "aten.sym_constrain_range",
    "aten.sym_constrain_range_for_size",
}
# a view bakes in the strides of the traced tensors; a reshape does not
RENAMED = {aten.view.default: aten.reshape.default, aten._unsafe_view.default: aten.reshape.default}
# in a graph without mutation a copy is its argument
COPIES = {aten.clone.default, aten.alias.default, aten.lift_fresh_copy.default, aten.lift_fresh.default}
LEAVES = {
    InputKind.PARAMETER: "parameter",
    InputKind.BUFFER: "buffer",
    InputKind.CONSTANT_TENSOR: "constant",
    InputKind.USER_INPUT: "input",
}


def convert(module: nn.Module, exported: Any, inputs: Any, names: Sequence[str]) -> Graph:
    """Turn an exported program into a `Graph`.

    Args:
        module: where parameters and buffers live.
        exported: what `torch.export.export` returned.
        inputs: (inputs, keywords) it was exported with.
        names: what to call the flat inputs.
    """
    remove_identities(exported)
    if not is_functional(exported):
        _detach_no_grad_regions(exported)
        exported = _plain_operations(exported)
    return read(module, exported, inputs, names)


def read(module: nn.Module, exported: Any, inputs: Any, names: Sequence[str]) -> Graph:
    """Read a program that is free of side effects as a `Graph`; arguments as for `convert`."""
    reader = _Reader(exported, module)
    for fx_node in exported.graph_module.graph.nodes:
        reader.read(fx_node)
    signature = exported.graph_signature
    slots = [reader.slot(spec.arg) for spec in signature.input_specs if spec.kind == InputKind.USER_INPUT]
    for slot, name in zip(slots, names, strict=True):
        if isinstance(slot, Node):
            slot.name = name
    updates = {
        spec.target: reader.known[spec.arg.name]
        for spec in signature.output_specs
        if spec.kind == OutputKind.BUFFER_MUTATION
    }
    outputs = [reader.slot(spec.arg) for spec in signature.output_specs if spec.kind == OutputKind.USER_OUTPUT]
    returned = [value for value in outputs if isinstance(value, Node)]
    nodes = _alive(reader.nodes, [*returned, *updates.values()])
    _name(nodes, set(returned))
    link(nodes)
    in_spec = pytree.tree_flatten(inputs)[1]
    graph = Graph(module, nodes, outputs, in_spec, exported.call_spec.out_spec)
    graph.updates, graph.input_slots = updates, slots
    graph.by_name |= {name: node for name, node in reader.aliases.items() if node in graph.nodes}
    return graph


def _plain_operations(exported: Any) -> Any:
    """Make a program functional, and take apart composite operations that have no row of their own."""
    found = _composites(exported)
    exported = exported.run_decompositions(found)
    for _ in range(3):  # what a composite consists of may be composite again
        found = _composites(exported)
        if not found:
            break
        exported = exported.run_decompositions(found)
    return exported


def _composites(exported: Any) -> dict[Any, Callable]:
    """The composite operations of a program that the table is silent about, with what they are made of."""
    silent = {
        node.target
        for node in exported.graph_module.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
        and node.target._schema.name.startswith("aten::")
        and str(node.target) not in TABLE
        and str(node.target).rsplit(".", 1)[0] not in TABLE
        and torch._C._dispatch_has_kernel_for_dispatch_key(
            node.target.name(), torch._C.DispatchKey.CompositeImplicitAutograd
        )
    }
    if not silent:
        return {}
    known = torch.export.default_decompositions()
    return {op: known[op] for op in silent if op in known}


def _detach_no_grad_regions(exported: Any) -> None:
    """Values computed under `torch.no_grad()` are constants to a derivative: detach what leaves such a region."""
    graph_module = exported.graph_module
    graph = graph_module.graph
    for fx_node in list(graph.nodes):
        if "wrap_with_set_grad_enabled" in str(fx_node.target) and fx_node.args[0] is False:
            for user in list(fx_node.users):
                with graph.inserting_after(user):
                    if not isinstance(user.meta.get("val"), torch.Tensor):
                        continue
                    cut = graph.call_function(aten.detach.default, (user,))
                    cut.meta = dict(user.meta)
                    user.replace_all_uses_with(cut, delete_user_cb=lambda reader, cut=cut: reader is not cut)
    graph_module.recompile()


class _Reader:
    """Reads the nodes of an exported program one by one."""

    def __init__(self, exported: Any, module: nn.Module) -> None:
        self.exported, self.module = exported, module
        self.aliases: dict[str, Node] = {}  # further names of tied parameters
        self.nodes: list[Node] = []
        self.known: dict[str, Any] = {}  # by the exported program's names
        self.symbols: dict[str, str] = {}
        self.specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}

    def slot(self, argument: Any) -> Any:
        """What an input or output slot holds: a node, or a plain value."""
        return argument.value if isinstance(argument, ConstantArgument) else self.known[argument.name]

    def read(self, fx_node: Any) -> None:
        if fx_node.op == "placeholder":
            self.leaf(fx_node)
        elif fx_node.op == "call_function":
            self.operation(fx_node)
        elif fx_node.op == "get_attr":
            value = getattr(self.exported.graph_module, fx_node.target)
            if isinstance(value, torch.Tensor):
                self.add(fx_node, Node(fx_node.target, "constant", value=value))
            else:
                self.known[fx_node.name] = None

    def leaf(self, fx_node: Any) -> None:
        spec = self.specs[fx_node.name]
        if isinstance(spec.arg, ConstantArgument):
            self.known[fx_node.name] = spec.arg.value
            return
        if spec.kind == InputKind.TOKEN:  # orders operations with effects, which a graph of values has none of
            self.known[fx_node.name] = None
            return
        kind = LEAVES.get(spec.kind)
        if kind is None:
            raise CaptureError(f"input {fx_node.name!r} of kind {spec.kind.name} is no tensor")
        tied = self.tied(kind, spec.target)
        if tied is not None:
            self.known[fx_node.name] = self.aliases[spec.target] = tied
            return
        node = Node(spec.target or fx_node.name, kind, target=spec.target or "")
        if kind == "constant":
            node.value = self.exported.constants[spec.target]
        self.add(fx_node, node)

    def tied(self, kind: str, target: str | None) -> Node | None:
        """The node of a parameter that was met before under another name: one tensor has one adjoint."""
        if kind != "parameter" or target is None:
            return None
        tensor = tensor_at(self.module, target)
        same = [n for n in self.nodes if n.kind == "parameter" and tensor_at(self.module, n.target) is tensor]
        return same[0] if same else None

    def operation(self, fx_node: Any) -> None:
        args, kwargs = (self.translate(tree) for tree in (fx_node.args, fx_node.kwargs))
        op = RENAMED.get(fx_node.target, fx_node.target)
        if ".".join(str(op).split(".")[:2]) in CHECKS:
            return
        if op is torch.ops.higher_order.with_effects and ".".join(str(args[1]).split(".")[:2]) in CHECKS:
            self.known[fx_node.name] = (None, None)
            return
        if op is operator.getitem and isinstance(args[0], tuple):
            self.known[fx_node.name] = args[0][args[1]]
            return
        if isinstance(op, torch._ops.HigherOrderOperator):
            raise CaptureError(f"the control flow {op} at {source(fx_node)!r} has no graph of plain operations")
        if op is aten._native_batch_norm_legit_no_training.default:
            op, args = aten.batch_norm.default, (*args[:5], False, *args[5:], True)
            node = Node("", "operation", op, args, {}, _call(fx_node), source(fx_node))
            self.add(fx_node, node, fx_node.meta["val"][0])
            return
        if op is operator.getitem and isinstance(args[0], Node) and args[0].op is aten.batch_norm.default:
            self.known[fx_node.name] = args[0]
            return
        if in_place(op):
            self.rebind(
                fx_node, Node("", "operation", functional_twin(op), args, kwargs, _call(fx_node), source(fx_node))
            )
            return
        if op is not None and _is_copy(op, args, kwargs):
            self.known[fx_node.name] = args[0]
            return
        self.add(fx_node, Node("", "operation", op, args, kwargs, _call(fx_node), source(fx_node)))

    def rebind(self, fx_node: Any, node: Node) -> None:
        """An in-place operation makes a new value, and every name of the old one means the new one from here on."""
        old = node.args[0]
        self.add(fx_node, node)
        self.known.update({name: node for name, value in self.known.items() if value is old})

    def translate(self, tree: Any) -> Any:
        """The exported program's arguments with our nodes in them."""
        return pytree.tree_map_only(torch.fx.Node, lambda n: self.known[n.name], _plain(tree))

    def add(self, fx_node: Any, node: Node, value: Any = None) -> None:
        value = fx_node.meta.get("val") if value is None else value
        value = node.value if value is None else value
        if isinstance(value, torch.Tensor):
            node.shape, node.dtype = self.sizes(value.shape), value.dtype
        elif isinstance(value, tuple | list):
            node.parts = tuple(
                (self.sizes(part.shape), part.dtype) if isinstance(part, torch.Tensor) else (None, None)
                for part in value
            )
        self.known[fx_node.name] = node
        self.nodes.append(node)

    def sizes(self, shape: Any) -> tuple:
        """Sizes as numbers, dynamic ones as names: N for the batch, then M, L, …"""
        found = []
        for size in shape:
            if isinstance(size, int):
                found.append(size)
                continue
            if size.node.expr.is_number:  # the model fixed it
                found.append(int(size.node.expr))
                continue
            text = str(size.node.expr)
            for symbol in sorted(size.node.expr.free_symbols, key=str):
                self.symbols.setdefault(str(symbol), ("N", "M", "L", "K", "J")[min(len(self.symbols), 4)])
                text = text.replace(str(symbol), self.symbols[str(symbol)])
            found.append(text)
        return tuple(found)


def _plain(tree: Any) -> Any:
    """FX's immutable lists and dicts as ordinary ones."""
    if isinstance(tree, list):
        return [_plain(branch) for branch in tree]
    if isinstance(tree, tuple):
        return tuple(_plain(branch) for branch in tree)
    if isinstance(tree, Mapping):
        return {key: _plain(branch) for key, branch in tree.items()}
    if isinstance(tree, slice):
        return slice(_plain(tree.start), _plain(tree.stop), _plain(tree.step))
    return tree


def _is_copy(op: Callable, args: tuple, kwargs: Mapping[str, Any]) -> bool:
    if op in COPIES:
        return not kwargs
    if op is aten.slice.Tensor:
        start, stop, step = (*args[2:], None, None, None)[:3]
        return start in (0, None) and (stop is None or stop == _FULL) and step in (1, None)
    return False


def _call(fx_node: Any) -> tuple[tuple[str, str, str], ...]:
    """The chain of module calls around an operation: (path, path@repetition, class)."""
    chain = []
    for key, (path, kind) in (fx_node.meta.get("nn_module_stack") or {}).items():
        if key.startswith("_empty"):
            continue
        path = path.removeprefix("L__self__").lstrip(".")
        again = f"@{key.rsplit('@', 1)[1]}" if "@" in key else ""
        name = kind if isinstance(kind, str) else kind.__name__
        chain.append((path, path + again if path else "", name.split(".")[-1]))
    return tuple(chain)


def source(fx_node: Any) -> str:
    """The user's line that made the node: "file.py:12: code"."""
    lines = (fx_node.meta.get("stack_trace") or "").strip().splitlines()
    best = ""
    for position, line in enumerate(lines):
        if not line.strip().startswith('File "'):
            continue
        path, _, rest = line.strip().removeprefix('File "').partition('"')
        number = rest.split("line ")[1].split(",")[0] if "line " in rest else "?"
        code = lines[position + 1].strip() if position + 1 < len(lines) else ""
        if "/torch/" not in path or not best:
            best = f"{path.rsplit('/', 1)[-1]}:{number}: {code}"
    return best


def _alive(nodes: list[Node], wanted: list[Node]) -> list[Node]:
    """Without the operations nobody needs; inputs and parameters all stay."""
    needed: set[Node] = set()
    stack = list(wanted)
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack.extend(nodes_in((node.args, node.kwargs)))
    return [node for node in nodes if node in needed or node.kind in ("input", "parameter")]


def _name(nodes: list[Node], returned: set[Node]) -> None:
    """Give every node a unique readable name: a leaf module's output is called like the module."""
    link(nodes)
    calls: dict[str, list[Node]] = {}
    inner = {call for node in nodes for _, call, _ in node.call[:-1]}
    for node in nodes:
        if node.op is not None and node.call:
            calls.setdefault(node.call[-1][1], []).append(node)
    outputs = {}
    for call, members in calls.items():
        if not call or call in inner:
            continue
        group = set(members)
        leaving = [
            n for n in members if n.shape is not None and (n in returned or any(u not in group for u in n.users))
        ]
        leaving = [n for n in leaving if n.op is not operator.getitem or n.args[1] == 0] or leaving
        if leaving:
            outputs[leaving[-1]] = call
    taken: Counter[str] = Counter()
    identifiers: set[str] = set()
    for node in nodes:
        if node.op is not None:
            prefix = f"{node.call[-1][1]}." if node.call and node.call[-1][1] else ""
            node.name = outputs.get(node) or prefix + _operation_word(node)
        taken[node.name] += 1
        if taken[node.name] > 1:
            node.name = f"{node.name}_{taken[node.name] - 1}"
            taken[node.name] += 1
        node.identifier = _identifier(node.name, identifiers)


def _operation_word(node: Node) -> str:
    if node.op is operator.getitem:
        return f"{_operation_word(node.args[0])}_part{node.args[1]}"
    return {"native_batch_norm_legit_functional": "batch_norm_parts", "native_dropout": "dropout_parts"}.get(
        node.op_name, node.op_name
    )


def _identifier(name: str, taken: set[str]) -> str:
    text = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in name)
    text = f"_{text}" if text[:1].isdigit() or keyword.iskeyword(text) else text
    candidate, attempt = text, 1
    while candidate in taken:
        candidate, attempt = f"{text}_{attempt}", attempt + 1
    taken.add(candidate)
    return candidate
