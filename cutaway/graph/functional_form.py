"""Is an exported program already free of side effects? Then it can be read as it is, in a third of the time.

`run_decompositions` makes any exported program functional, by tracing it again. Most networks in evaluation mode do
not need that: all they mutate is a fresh activation, by an in-place ReLU or sum. Such an operation is its functional
twin as long as nobody else looks at the same memory: as long as neither the tensor nor a view of it has another name.
"""

from dataclasses import replace
from typing import Any

import torch

from cutaway.graph.rows import TABLE

aten = torch.ops.aten

# without a row of their own, and harmless: sizes, checks and fresh constants
HARMLESS = {
    "aten.sym_size",
    "aten._assert_tensor_metadata",
    "aten._assert_scalar",
    "aten._assert_async",
    "aten.lift_fresh_copy",
    "aten.arange",
    "aten.zeros",
    "aten.ones",
    "aten.full",
    "aten.scalar_tensor",
}
# in evaluation these return their argument itself, memory included, which their schema does not tell
IDENTITIES = {aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default}


def remove_identities(exported: Any) -> None:
    """Replace dropout in evaluation by its argument: a second trace would take it for a copy of its own."""
    graph_module = exported.graph_module
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function" and node.target in IDENTITIES and not node.args[2]:
            for spec in exported.graph_signature.output_specs:  # what is returned is known by name
                if getattr(spec.arg, "name", None) == node.name:
                    spec.arg = replace(spec.arg, name=node.args[0].name)
            node.replace_all_uses_with(node.args[0])
            graph_module.graph.erase_node(node)
    graph_module.recompile()


def functional_twin(op: Any) -> Any:
    """The functional form of an in-place operation (`relu` for `relu_`); None if there is none."""
    name, overload = op._schema.name.removeprefix("aten::"), op._schema.overload_name or "default"
    packet = getattr(aten, name.removesuffix("_"), None) if name.endswith("_") and not name.startswith("_") else None
    return getattr(packet, overload, None) if packet is not None else None


def in_place(op: Any) -> bool:
    """Whether an operation writes to its first argument."""
    return isinstance(op, torch._ops.OpOverload) and op._schema.is_mutable


def is_functional(exported: Any) -> bool:
    """Whether every operation is known and free of side effects, or is in-place on memory nobody else looks at."""
    shared: set[str] = set()  # names whose memory has another name
    root: dict[str, str] = {}  # the name of the value an in-place chain began with
    for node in exported.graph_module.graph.nodes:
        root[node.name] = node.name
        if node.op == "placeholder":
            shared.add(node.name)
        if node.op != "call_function":
            continue
        op = node.target
        if not isinstance(op, torch._ops.OpOverload):
            if getattr(op, "__module__", "") != "_operator":
                return False
            continue
        if not _known(op) or _trains(node):
            return False
        if in_place(op):
            first = node.args[0]
            if not _same_kind(node) or root[first.name] in shared:
                return False
            root[node.name] = root[first.name]
        elif any(returned.alias_info is not None for returned in op._schema.returns):
            shared.add(node.name)
            shared.update(root[source.name] for source in node.all_input_nodes)
    return True


def _known(op: Any) -> bool:
    twin = functional_twin(op) if in_place(op) else op
    if twin is None or (in_place(op) and sum(a.alias_info is not None for a in op._schema.arguments) != 1):
        return False
    full = str(twin)
    return any(key in TABLE or key in HARMLESS for key in (full, full.rsplit(".", 1)[0]))


def _trains(node: Any) -> bool:
    """Whether an operation updates statistics or draws random numbers, which its schema does not tell."""
    if node.target is aten.batch_norm.default:
        return bool(node.args[5]) or node.args[3] is None
    return node.target in {aten.instance_norm.default, *IDENTITIES}


def _same_kind(node: Any) -> bool:
    """Whether an in-place operation's result has the shape and type its functional form would have."""
    value = node.meta.get("val")
    others = [source.meta.get("val") for source in node.all_input_nodes]
    return isinstance(value, torch.Tensor) and all(
        not isinstance(other, torch.Tensor) or (other.dtype == value.dtype and other.ndim <= value.ndim)
        for other in others
    )
