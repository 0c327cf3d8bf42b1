"""Which part of the input a place of a layer's map depends on: its receptive field, followed through the graph."""

from dataclasses import dataclass
from typing import Any

from cutaway.graph import Graph, Node

WINDOWS = {"conv1d", "conv2d", "conv3d", "max_pool1d", "max_pool2d", "max_pool3d", "max_pool1d_with_indices",
           "max_pool2d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d"}  # fmt: skip


@dataclass(frozen=True)
class Field:
    """The receptive field along one axis: place i reads the pixels step·i + first … step·i + last.

    A window that began before the image's edge begins at it.
    """

    step: int
    first: int
    last: int

    def at(self, place: int, side: int) -> tuple[int, int]:
        """The first pixel and the one after the last, cut off at the edges of an input of a side in pixels.

        >>> Field(2, -1, 1).at(0, 8), Field(2, -1, 1).at(1, 8)
        ((0, 2), (1, 4))
        """
        first = min(max(self.step * place + self.first, 0), side - 1)
        return first, max(min(self.step * place + self.last + 1, side), first + 1)


def receptive_field(graph: Graph, node: Node) -> tuple[Field, ...] | None:
    """The receptive field of a layer along each of its axes; None where a place depends on the whole input.

    Args:
        graph: a captured graph whose first input is an image (N, C, H, W) or a signal (N, C, L).
        node: with a map (N, C, h, w) or (N, C, l).

    Source: A. Araujo, W. Norris, J. Sim, Computing Receptive Fields of Convolutional Neural Networks, 2019.

    >>> import torch
    >>> from cutaway.graph import capture
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3), torch.nn.MaxPool2d(2))
    >>> graph = capture(net, torch.zeros(2, 1, 8, 8))
    >>> receptive_field(graph, graph["1"])[0]
    Field(step=2, first=0, last=3)
    """
    start = graph.inputs[0]
    axes = len(start.shape or ()) - 2
    known: dict[Node, tuple[Field, ...] | None] = {start: (Field(1, 0, 0),) * axes}
    for each in graph.needed([node]):
        if each not in known and each.op is not None:
            read = [known[source] for source in each.inputs if source in known]
            if read:
                known[each] = _through(each, read, axes)
    return known.get(node)


def _through(node: Node, read: list[tuple[Field, ...] | None], axes: int) -> tuple[Field, ...] | None:
    """The field of a node, from those of what it reads."""
    if None in read or axes < 1 or node.shape is None or len(node.shape) != axes + 2:
        return None
    merged = _union([each for each in read if each is not None])
    if merged is None or (_spatial(node) == _spatial_input(node) and node.op_name not in WINDOWS):
        return merged if node.op_name not in MIXING else None
    if node.op_name not in WINDOWS:
        return None
    return tuple(_window(field, *_settings(node, axis, axes)) for axis, field in enumerate(merged))


# operations that keep the size of a map but let its places see each other
MIXING = {"softmax", "matmul", "bmm", "linear", "scaled_dot_product_attention", "flip", "roll", "cumsum",
          "group_norm", "native_group_norm", "instance_norm", "layer_norm", "native_layer_norm"}  # fmt: skip


def _union(fields: list[tuple[Field, ...]]) -> tuple[Field, ...] | None:
    """The smallest field that holds several with the same steps."""
    first = fields[0]
    if any(a.step != b.step for other in fields for a, b in zip(first, other, strict=True)):
        return None
    columns = zip(*fields, strict=True)
    return tuple(Field(c[0].step, min(f.first for f in c), max(f.last for f in c)) for c in columns)


def _window(field: Field, kernel: int, stride: int, padding: int, dilation: int) -> Field:
    first = field.first - field.step * padding
    return Field(field.step * stride, first, field.last - field.step * padding + field.step * dilation * (kernel - 1))


def _settings(node: Node, axis: int, axes: int) -> tuple[int, int, int, int]:
    """Kernel, stride, padding and dilation of a convolution or pooling along an axis."""
    names = [argument.name for argument in node.op._schema.arguments]
    given: dict[str, Any] = {a.name: a.default_value for a in node.op._schema.arguments}
    given |= dict(zip(names, node.args, strict=False)) | node.kwargs
    convolution = node.op_name.startswith("conv")
    kernel = given["weight"].shape[2 + axis] if convolution else _of(given["kernel_size"], axis)
    stride = _of(given.get("stride"), axis) or kernel
    padding = given.get("padding", 0)
    dilation = _of(given.get("dilation", 1), axis)
    side = dilation * (kernel - 1) // 2 if padding == "same" else 0 if padding == "valid" else _of(padding, axis)
    return int(kernel), int(stride), int(side), int(dilation or 1)


def _of(value: Any, axis: int) -> int:
    """A setting along an axis, where one number stands for all."""
    values = list(value) if isinstance(value, list | tuple) else [value or 0]
    return int(values[axis] if len(values) > 1 else (values or [0])[0])


def _spatial(node: Node) -> tuple:
    return tuple((node.shape or ())[2:])


def _spatial_input(node: Node) -> tuple:
    axes = len(node.shape or ())
    sources = [source for source in node.inputs if source.shape is not None and len(source.shape) == axes]
    return max((_spatial(source) for source in sources if source.op is not None or source.kind == "input"), default=())
