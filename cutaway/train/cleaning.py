"""Making a traced program shorter: what is constant, written twice or without effect goes."""

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten
_VIEWS = {aten.view.default, aten._unsafe_view.default, aten.reshape.default}
_TURNS = {aten.permute.default, aten.squeeze.dim, aten.transpose.int, aten.t.default, aten.unsqueeze.default}
_SWAPS = {aten.t.default, aten.transpose.int}  # twice the same is nothing
_SAME_IF_SHAPED = _VIEWS | _TURNS | {aten.expand.default}
_FILLED = {
    aten.ones_like.default, aten.zeros_like.default, aten.new_zeros.default, aten.new_ones.default,
    aten.full_like.default,
}  # fmt: skip  # what they give depends on the shape alone
_LARGEST_CONSTANT = 1 << 20  # numbers


def clean(program: fx.GraphModule) -> fx.GraphModule:
    """Compute what is constant once, and drop views, factors and powers that change nothing.

    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> traced = make_fx(lambda x: (x * 1).view(2).view(2, 1).view(2) + torch.arange(2) * 2)(torch.zeros(2))
    >>> [node.name for node in clean(traced).graph.nodes if node.op == "call_function"]
    ['add']
    """
    for node in program.graph.nodes:
        _make_anew(node)
    _fold(program)
    changed = True
    while changed:
        simpler = sum(_simplify(node) for node in list(program.graph.nodes) if node.op == "call_function")
        changed = _share(program) or simpler > 0
        program.graph.eliminate_dead_code()
    program.graph.lint()
    program.recompile()
    return program


def _make_anew(node: fx.Node) -> None:
    """Let an operation that changes what nobody else looks at give a new tensor: without changes more can be shared."""
    source = node.args[0] if node.args else None
    if node.op != "call_function" or not _changes(node) or node.all_input_nodes != [source]:
        return
    alone = isinstance(source, fx.Node) and len(source.users) == 1 and _is_fresh(source)
    if alone and node.target is aten.bernoulli_.float:
        node.target, node.args = (
            aten.bernoulli.p,
            (source, node.args[1] if len(node.args) > 1 else 0.5),
        )  # the same draws
    if draws_numbers(node):
        return
    space, name, overload = str(node.target).split(".")
    other = getattr(getattr(aten, name.removesuffix("_"), None), overload, None)
    if alone and space == "aten" and name.endswith("_") and other is not None:
        node.target = other


def _is_fresh(node: fx.Node) -> bool:
    """Whether an operation gives memory of its own."""
    target: Any = node.target
    known = isinstance(target, torch._ops.OpOverload) and target not in _VIEWS
    return known and not any(answer.alias_info for answer in target._schema.returns)


def _fold(program: fx.GraphModule) -> None:
    """Replace what depends on constants alone by its value."""
    known: dict[fx.Node, Tensor] = {}
    changing = any(map(_changes, program.graph.nodes))  # perhaps what was filled
    for node in list(program.graph.nodes):
        if node.op == "get_attr":
            known[node] = getattr(program, str(node.target))
        elif node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            fixed = not _changes(node) and not draws_numbers(node)
            value = node.meta.get("val")
            small = isinstance(value, Tensor) and value.numel() <= _LARGEST_CONSTANT
            filled = node.target in _FILLED and not changing
            if fixed and small and (filled or all(source in known for source in node.all_input_nodes)):
                arguments = fx.map_arg((node.args, node.kwargs), lambda n: _value(n, known))
                known[node] = node.target(*arguments[0], **arguments[1])
    for place, (node, value) in enumerate(known.items()):
        if node.op == "call_function" and any(user not in known for user in node.users):
            name = f"_folded{place}"
            program.register_buffer(name, value.contiguous())
            with program.graph.inserting_before(node):
                fresh = program.graph.get_attr(name)
            fresh.meta["val"] = value
            node.replace_all_uses_with(fresh, lambda user: user not in known)
    program.graph.eliminate_dead_code()


def _value(node: fx.Node, known: Mapping[fx.Node, Tensor]) -> Tensor:
    """What a constant is; of other nodes the shape alone, for operations that look at nothing else."""
    if node in known:
        return known[node]
    like = node.meta["val"]
    return torch.empty(like.shape, dtype=like.dtype, device=like.device)


def _share(program: fx.GraphModule) -> bool:
    """Compute once what is written twice."""
    if any(node.op == "call_function" and _changes(node) for node in program.graph.nodes):
        return False  # the same words may then mean another value
    seen: dict[Any, fx.Node] = {}
    found = False
    for node in list(program.graph.nodes):
        if node.op in ("call_function", "get_attr") and not draws_numbers(node):
            key = (node.op, node.target, _frozen(node.args), _frozen(node.kwargs))
            if key in seen:
                node.replace_all_uses_with(seen[key])
                program.graph.erase_node(node)
                found = True
            seen.setdefault(key, node)
    return found


def _frozen(tree: Any) -> Any:
    """Lists and dicts as tuples, which can be keys; True and 1 stay apart."""
    if isinstance(tree, list | tuple):
        return tuple(map(_frozen, tree))
    if isinstance(tree, Mapping):
        return tuple((name, _frozen(value)) for name, value in tree.items())
    return type(tree), tree


def _changes(node: fx.Node) -> bool:
    """Whether an operation writes to its arguments."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def draws_numbers(node: fx.Node) -> bool:
    """Whether an operation draws random numbers."""
    known = isinstance(node.target, torch._ops.OpOverload)
    return known and torch.Tag.nondeterministic_seeded in node.target.tags  # pyright: ignore[reportAttributeAccessIssue]


def _simplify(node: fx.Node) -> bool:
    """Let the users of a node that changes nothing look at its argument."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or not node.users:
        return False
    ours, theirs = node.meta.get("val"), source.meta.get("val")
    if not isinstance(ours, Tensor) or not isinstance(theirs, Tensor):
        return False
    same = ours.shape == theirs.shape and ours.stride() == theirs.stride() and ours.dtype == theirs.dtype
    factor = node.target in (aten.mul.Scalar, aten.mul.Tensor, aten.div.Scalar) and node.args[1] == 1
    power = node.target is aten.pow.Tensor_Scalar and node.args[1] == 1
    if same and (node.target in _SAME_IF_SHAPED or factor or power):
        node.replace_all_uses_with(source)
        return True
    origin = source.args[0] if source.args else None
    turned = node.target in _SWAPS and source.target is node.target and source.args[1:] == node.args[1:]
    if turned and isinstance(origin, fx.Node):
        node.replace_all_uses_with(origin)
        return True
    if node.target in _TURNS and ours.is_contiguous() and theirs.is_contiguous():
        node.target, node.args = aten.view.default, (source, list(ours.shape))  # only dimensions of one number move
        return True
    if node.target in _VIEWS and source.op == "call_function" and source.target in _VIEWS:
        both = (node.target, source.target)
        node.target = aten.reshape.default if aten.reshape.default in both else aten.view.default
        node.args = (source.args[0], list(ours.shape))
        return True
    if node.target is aten.bmm.default and theirs.shape[2] == 1:
        node.target = aten.mul.Tensor  # an outer product: nothing is summed
        return True
    if node.target is aten.scatter_add.default and _is_single(node):
        return _compare(node)
    alone = theirs.numel() == ours.numel() and theirs.dtype == ours.dtype
    if node.target in (aten.sum.dim_IntList, aten.mean.dim) and alone:
        node.target, node.args = aten.reshape.default, (source, list(ours.shape))
        return True
    return False


def _is_single(node: fx.Node) -> bool:
    """Whether a constant row of zeros gets one number of its own, at one place."""
    whole, dim, index, numbers = node.args
    nodes = [value for value in (whole, index, numbers) if isinstance(value, fx.Node)]
    if len(nodes) < 3 or not isinstance(dim, int) or nodes[0].op != "get_attr":
        return False
    zeros = operator.attrgetter(str(nodes[0].target))(node.graph.owning_module)
    shapes = [list(each.meta["val"].shape) for each in nodes]
    row = [*shapes[0][:dim], 1, *shapes[0][dim + 1 :]]
    return dim >= 0 and shapes[1] == shapes[2] == row and not zeros.any()


def _compare(node: fx.Node) -> bool:
    """Write `zeros.scatter_add(dim, index, numbers)` as `where(arange == index, numbers, 0)`, which is quicker."""
    whole, dim, index, numbers = node.args
    value = node.meta["val"]
    module: Any = node.graph.owning_module
    name = f"_arange_{node.name}"
    count = torch.arange(value.shape[dim], device=value.device).view(-1, *[1] * (value.dim() - dim - 1))
    module.register_buffer(name, count)
    with node.graph.inserting_before(node):
        there = node.graph.call_function(aten.eq.Tensor, (node.graph.get_attr(name), index))
        there.meta["val"] = value.to(torch.bool)
    node.target, node.args = aten.where.self, (there, numbers, whole)
    return True
