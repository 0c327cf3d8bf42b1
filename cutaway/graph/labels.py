"""What the boxes of a picture say: names, shapes, counts, values."""

import math
import re
from collections.abc import Sequence

import torch

from cutaway.graph.formulas import FORMULAS, MOVES
from cutaway.graph.nodes import Node, operation_name
from cutaway.graph.outline import Box

LARGEST_VECTOR = 8
LARGEST_MATRIX = (6, 4)
ROW = 4  # entries of a vector in one line

# kinds of operations, each with a colour of its own; what is in no list is arithmetic
_KINDS = {
    "activation": "relu|relu6|elu|selu|gelu|silu|mish|tanh|sigmoid|softmax|log_softmax|softplus|hardtanh|hardswish|"
    "hardsigmoid|leaky_relu|prelu|threshold|clamp|clamp_min|dropout|log_sigmoid|softsign|glu",
    "norm": "batch_norm|layer_norm|group_norm|instance_norm|native_batch_norm|native_layer_norm|native_group_norm|"
    "local_response_norm|rms_norm|normalize|native_batch_norm_legit_functional",
    "pool": "max_pool1d|max_pool2d|max_pool3d|avg_pool1d|avg_pool2d|avg_pool3d|adaptive_avg_pool1d|adaptive_avg_pool2d|"
    "adaptive_avg_pool3d|adaptive_max_pool1d|adaptive_max_pool2d|max_pool2d_with_indices|mean|amax|max|upsample_nearest2d|"
    "upsample_bilinear2d|sum",
    "join": "add|cat|stack|mul|sub|div",
}
KINDS = {name: kind for kind, names in _KINDS.items() for name in names.split("|")}


def kind_of(box: Box) -> str:
    """The kind of a box, which decides its colour."""
    if box.children:
        return "module"
    if box.kind not in ("operation", "module") or box.node is None:
        return box.kind
    if operation_name(box.node.op).split(".")[1] in FORMULAS:
        return "product"
    name = box.node.op_name
    joins = KINDS.get(name) == "join"
    if joins and sum(source.kind != "parameter" for source in box.node.inputs) < 2:
        return "arithmetic"
    if name in KINDS:
        return KINDS[name]
    schema = getattr(box.node.op, "_schema", None)
    view = schema is not None and any(each.alias_info is not None for each in schema.returns)
    return "move" if view or name in MOVES else "arithmetic"


def short(number: float) -> str:
    """Write a count with three digits.

    >>> short(61706), short(1_814_073_344), short(999_999), short(12), short(0.00123)
    ('61.7k', '1.81G', '1.00M', '12', '0.00123')
    """
    if number == 0 or not math.isfinite(number):
        return "0" if number == 0 else str(number)
    if abs(number) < 999.5:
        return f"{number:.3g}"
    power = min(int(math.log10(abs(number) / 999.5) / 3) + 1, 5)
    scaled = number / 1000**power
    digits = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
    return f"{scaled:.{digits}f}{'kMGTP'[power - 1]}"


def size(box: Box) -> str:
    """Write the shape of what leaves a box, without the batch: "64×56×56"."""
    shape = box.shape
    if shape is None:
        return ""
    sizes = [re.sub(r"(?<=\d)\*(?=[A-Z])", "", str(part)) for part in (shape[1:] if shape[:1] == ("N",) else shape)]
    return "×".join(sizes) if sizes else ("N" if shape else "")


def value_lines(value: torch.Tensor) -> list[str]:
    """Write a tensor in numbers if it is small, as mean and standard deviation if it is not.

    >>> value_lines(torch.tensor(-1.5)), value_lines(torch.tensor([1.0, 2.0, 0.25]))
    (['−1.5'], ['[1, 2, 0.25]'])
    >>> value_lines(torch.arange(100.0))
    ['49.5 ± 29', '0 … 99']
    """
    value = value.detach().cpu()
    if not value.numel():
        return ["empty"]
    if value.numel() == 1:
        return [number(value.item())]
    while value.ndim > 1 and value.shape[0] == 1:  # a batch of one
        value = value[0]
    if value.ndim == 1 and len(value) <= LARGEST_VECTOR:
        entries = [number(entry) for entry in value.tolist()]
        lines = [", ".join(entries[start : start + ROW]) for start in range(0, len(entries), ROW)]
        return ("[" + ",\n ".join(lines) + "]").split("\n")
    if value.ndim == 2 and value.shape[0] <= LARGEST_MATRIX[0] and value.shape[1] <= LARGEST_MATRIX[1]:
        rows = [[number(entry) for entry in row] for row in value.tolist()]
        widths = [max(len(row[column]) for row in rows) for column in range(value.shape[1])]
        return ["[" + "  ".join(entry.rjust(width) for entry, width in zip(row, widths)) + "]" for row in rows]
    real = value.double() if not value.is_complex() else value.abs().double()
    spread = real.std(correction=0)
    return [
        f"{number(real.mean().item())} ± {number(spread.item(), 2)}",
        f"{number(real.min())} … {number(real.max())}",
    ]


def number(value: object, digits: int = 4) -> str:
    """Write one entry of a tensor with so many digits and a real minus sign."""
    if isinstance(value, bool | complex):
        return str(value)
    real = float(value)  # type: ignore[arg-type]
    return f"{real + 0.0:.{digits}g}".replace("-", "−") if real else "0"


def variables(nodes: Sequence[Node]) -> dict[Node, tuple[str, str]]:
    """The variable that a line of source gives a node's value, and the expression: for "r = y - p" ("r", "y - p").

    Only the last node of a line has the line's variable, and only names given once are used.
    """
    last = {(node.source, node.module): node for node in nodes if node.op is not None and node.source}
    counts: dict[tuple[str, str], int] = {}
    for node in nodes:
        counts[node.source, node.module] = counts.get((node.source, node.module), 0) + 1
    found: dict[Node, tuple[str, str]] = {}
    for key, node in last.items():
        code = re.sub(r"\s+#.*$", "", node.source.split(": ", 1)[-1])
        name, expression = _assigned(code)
        if expression and (name or counts[key] == 1):
            found[node] = (name, expression if counts[key] == 1 else "")
    taken = [name for name, _ in found.values()] + [node.name for node in nodes if node.op is None]
    return {node: (name if taken.count(name) == 1 else "", code) for node, (name, code) in found.items()}


def _assigned(code: str) -> tuple[str, str]:
    """Split "name = expression" and "return expression"; nothing else is read."""
    if match := re.match(r"([^\W\d]\w*)(?:\s*:\s*[\w.\[\], ]+)?\s*=\s*(?!=)(.+)$", code):
        return match[1], match[2]
    if match := re.match(r"return\s+(.+)$", code):
        return "", match[1]
    return "", ""
