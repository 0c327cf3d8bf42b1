"""Passes: from a graph to a graph that computes the same, faster.

Each pass takes a graph and returns a new one; nodes that a pass does not touch keep their names. Nodes that were merged
into others are gone: ask for the name of the last one of them.
"""

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch.utils import _pytree as pytree

from cutaway.errors import ArgumentError, nearest
from cutaway.graph import fused
from cutaway.graph.backward import ancestors
from cutaway.graph.nodes import Node, bound_arguments, map_nodes, moves
from cutaway.graph.rewrite import Rewrite, rewrite
from cutaway.graph.rows import TABLE, Row
from cutaway.graph.unread import skip_unread

if TYPE_CHECKING:
    from cutaway.graph.graph import Graph

aten = torch.ops.aten


def cut(graph: "Graph", at: str | Node) -> "Graph":
    """The graph up to a node, which becomes its only output.

    Args:
        graph: any graph.
        at: the node, by name or itself.

    >>> import torch, cutaway as ct
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> cut(ct.capture(model, torch.randn(4, 3)), "1")(torch.randn(4, 3)).shape
    torch.Size([4, 2])
    """
    node = graph[at]
    shallow = copy.copy(graph)
    shallow.output_values, shallow.updates = [node], {}
    shallow.out_spec = pytree.tree_flatten(0)[1]
    return rewrite(shallow, lambda work, old: None)


def start(graph: "Graph", at: str | Node) -> "Graph":
    """The graph from a node on, whose value becomes its only input.

    Args:
        graph: any graph.
        at: the node, by name or itself.

    Raises:
        ArgumentError: the outputs depend on an input by a way around the node.

    >>> import torch, cutaway as ct
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> start(ct.capture(model, torch.randn(4, 3)), "1")(torch.randn(4, 2)).shape
    torch.Size([4, 1])
    """
    node = graph[at]

    def visit(work: Rewrite, old: Node) -> Node | None:
        if old is not node:
            return None
        made = copy.copy(old)
        made.kind, made.op, made.args, made.kwargs, made.merged = "input", None, (), {}, ()
        return work.add(old, made)

    rest = copy.copy(graph)
    rest.updates = {}
    rest = rewrite(rest, visit)
    begin = rest[node.name]
    around = [each.name for each in ancestors(rest.outputs) if each.kind == "input" and each is not begin]
    if around:
        raise ArgumentError(
            f"the outputs depend on {', '.join(around)} by ways around {node.name!r}: the graph cannot start there; "
            "name a node that all ways pass"
        )
    rest.nodes = [each for each in rest.nodes if each.kind != "input" or each is begin]
    rest.by_name = {name: each for name, each in rest.by_name.items() if each.kind != "input" or each is begin}
    rest.input_slots, rest.in_spec = [begin], pytree.tree_flatten(((0,), {}))[1]
    return rest


def remove_dead_code(graph: "Graph") -> "Graph":
    """Without the operations that no output and no update depends on."""
    return rewrite(graph, lambda work, node: None)


def fold_batch_norm(graph: "Graph") -> "Graph":
    """Batch norms with fixed statistics become part of the convolution before them.

    In float32 the gradient may differ by rounding that flips the sign of a value at a ReLU; in float64 it agrees.
    """
    folded = {node: source for node in graph.nodes if (source := _convolution_before(node, graph)) is not None}

    def visit(work: Rewrite, node: Node) -> Node | None:
        if node not in folded:
            return None
        conv = folded[node]
        norm, settings = bound_arguments(node), bound_arguments(conv)
        new = {key: work.new[value] if isinstance(value, Node) else value for key, value in (norm | settings).items()}
        gamma, beta = (work.new[norm[key]] if norm[key] is not None else None for key in ("weight", "bias"))
        weight = work.helper(
            node,
            "weight",
            fused.folded_weight,
            (new["weight"], gamma, new["running_var"], norm["eps"]),
            settings["weight"].shape,
        )
        bias = work.helper(
            node,
            "bias",
            fused.folded_bias,
            (
                new["bias"] if settings["bias"] is not None else None,
                gamma,
                beta,
                new["running_mean"],
                new["running_var"],
                norm["eps"],
            ),
            settings["weight"].shape[:1],
        )
        return work.place(node, conv.op, (work.new[conv.args[0]], weight, bias, *conv.args[3:]))

    return rewrite(graph, visit)


def fold_scales(graph: "Graph") -> "Graph":
    """Factors of the channels that depend on parameters alone (layer scale) become part of the convolution before."""
    fixed = _fixed(graph)
    folded = {node: pair for node in graph.nodes if (pair := _scaled_convolution(node, graph, fixed)) is not None}

    def visit(work: Rewrite, node: Node) -> Node | None:
        if node not in folded:
            return None
        conv, scale = folded[node]
        given, factor = bound_arguments(conv), work.new[scale]
        weight, bias = (work.new[given[key]] if given[key] is not None else None for key in ("weight", "bias"))
        weight = work.helper(node, "weight", fused.scaled, (weight, factor), given["weight"].shape)
        if bias is not None:
            bias = work.helper(node, "bias", fused.scaled, (bias, factor), given["bias"].shape)
        return work.place(node, conv.op, (work.new[conv.args[0]], weight, bias, *conv.args[3:]))

    return rewrite(graph, visit)


def _scaled_convolution(node: Node, graph: "Graph", fixed: set[Node]) -> tuple[Node, Node] | None:
    """The convolution that a product scales channel by channel, and the factors."""
    if node.op is not aten.mul.Tensor or not all(isinstance(value, Node) for value in node.args):
        return None
    conv, scale = node.args if node.args[1] in fixed else reversed(node.args)
    if scale not in fixed or conv.op not in _CONVOLUTIONS or _only_user(conv, graph) is not node or not conv.shape:
        return None
    channels = (conv.shape[1], *[1] * (len(conv.shape) - 2))  # (C, 1, 1)
    return (conv, scale) if scale.shape in (channels, (1, *channels)) else None


_CONVOLUTIONS = {aten.conv1d.default, aten.conv2d.default, aten.conv3d.default}


def _convolution_before(node: Node, graph: "Graph") -> Node | None:
    if node.op is not aten.batch_norm.default or bound_arguments(node)["training"]:
        return None
    source = node.args[0]
    alone = source.users == [node] and source not in graph.outputs
    return source if source.op in _CONVOLUTIONS and alone else None


def channels_last(graph: "Graph") -> "Graph":
    """Images enter with the channels last in memory, which convolutions on the CPU and tensor cores prefer."""

    def visit(work: Rewrite, node: Node) -> Node | None:
        if node.kind != "input" or node.shape is None or len(node.shape) != 4:
            return None
        leaf = work.leaves[node] = work.copy(node)
        work.new[node] = work.helper(node, "channels_last", to_channels_last, (leaf,), node.shape)
        return leaf

    return rewrite(graph, visit)


def to_channels_last(x: torch.Tensor) -> torch.Tensor:
    """The same tensor with the channels last in memory."""
    return x.contiguous(memory_format=torch.channels_last)


TABLE["cutaway.to_channels_last"] = Row({"x": lambda grad: grad})


Tail = tuple[Node, Node | None, bool]  # a convolution, what is added to it, and whether a ReLU ends it


def fuse_convolutions(graph: "Graph") -> "Graph":
    """Each 2-D convolution takes in the sum and the ReLU behind it, and its weight in the layout of its kernels."""
    plan: dict[Node, Tail] = {}  # by its last node
    for node in _images(graph):
        last, other, relu = _tail(node, graph)
        if last in plan:  # both summands are convolutions: the first one has taken the sum
            last, other, relu = node, None, False
        plan[last] = (node, other, relu)
    return _packed(graph, plan)


def pack_convolutions(graph: "Graph") -> "Graph":
    """Each 2-D convolution takes its weight in the layout of its kernels; nothing is merged into it."""
    return _packed(graph, {node: (node, None, False) for node in _images(graph)})


def _images(graph: "Graph") -> list[Node]:
    """The convolutions of batches of images whose weight no input changes (an image alone is left as it is)."""
    found = [node for node in graph.nodes if node.op is aten.conv2d.default and node.shape and len(node.shape) == 4]
    return [node for node in found if not moves(bound_arguments(node)["weight"])]


def _packed(graph: "Graph", plan: dict[Node, Tail]) -> "Graph":
    def visit(work: Rewrite, node: Node) -> Node | None:
        if node not in plan:
            return None
        conv, other, relu = plan[node]
        given = bound_arguments(conv)
        size = tuple(2 if isinstance(n, str) else n for n in given["input"].shape)
        settings = [given[key] for key in ("stride", "padding", "dilation")]
        settings = [[value[0], value[-1]] for value in settings]
        weight = work.new[given["weight"]]
        packed = work.helper(conv, "packed", fused.pack, (weight, *settings, given["groups"], size))
        packed.dtype = None
        bias = work.new[given["bias"]] if given["bias"] is not None else None
        summand = work.new[other] if other is not None else None
        args = (work.new[given["input"]], packed, bias, summand, *settings, given["groups"], relu)
        made = work.place(node, fused.convolution, args)
        made.merged = tuple(dict.fromkeys((conv, *([node.args[0]] if relu else []), node)))
        return made

    return rewrite(graph, visit)


def _tail(conv: Node, graph: "Graph") -> tuple[Node, Node | None, bool]:
    """How far a convolution may reach: through a sum with something computed before it, and a ReLU."""
    node, other = conv, None
    following = _only_user(node, graph)
    if following is not None and following.op is aten.add.Tensor and not following.kwargs and len(following.args) == 2:
        first, second = following.args
        summand = second if first is node else first
        if isinstance(summand, Node) and summand.index < conv.index and summand.shape == conv.shape == following.shape:
            node, other = following, summand
            following = _only_user(node, graph)
    if following is not None and following.op is aten.relu.default:
        return following, other, True
    return node, other, False


def _only_user(node: Node, graph: "Graph") -> Node | None:
    return node.users[0] if len(node.users) == 1 and node not in graph.outputs else None


def fold_constants(graph: "Graph") -> "Graph":
    """What depends on parameters, buffers and constants alone is computed once, and again when one of them changes.

    Changes are seen by PyTorch's version counters, so that optimisers' steps, `load_state_dict` and in-place operations
    are noticed; writing through `.data` is not.
    """
    fixed = _fixed(graph)

    def visit(work: Rewrite, node: Node) -> Node | None:
        if node not in fixed or node.op is None:
            return None
        made = copy.copy(node)
        made.kind, made.op, made.value = "prepared", None, node.op
        made.args, made.kwargs = map_nodes(work.new.__getitem__, node.args), dict(node.kwargs)
        return work.add(node, made)

    return rewrite(graph, visit)


def _fixed(graph: "Graph") -> set[Node]:
    """The nodes that depend on parameters, buffers and constants alone."""
    fixed: set[Node] = set()
    for node in graph.nodes:
        if node.kind in ("parameter", "buffer", "constant") or (
            node.op is not None
            and node.inputs
            and all(source in fixed for source in node.inputs)
            and node.parts is None
        ):
            fixed.add(node)
    return fixed


PASSES: dict[str, Callable[["Graph"], "Graph"]] = {
    "remove_dead_code": remove_dead_code,
    "skip_unread": skip_unread,
    "fold_batch_norm": fold_batch_norm,
    "fold_scales": fold_scales,
    "fuse_convolutions": fuse_convolutions,
    "pack_convolutions": pack_convolutions,
    "channels_last": channels_last,
    "fold_constants": fold_constants,
}
USUAL = tuple(name for name in PASSES if name != "pack_convolutions")
UNFUSED = tuple(name for name in PASSES if name != "fuse_convolutions")  # for rule sets that replace a ReLU's rule


def optimized(graph: "Graph", passes: Sequence[str] = USUAL, keep: Sequence[str] = ()) -> "Graph":
    """The graph after the named passes, in order.

    Args:
        graph: in evaluation mode.
        passes: names from `PASSES`.
        keep: names of nodes whose values are wanted; a pass that would merge or cut one of them is left out.
    """
    for name in passes:
        if name not in PASSES:
            raise nearest(name, PASSES, "pass")
        made = PASSES[name](graph)
        if all(each in made.by_name and made[each].shape == graph[each].shape for each in keep):
            graph = made
    return graph
