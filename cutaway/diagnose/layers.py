"""The layers of a network, read off its graph: where weights act, which activation follows, where all paths meet."""

from collections.abc import Iterable
from dataclasses import dataclass

from cutaway import graph as G
from cutaway.graph.nodes import bound_arguments

WEIGHTED = frozenset(
    [
        "conv1d",
        "conv2d",
        "conv3d",
        "convolution",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "linear",
        "addmm",
        "mm",
        "matmul",
        "bmm",
        "baddbmm",
        "embedding",
    ]
)
NORMALIZING = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")  # part of the name
SATURATING = frozenset(["sigmoid", "tanh", "hardtanh", "hardsigmoid", "relu6"])
SMOOTH = frozenset(
    [
        "gelu",
        "silu",
        "mish",
        "elu",
        "celu",
        "selu",
        "leaky_relu",
        "prelu",
        "rrelu",
        "softplus",
        "hardswish",
        "log_sigmoid",
    ]
)
CLAMPS = frozenset(["clamp", "clamp_min", "hardtanh", "threshold", "relu6"])
PASSING = frozenset(["dropout", "alpha_dropout", "feature_dropout", "clone", "contiguous", "to", "_to_copy"])
MERGING = frozenset(["add", "cat", "concat", "mul", "stack"])


@dataclass(frozen=True)
class Layer:
    """One layer: from the operation with weights to the activation that follows it directly.

    Attributes:
        name: the name of the operation with weights (usually its module's path), or of the activation where it follows
            no weights directly.
        node: the node at the layer's end, whose values and adjoints are looked at.
        weights: the parameters used in it.
        activation: the name of the activation at its end, "" if there is none.
        channel: which dimension of the node counts the layer's units.
        trunk: whether every path from the input to the output goes through the node.
    """

    name: str
    node: G.Node
    weights: tuple[G.Node, ...]
    activation: str
    channel: int
    trunk: bool


def layers(graph: G.Graph) -> list[Layer]:
    """List a graph's layers from the input to the output.

    Layers are operations with weights (convolutions, linear maps, embeddings) together with the normalisation,
    dropout and activation that follow directly; an activation that follows anything else (the sum of a residual block)
    is a layer of its own, and so is a sum where all paths meet.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
    >>> [(layer.name, layer.activation) for layer in layers(G.capture(net, torch.zeros(2, 4)))]
    [('0', 'tanh'), ('2', '')]
    """
    live = _live(graph)
    trunk = set(meeting_points(live))
    found: list[Layer] = []
    taken: set[G.Node] = set()
    for node in live:
        if node.op is None or node in taken or node.shape is None or not node.differentiable:
            continue
        weights = _weights(node, live) if node.op_name in WEIGHTED else ()
        activation = activation_of(node)
        merges = node in trunk and node.op_name in MERGING and sum(source in live for source in node.inputs) > 1
        if not weights and not activation and not merges:
            continue
        chain = _chain(node, live)
        taken.update(chain)
        activation = activation_of(chain[-1])
        weights += tuple(w for each in chain[1:] for w in each.inputs if w.kind == "parameter")
        found.append(Layer(node.name, chain[-1], weights, activation, _channel(chain, found), chain[-1] in trunk))
    return found


def meeting_points(nodes: Iterable[G.Node]) -> list[G.Node]:
    """The nodes that every path through the given ones goes through, in order."""
    ordered = sorted(nodes, key=lambda node: node.index)
    inside, reach, found = set(ordered), -1, []
    for node in ordered:
        if reach <= node.index:
            found.append(node)
        reach = max([reach, *(user.index for user in node.users if user in inside)])
    return found


def activation_of(node: G.Node) -> str:
    """The name of the activation a node computes ("relu", "relu6", "tanh", "gelu", …); "" for any other operation.

    Clamps are read as what they compute: at zero from below a ReLU, from 0 to 6 a ReLU6.
    """
    name = node.op_name.rstrip("_")
    if name == "relu" or name in SMOOTH:
        return name
    if name in CLAMPS:
        low, high = bounds(node)
        if low == 0:
            return "relu" if high is None else "relu6" if high == 6 else "hardtanh"
        return "hardtanh" if name == "hardtanh" else ""
    return name if name in SATURATING else ""


def normalizes(node: G.Node) -> bool:
    """Whether a node is a normalisation, in evaluation or in training mode."""
    return any(part in node.op_name for part in NORMALIZING)


def bounds(node: G.Node) -> tuple[float | None, float | None]:
    """Between which values an activation is confined: (0, None) for a ReLU, (−1, 1) for tanh."""
    name, arguments = node.op_name.rstrip("_"), bound_arguments(node)
    if name == "threshold":
        return (arguments["threshold"], None) if arguments["threshold"] == arguments["value"] else (None, None)
    if name == "hardtanh":
        return arguments["min_val"], arguments["max_val"]
    if name in ("clamp", "clamp_min"):
        return arguments.get("min"), arguments.get("max")
    fixed = {"relu": (0, None), "relu6": (0, 6), "sigmoid": (0, 1), "hardsigmoid": (0, 1)}
    return fixed.get(name, (-1, 1) if name == "tanh" else (None, None))


def _live(graph: G.Graph) -> dict[G.Node, None]:
    """The real-valued nodes on the way from an input to the first output, in order (sizes carry no derivative)."""
    wanted, waiting = set(), graph.outputs[:1]
    while waiting:
        node = waiting.pop()
        if node not in wanted:
            wanted.add(node)
            waiting += node.inputs
    live: dict[G.Node, None] = {}
    for node in graph.nodes:
        reached = node.differentiable and any(source in live for source in node.inputs)
        if node in wanted and (node.kind == "input" or reached):
            live[node] = None
    return live


def _weights(node: G.Node, live: dict[G.Node, None]) -> tuple[G.Node, ...]:
    """The parameters an operation uses directly, or through operations on parameters only (a transpose, a slice)."""
    found, waiting = [], [source for source in node.inputs if source not in live]
    while waiting:
        source = waiting.pop(0)
        if source.kind == "parameter":
            found.append(source)
        waiting += [each for each in source.inputs if each not in live]
    return tuple(dict.fromkeys(found))


def _chain(node: G.Node, live: dict[G.Node, None]) -> list[G.Node]:
    """The node and what follows it, normalisations first, up to its activation, while nothing else uses its value."""
    chain = [node]
    while not activation_of(chain[-1]):
        users = [user for user in chain[-1].users if user in live]
        if len(users) != 1:
            return chain
        after = users[0]
        part = after.op_name == "getitem" and normalizes(chain[-1])
        if not (part or normalizes(after) or after.op_name in PASSING or activation_of(after)):
            return chain
        chain.append(after)
    return chain


def _channel(chain: list[G.Node], before: list[Layer]) -> int:
    """Which dimension counts units: 1 for maps (N, C, H, W), the last one after a linear map."""
    shape = chain[-1].shape or ()
    if chain[0].op_name.startswith("conv") or len(shape) <= 2:
        return min(1, len(shape) - 1)
    if chain[0].op_name in WEIGHTED:
        return len(shape) - 1
    alike = [layer.channel for layer in before if len(layer.node.shape or ()) == len(shape)]
    return alike[-1] if alike else 1 if len(shape) >= 4 else len(shape) - 1
