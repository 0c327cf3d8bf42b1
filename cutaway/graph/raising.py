"""Raise what a recorded run is made of to the operations a model is written in, so that it reads as a captured one.

Recording sees `t` and `addmm` where the model says linear, `convolution` where it says conv2d, and kernels with
by-products (`native_layer_norm`, `max_pool2d_with_indices`) where only their first output is used.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph, Node

aten = torch.ops.aten


def _linear(args: tuple, kwargs: dict) -> tuple | None:
    bias, x, weight = args if len(args) == 3 else (None, *args)
    turned = isinstance(weight, Node) and weight.target is aten.t.default
    vector = bias is None or bias.meta["val"].ndim == 1
    return (aten.linear.default, (x, weight.args[0], bias), {}) if turned and vector and not kwargs else None


def _convolution(args: tuple, kwargs: dict) -> tuple:
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = args
    spatial = len(stride)
    if transposed:
        packet = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)[spatial - 1]
        return packet, (x, weight, bias, stride, padding, output_padding, groups, dilation), {}
    packet = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)[spatial - 1]
    return packet, (x, weight, bias, stride, padding, dilation, groups), {}


def _batch_norm(args: tuple, kwargs: dict) -> tuple | None:
    return None if args[5] else (aten.batch_norm.default, (*args[:5], False, *args[6:8], True), {})


def _group_norm(args: tuple, kwargs: dict) -> tuple:
    x, weight, bias, _, _, _, groups, eps = args
    return aten.group_norm.default, (x, groups, weight, bias, eps), {}


def _attention(args: tuple, kwargs: dict) -> tuple:
    mask, dropout, causal = kwargs.get("attn_mask"), *(*args[3:], 0.0, False)[:2]
    return aten.scaled_dot_product_attention.default, (*args[:3], mask, dropout, causal), {"scale": kwargs.get("scale")}


# operation → the readable one it stands for: (operation, args, kwargs), or None where it does not
RAISED: dict[Any, Callable[[tuple, dict], tuple | None]] = {
    aten.addmm.default: _linear,
    aten.mm.default: _linear,
    aten.convolution.default: _convolution,
    aten._softmax.default: lambda args, kwargs: None if args[2] else (aten.softmax.int, args[:2], {}),
    aten._log_softmax.default: lambda args, kwargs: None if args[2] else (aten.log_softmax.int, args[:2], {}),
    aten._adaptive_avg_pool2d.default: lambda args, kwargs: (aten.adaptive_avg_pool2d.default, args, kwargs),
    aten._adaptive_avg_pool3d.default: lambda args, kwargs: (aten.adaptive_avg_pool3d.default, args, kwargs),
}
# the same for operations of whose outputs only the first is used
FIRST: dict[Any, Callable[[tuple, dict], tuple | None]] = {
    aten.native_batch_norm.default: _batch_norm,
    aten._native_batch_norm_legit_no_training.default: lambda args, kwargs: (
        aten.batch_norm.default,
        (*args[:5], False, *args[5:], True),
        {},
    ),
    aten.native_layer_norm.default: lambda args, kwargs: (aten.layer_norm.default, args, kwargs),
    aten.native_group_norm.default: _group_norm,
    aten.max_pool2d_with_indices.default: lambda args, kwargs: (aten.max_pool2d.default, args, kwargs),
    aten._scaled_dot_product_flash_attention_for_cpu.default: _attention,
}


def raise_operations(graph: Graph) -> None:
    """Rewrite a recorded graph in place; what nobody reads goes, before and after."""
    graph.eliminate_dead_code()
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in RAISED:
            _rewrite(node, RAISED[node.target](node.args, node.kwargs))
        elif node.target in FIRST and all(user.target is operator.getitem and user.args[1] == 0 for user in node.users):
            raised = FIRST[node.target](node.args, node.kwargs)
            if raised is not None:
                _rewrite(node, raised)
                node.meta["val"] = node.meta["val"][0]
                for user in list(node.users):
                    user.replace_all_uses_with(node)
                    graph.erase_node(user)
    graph.eliminate_dead_code()


def _rewrite(node: Node, raised: tuple | None) -> None:
    if raised is not None:
        node.target, node.args, node.kwargs = raised
