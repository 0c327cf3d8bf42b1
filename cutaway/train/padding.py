"""Padding that only copies of windows read: the copies read a border of one number instead."""

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

aten = torch.ops.aten
_PAD, _VIEWS = aten.constant_pad_nd.default, {aten.view.default, aten.reshape.default}


def join_padding(program: fx.GraphModule) -> None:
    """Let windows and their adjoints name places of the image before it was padded; one place more is the border.

    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> index = torch.tensor([0, 5, 6])
    >>> traced = make_fx(lambda x: F.pad(x, (1, 1, 1, 1), value=-1.0).view(1, 16).index_select(1, index))
    >>> program = traced(torch.arange(4.0).view(1, 2, 2))
    >>> join_padding(program); _ = program.recompile()
    >>> any(node.target is _PAD for node in program.graph.nodes), program(torch.arange(4.0).view(1, 2, 2)).tolist()
    (False, [[-1.0, 0.0, 1.0]])
    """
    for node in list(program.graph.nodes):
        if node.target is _PAD and min(node.args[1]) >= 0:
            _join_reading(node)
        elif node.target is _PAD and max(node.args[1]) <= 0:
            _join_adjoint(node)
    program.graph.eliminate_dead_code()


def _join_reading(pad: fx.Node) -> None:
    views = list(pad.users)
    reads = [read for view in views for read in view.users]
    flat = {tuple(view.meta["val"].shape) for view in views}
    if not reads or len(flat) > 1 or any(view.target not in _VIEWS for view in views):
        return
    rows = next(iter(flat))
    if len(rows) != 2 or not all(map(_reads_columns, reads)):
        return
    found = _places(pad.meta["val"], pad.args[0].meta["val"], rows[0], list(pad.args[1]))  # pyright: ignore
    if found is None:
        return
    places, count = found
    x: Any = pad.args[0]
    value: Any = pad.args[2] if len(pad.args) > 2 else 0.0
    like = {"dtype": x.meta["val"].dtype, "device": x.meta["val"].device}
    with pad.graph.inserting_before(views[0]):
        image = _call(pad, aten.reshape.default, torch.empty(rows[0], count, **like), x, [rows[0], count])
        border = _constant(pad, "border", torch.full((rows[0], 1), value, **like))
        joined = _call(pad, aten.cat.default, torch.empty(rows[0], count + 1, **like), [image, border], 1)
    for number, read in enumerate(reads):
        with read.graph.inserting_before(read):
            read.args = (joined, 1, _constant(read, f"inside{number}", places[_tensor(read.args[2])]))


def _join_adjoint(crop: fx.Node) -> None:
    view: Any = crop.args[0]
    added: Any = view.args[0] if view.target in _VIEWS else view
    alone = len(view.users) == 1 and len(added.users) == 1 and added.target is aten.index_add.default
    if not alone or added.args[1] != 1 or added.args[2].op != "get_attr" or added.args[0].op != "get_attr":
        return
    zeros = _tensor(added.args[0])
    pads = [-number for number in crop.args[1]]  # pyright: ignore
    found = _places(view.meta["val"], crop.meta["val"], len(zeros), pads) if zeros.dim() == 2 else None
    if found is None or zeros.any():
        return
    places, count = found
    shape = list(crop.meta["val"].shape)
    with crop.graph.inserting_before(added):
        fresh = _constant(crop, "zeros", zeros.new_zeros(len(zeros), count + 1))
        index = _constant(crop, "inside", places[_tensor(added.args[2])])
        whole = _call(crop, aten.index_add.default, fresh.meta["val"], fresh, 1, index, added.args[3])
        inner = _call(crop, aten.slice.Tensor, fresh.meta["val"][:, :count], whole, 1, 0, count)
    crop.target, crop.args = aten.reshape.default, (inner, shape)


def _places(whole: Tensor, inner: Tensor, rows: int, pads: list[int]) -> tuple[Tensor, int] | None:
    """For every place of a padded row its place before, and how many there were; None where rows are padded too."""
    width, count = whole.numel() // rows, inner.numel() // rows
    lead, size = 0, 1
    while size < rows:  # the dimensions that make the rows
        size, lead = size * whole.shape[lead], lead + 1
    if size != rows or len(pads) // 2 > whole.dim() - lead or count * rows != inner.numel():
        return None
    places = F.pad(torch.arange(count, device=inner.device).view(inner.shape[lead:]), pads, value=count).flatten()
    return (places, count) if len(places) == width else None


def _reads_columns(node: fx.Node) -> bool:
    index = node.args[2] if node.target is aten.index_select.default and node.args[1] == 1 else None
    return isinstance(index, fx.Node) and index.op == "get_attr"


def _tensor(node: Any) -> Tensor:
    return operator.attrgetter(str(node.target))(node.graph.owning_module)


def _constant(node: fx.Node, word: str, value: Tensor) -> fx.Node:
    name = f"_{word}_{node.name}"
    module: Any = node.graph.owning_module
    module.register_buffer(name, value)
    made = node.graph.get_attr(name)
    made.meta["val"] = value
    return made


def _call(near: fx.Node, target: Callable[..., Any], value: Tensor, *args: Any) -> fx.Node:
    made = near.graph.call_function(target, args)
    made.meta["val"] = value
    return made
