"""Where a node keeps the places of the image: behind the channels, before them, or as a sequence of tokens."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from cutaway import graph as G
from cutaway.graph.nodes import bound_arguments

# Operations whose output is a map (N, C, …) by contract, whatever their input came from.
CONVOLUTIONS = {"conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
# Operations that move or merge dimensions: what they return need not be a map, though its shape looks like one.
RESHAPING = {
    "view",
    "reshape",
    "flatten",
    "unflatten",
    "permute",
    "transpose",
    "t",
    "movedim",
    "mT",
    "unsqueeze",
    "squeeze",
    "expand",
    "matmul",
    "bmm",
    "einsum",
    "roll",
    "unfold",
    "im2col",
    "pixel_shuffle",
    "scaled_dot_product_attention",
    "slice",
    "select",
    "cat",
    "getitem",
    "split",
    "chunk",
}
NORMS = {"layer_norm", "rms_norm"}  # over the last dimension, which therefore holds the channels


@dataclass(frozen=True)
class Layout:
    """How a value becomes a map (N, C, …).

    Attributes:
        kind: "channels" for (N, C, h, w), "last" for (N, h, w, C), "tokens" for (N, k + h·w, C), "columns" for
            (N, C, k + h·w).
        size: the sizes of the map, (h, w) for images.
        extra: how many tokens stand before those of the places (class and register tokens).
    """

    kind: str
    size: tuple[int, ...]
    extra: int = 0

    @property
    def places(self) -> int:
        """The number of places."""
        return math.prod(self.size)

    def as_map(self, value: Float[Tensor, "n ..."]) -> Float[Tensor, "n c ..."]:
        """The value as a map, without class tokens.

        >>> import torch
        >>> Layout("tokens", (2, 3), extra=1).as_map(torch.zeros(4, 7, 5)).shape
        torch.Size([4, 5, 2, 3])
        """
        if self.kind == "last":
            return value.movedim(-1, 1)
        if self.kind == "tokens":
            value = value.movedim(-1, 1)
        if self.kind in ("tokens", "columns"):
            return value[:, :, self.extra : self.extra + self.places].unflatten(2, self.size)
        return value


Known = Mapping[G.Node, Layout]


def layouts(graph: G.Graph) -> dict[G.Node, Layout]:
    """The layout of every node whose value keeps the places of the input, in topological order.

    Convolutions make maps; operations on single numbers, norms, pooling and residual sums keep them; patches become a
    sequence of tokens where a map is flattened, and class tokens stand before them where they are concatenated.

    >>> import torch
    >>> def patches(x):
    ...     return torch.cat([torch.zeros_like(x[:, 0, :1, :1]), x.flatten(2).mT], 1) * 2
    >>> found = layouts(G.capture(patches, torch.zeros(2, 1, 3, 4)))
    >>> list(found.values())[-1]
    Layout(kind='tokens', size=(3, 4), extra=1)
    """
    if "layouts" in graph.programs:
        return graph.programs["layouts"]
    known: dict[G.Node, Layout] = {}
    sizes = tuple(graph.inputs[0].shape or ())[2:]
    if sizes and all(isinstance(size, int) for size in sizes):
        known[graph.inputs[0]] = Layout("channels", sizes)  # type: ignore[arg-type]
    for node in graph.nodes:
        shape = node.shape
        if node.op is None or shape is None or len(shape) < 3 or not node.differentiable:
            continue
        if not all(isinstance(size, int) for size in shape[1:]):
            continue
        found = next((layout for rule in ORDER if (layout := rule(node, known)) is not None), None)
        if found is not None:
            known[node] = found
    graph.programs["layouts"] = known
    return known


def _convolved(node: G.Node, known: Known) -> Layout | None:
    return Layout("channels", node.shape[2:]) if node.op_name in CONVOLUTIONS else None  # type: ignore[index]


def _kept(node: G.Node, known: Known) -> Layout | None:
    """Operations that leave dimensions where they are."""
    if node.op_name in RESHAPING:
        return None
    shape = node.shape or ()
    for source in node.inputs:
        layout = known.get(source)
        if layout is None or len(source.shape or ()) != len(shape):
            continue
        if layout.kind == "channels":
            return Layout("channels", tuple(shape[2:]))  # type: ignore[arg-type]
        if layout.kind == "columns" and shape == source.shape:
            return layout
        if layout.kind != "columns" and shape[1:-1] == (source.shape or ())[1:-1]:
            return layout
    return None


def _normed(node: G.Node, known: Known) -> Layout | None:
    """A norm over the last of four dimensions; its sides are those of a map seen before, or half of them."""
    shape = node.shape or ()
    if node.op_name not in NORMS or len(shape) != 4 or len(bound_arguments(node)["normalized_shape"]) != 1:
        return None
    sizes = {layout.size for layout in known.values()}
    halves = {tuple(-(-side // 2) for side in size) for size in sizes}
    return Layout("last", tuple(shape[1:3])) if tuple(shape[1:3]) in sizes | halves else None  # type: ignore[arg-type]


def _flattened(node: G.Node, known: Known) -> Layout | None:
    """Dimensions moved or merged: a map becomes tokens, tokens change place with channels, and back."""
    layout = known.get(node.inputs[0]) if node.inputs else None
    if layout is None or node.op_name not in ("view", "reshape", "flatten", "permute", "transpose", "mT", "movedim"):
        return None
    source, shape = tuple(node.inputs[0].shape or ()), tuple(node.shape or ())
    merging = node.op_name in ("view", "reshape", "flatten")
    flips = {("columns", False): "tokens", ("tokens", False): "columns", ("channels", False): "last"}
    flips |= {("last", False): "channels", ("channels", True): "columns", ("last", True): "tokens"}
    kind = flips.get((layout.kind, merging))
    if kind is None:
        grid = {"tokens": (*layout.size, source[-1]), "columns": (source[1], *layout.size)}.get(layout.kind)
        back = {"tokens": "last", "columns": "channels"}.get(layout.kind, "")
        return replace(layout, kind=back) if merging and not layout.extra and shape[1:] == grid else None
    channels = source[1] if layout.kind in ("channels", "columns") else source[-1]
    count = layout.extra + layout.places
    wanted = {
        "tokens": (count, channels),
        "columns": (channels, count),
        "last": (*layout.size, channels),
        "channels": (channels, *layout.size),
    }[kind]
    return replace(layout, kind=kind) if shape[1:] == wanted else None


def _joined(node: G.Node, known: Known) -> Layout | None:
    """Concatenation: of channels, or of class tokens before the tokens of the places."""
    if node.op_name != "cat":
        return None
    given = bound_arguments(node)
    sources, axis = given["tensors"], given["dim"] % len(node.shape or ())
    layout = next((known[source] for source in sources if source in known), None)
    if layout is None:
        return None
    if layout.kind == "channels":
        return Layout("channels", tuple(node.shape or ())[2:])  # type: ignore[arg-type]
    if layout.kind == "tokens" and axis == 1:
        place = next(index for index, source in enumerate(sources) if source in known)
        before = sum(source.shape[1] for source in sources[:place])
        return replace(layout, extra=layout.extra + before)
    channel_axis = 1 if layout.kind == "columns" else len(node.shape or ()) - 1
    return layout if axis == channel_axis else None  # the places stay, the channels grow in number


def _sliced(node: G.Node, known: Known) -> Layout | None:
    """Every second place of a map, or the tokens without those of the class."""
    layout = known.get(node.inputs[0]) if node.op_name == "slice" and node.inputs else None
    if layout is None:
        return None
    shape, source = tuple(node.shape or ()), tuple(node.inputs[0].shape or ())
    if layout.kind == "channels":
        return replace(layout, size=shape[2:])
    if layout.kind == "last":
        return replace(layout, size=shape[1:-1])
    given = bound_arguments(node)
    if layout.kind != "tokens" or given["dim"] % len(shape) != 1 or shape[2] != source[2]:
        return layout if shape == source else None
    start = given["start"] or 0
    left = layout.extra + layout.places - start
    return replace(layout, extra=layout.extra - start) if start <= layout.extra and shape[1] == left else None


ORDER: Sequence[Callable[[G.Node, Known], Layout | None]] = (
    _convolved,
    _kept,
    _joined,
    _flattened,
    _sliced,
    _normed,
)
