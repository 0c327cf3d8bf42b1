"""Which nodes of a graph hold spatial maps (N, C, H, W)."""

from cutaway import graph as G
from cutaway.errors import ArgumentError

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
}


def spatial_nodes(graph: G.Graph) -> list[G.Node]:
    """List the nodes with a map (N, C, L), (N, C, H, W) or (N, C, D, H, W) on the way from the input to the output.

    They stand in topological order; each spatial size is larger than 1.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(72, 3))
    >>> [node.op_name for node in spatial_nodes(G.capture(net, torch.zeros(2, 1, 8, 8)))]
    ['conv2d', 'relu']
    """
    rank = len(graph.inputs[0].shape or ())
    maps = {graph.inputs[0]} if rank > 2 else set()
    for node in graph.nodes:
        if node.op is None or node.shape is None or not node.differentiable:
            continue
        lasting = node.op_name not in RESHAPING and any(
            source in maps and len(source.shape or ()) == len(node.shape) for source in node.inputs
        )
        if lasting or node.op_name in CONVOLUTIONS:
            maps.add(node)
    used = _used(graph)
    return [node for node in graph.nodes if node in maps and node.op is not None and node in used and _is_map(node)]


def deepest_map(graph: G.Graph) -> G.Node:
    """The last node that holds a spatial map.

    Raises:
        ArgumentError: there is none.
    """
    nodes = spatial_nodes(graph)
    if not nodes:
        raise ArgumentError(
            "the model has no node with a spatial map (N, C, H, W) with H, W > 1; name a layer by `layer=`, or use "
            "gradient, which needs no map"
        )
    return nodes[-1]


def map_node(graph: G.Graph, layer: "str | G.Node | None") -> G.Node:
    """The node a user means by `layer`; the deepest map for None.

    Raises:
        ArgumentError: the node holds no map.
        LookupFailure: no node or module has this name.
    """
    if layer is None:
        return deepest_map(graph)
    node = graph[layer]
    if node.shape is None or len(node.shape) < 3 or not node.differentiable:
        maps = ", ".join(repr(each.name) for each in spatial_nodes(graph)[-5:])
        raise ArgumentError(
            f"layer {layer!r} holds shape {node.shape}, no map (N, C, H, W); the deepest maps are {maps or 'none'}"
        )
    return node


def _is_map(node: G.Node) -> bool:
    sizes = (node.shape or ())[2:]
    return bool(sizes) and all(isinstance(size, int) and size > 1 for size in sizes)


def _used(graph: G.Graph) -> set[G.Node]:
    """The nodes the first output depends on."""
    used, waiting = set(), graph.outputs[:1]
    while waiting:
        node = waiting.pop()
        if node not in used:
            used.add(node)
            waiting += node.inputs
    return used
