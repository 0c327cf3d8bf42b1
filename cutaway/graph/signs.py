"""Which values of a graph cannot be negative, whatever the input."""

from weakref import WeakKeyDictionary

from cutaway.graph.nodes import Node, bound_arguments

# results of these are never negative
RECTIFIED = {"relu", "relu6", "sigmoid", "softmax", "hardsigmoid", "exp", "abs", "square", "softplus"}
# results of these are not, where none of the values they read is
KEPT = {
    "max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "mean", "sum", "cat", "mul", "dropout",
    "reshape", "view", "flatten", "unflatten", "transpose", "permute", "squeeze", "unsqueeze", "clone", "slice",
    "select", "getitem", "to_channels_last",
}  # fmt: skip
FLOORS = {"clamp": "min", "clamp_min": "min", "hardtanh": "min_val"}  # the argument that bounds the result from below

_KNOWN: WeakKeyDictionary[Node, bool] = WeakKeyDictionary()


def nonnegative(node: Node) -> bool:
    """Whether a node's value is known to have no negative entry.

    >>> import torch, cutaway as ct
    >>> graph = ct.capture(lambda x: torch.nn.functional.max_pool2d(x.relu(), 2) - 1, torch.randn(2, 1, 4, 4))
    >>> nonnegative(graph["max_pool2d"]), nonnegative(graph["output"])
    (True, False)
    """
    if node not in _KNOWN:
        _KNOWN[node] = _nonnegative(node)
    return _KNOWN[node]


def _nonnegative(node: Node) -> bool:
    name = node.op_name
    if node.op is None:
        return False
    if name in RECTIFIED:
        return True
    if name in FLOORS:
        floor = bound_arguments(node)[FLOORS[name]]
        return isinstance(floor, int | float) and floor >= 0
    if name == "convolution" and node.merged:
        return bound_arguments(node)["relu"]
    if name == "add":  # a number may stand in the place of a value
        numbers = [value for value in [*node.args, *node.kwargs.values()] if not isinstance(value, Node)]
        return all(isinstance(n, int | float) and n >= 0 for n in numbers) and all(map(nonnegative, node.inputs))
    if name == "mul" and len(node.inputs) < 2:
        return False
    return name in KEPT and all(map(nonnegative, node.inputs))
