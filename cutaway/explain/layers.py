"""Which nodes of a graph hold maps: (N, C, H, W), or tokens that stand for the places of an image."""

from cutaway import graph as G
from cutaway.errors import ArgumentError
from cutaway.explain.layouts import Layout, layouts

RESIDUAL = {"add", "layer_norm", "rms_norm", "cat"}  # where tokens stand in the stream between the blocks


def spatial_nodes(graph: G.Graph) -> list[G.Node]:
    """List the nodes with a map (N, C, L), (N, C, H, W) or (N, C, D, H, W) on the way from the input to the output.

    They stand in topological order; each spatial size is larger than 1. Maps kept as (N, H, W, C) and tokens kept as
    (N, T, C) count too, where their places are those of a map they were made of.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(72, 3))
    >>> [node.op_name for node in spatial_nodes(G.capture(net, torch.zeros(2, 1, 8, 8)))]
    ['conv2d', 'relu']
    """
    used, known = upstream(graph.outputs[:1]), layouts(graph)
    return [
        node
        for node, layout in known.items()
        if node.op is not None
        and node in used
        and all(side > 1 for side in layout.size)
        and (layout.kind == "channels" or (node.op_name in RESIDUAL and layout.kind != "columns"))
    ]


def deepest_map(graph: G.Graph) -> G.Node:
    """The last node that holds a map; before the last attention, where only a class token is read after it.

    Raises:
        ArgumentError: there is none.
    """
    nodes, known = spatial_nodes(graph), layouts(graph)
    if not nodes:
        raise ArgumentError(
            "the model has no node with a spatial map (N, C, H, W) with H, W > 1; name a layer by `layer=`, or use "
            "gradient, which needs no map"
        )
    last = attention_nodes(graph)[-1:]
    if last and known[nodes[-1]].extra:
        before = upstream(last)
        return next((node for node in reversed(nodes) if node in before), nodes[-1])
    return nodes[-1]


def map_node(graph: G.Graph, layer: "str | G.Node | None") -> tuple[G.Node, Layout]:
    """The node a user means by `layer`, the deepest map for None, and how its value is laid out.

    Raises:
        ArgumentError: the node holds no map.
        LookupFailure: no node or module has this name.
    """
    known = layouts(graph)
    node = deepest_map(graph) if layer is None else graph[layer]
    if node.shape is None or len(node.shape) < 3 or not node.differentiable:
        maps = ", ".join(repr(each.name) for each in spatial_nodes(graph)[-5:])
        raise ArgumentError(
            f"layer {layer!r} holds shape {node.shape}, no map (N, C, H, W); the deepest maps are {maps or 'none'}"
        )
    return node, known.get(node) or _alike(node, list(known.values())) or Layout("channels", tuple(node.shape[2:]))  # type: ignore[arg-type]


def attention_nodes(graph: G.Graph) -> list[G.Node]:
    """The nodes where attention is computed: fused, or the softmax of scores that a product with values follows.

    >>> import torch
    >>> def attend(x):
    ...     return torch.nn.functional.scaled_dot_product_attention(x, x, x)
    >>> [node.op_name for node in attention_nodes(G.capture(attend, torch.zeros(2, 3, 4, 5)))]
    ['scaled_dot_product_attention']
    """
    return [
        node
        for node in graph.nodes
        if node.op_name.startswith("scaled_dot_product") or (node.op_name == "softmax" and _read_by_a_product(node))
    ]


def upstream(nodes: list[G.Node]) -> set[G.Node]:
    """The nodes that some nodes depend on, themselves included."""
    used, waiting = set(), list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in used:
            used.add(node)
            waiting += node.inputs
    return used


def _read_by_a_product(node: G.Node) -> bool:
    """Whether a matrix product reads the node, maybe after dropout or a change of shape."""
    waiting = list(node.users)
    while waiting:
        user = waiting.pop()
        if user.op_name in ("bmm", "matmul", "einsum"):
            return True
        if user.op_name in ("dropout", "view", "reshape", "expand", "clone", "native_dropout", "to", "to_copy"):
            waiting += user.users
    return False


def _alike(node: G.Node, known: list[Layout]) -> Layout | None:
    """The layout of tokens whose number this node shares."""
    tokens = {layout.extra + layout.places: layout for layout in known if layout.kind == "tokens"}
    return tokens.get(node.shape[1]) if node.shape is not None and len(node.shape) == 3 else None  # type: ignore[arg-type]
