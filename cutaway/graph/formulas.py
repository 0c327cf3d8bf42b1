"""The table of multiply-add counts: one row per operation that multiplies matrices, everything else counts none.

A formula is handed the sizes of the operation's arguments by their schema names (a tensor stands as its shape, a list
of tensors as a list of shapes, anything else as it is), `result`, the shape of the output, and `live`, which of the
tensors need an adjoint. Every one of these operations is linear in each of its factors, so the adjoint of a factor
costs as many multiply-adds as the operation itself; the rows that are sums of several products say what each adjoint
costs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

Sizes = Mapping[str, Any]


@dataclass(frozen=True)
class Formula:
    """How many multiply-adds an operation takes.

    Attributes:
        forward: of the operation, from the sizes of its arguments.
        factors: the arguments that are multiplied; the adjoint of each costs as much as the operation.
        backward: the adjoints' cost from the sizes and the arguments that need one, where that is not so.
    """

    forward: Callable[[Sizes], int]
    factors: tuple[str, ...]
    backward: Callable[[Sizes, Sequence[str]], int] | None = None

    def adjoints(self, sizes: Sizes, needs: Sequence[str]) -> int:
        """The multiply-adds of the adjoints of the arguments in `needs`."""
        if self.backward is not None:
            return self.backward(sizes, needs)
        return self.forward(sizes) * sum(name in self.factors for name in needs)


def convolution(s: Sizes) -> int:
    """Output elements × kernel × input channels of a group; for a transposed one input elements × kernel × outputs."""
    grid = s["input"] if s.get("transposed", False) else s["result"]
    return prod(grid) * prod(s["weight"][1:])


def transposed_convolution(s: Sizes) -> int:
    """Every input element is multiplied with the kernels of its group's outputs."""
    return prod(s["input"]) * prod(s["weight"][1:])


def linear(s: Sizes) -> int:
    """Output elements × inputs."""
    return prod(s["result"]) * s["weight"][-1]


def product(left: str) -> Callable[[Sizes], int]:
    """Output elements × the length of the contracted dimension, the last one of the left factor."""
    return lambda s: prod(s["result"]) * s[left][-1]


def summed_product(s: Sizes) -> int:
    """A batch of products that are summed up."""
    return prod(s["batch1"]) * s["batch2"][-1]


def bilinear(s: Sizes) -> int:
    """x₁ᵀ·A·x₂ for each output: the matrix–vector products, then the dot products."""
    examples = prod(s["input1"][:-1])
    return examples * (prod(s["weight"]) + prod(s["weight"][:2]))


def attention(s: Sizes) -> int:
    """Q·Kᵀ and the weighted sum of V."""
    return _scores(s) * (s["query"][-1] + s["value"][-1])


def attention_backward(s: Sizes, needs: Sequence[str]) -> int:
    """V's adjoint; the weights' adjoint if Q or K needs one; Q's; K's."""
    through = "query" in needs or "key" in needs
    values = s["value"][-1] * (("value" in needs) + through)
    return _scores(s) * (values + s["query"][-1] * (("query" in needs) + ("key" in needs)))


def _scores(s: Sizes) -> int:
    return prod(s["query"][:-1]) * s["key"][-2]


def recurrent(s: Sizes) -> int:
    """Every weight matrix is used once for each step and example."""
    return _steps(s) * sum(prod(size) for size in s["params"] if len(size) == 2)


def recurrent_backward(s: Sizes, needs: Sequence[str]) -> int:
    """The weights' adjoints, and the adjoints of what is multiplied with them; of the input only if it needs one."""
    everything = recurrent(s)
    directions = 2 if s.get("bidirectional") else 1
    first = _steps(s) * prod(s["params"][0]) * directions  # the first layer's input matrices
    within = everything if needs else 0
    return everything * ("params" in needs) + within - (0 if "input" in needs or "data" in needs else first)


def _steps(s: Sizes) -> int:
    """Steps × examples: all dimensions of the input but the features."""
    return prod((s["input"] if "input" in s else s["data"])[:-1])


def cell(s: Sizes) -> int:
    """One step of a recurrent network."""
    return prod(s["input"][:-1]) * (prod(s["w_ih"]) + prod(s["w_hh"]))


def cell_backward(s: Sizes, needs: Sequence[str]) -> int:
    """Input and hidden state, and both matrices, each as its own product."""
    examples = prod(s["input"][:-1])
    uses = {"w_ih": ("input", "w_ih"), "w_hh": ("hx", "w_hh")}
    return sum(examples * prod(s[weight]) * sum(name in needs for name in names) for weight, names in uses.items())


def einsum(s: Sizes) -> int:
    """Contracted from left to right: each step costs the product of all the sizes that take part in it."""
    return sum(_einsum_steps(s))


def einsum_backward(s: Sizes, needs: Sequence[str]) -> int:
    """In each step one contraction as large for what came from the left, and one for the next operand."""
    live = s["live"]
    return sum(step * (any(live[:at]) + live[at]) for at, step in enumerate(_einsum_steps(s), start=1))


def _einsum_steps(s: Sizes) -> list[int]:
    left, _, right = s["equation"].replace(" ", "").partition("->")
    terms = left.split(",")
    size: dict[str, int] = {}
    for term, shape in zip(terms, s["tensors"], strict=True):
        named = term.replace("...", "")
        free = len(shape) - len(named)
        letters = [*term.partition("...")[0], *(f".{free - i}" for i in range(free)), *term.partition("...")[2]]
        for letter, length in zip(letters, shape, strict=True):
            size[letter] = max(length, size.get(letter, 1))
    dots = [letter for letter in size if letter.startswith(".")]
    letters = [{*term.replace("...", "")} | ({*dots} if "..." in term else set()) for term in terms]
    kept = {*right.replace("...", "")} | ({*dots} if "..." in right else set())
    steps, current = [], letters[0]
    for position, term in enumerate(letters[1:], start=1):
        steps.append(prod(size[letter] for letter in current | term))
        later = kept.union(*letters[position + 1 :])
        current = (current | term) & later
    return steps


def distances(s: Sizes) -> int:
    """One multiply-add for every coordinate of every pair."""
    return prod(s["result"]) * s["x1"][-1]


def outer(s: Sizes) -> int:
    """One multiplication for each element."""
    return prod(s["result"])


_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "convolution", "mkldnn_convolution", "thnn_conv2d")
_PRODUCTS = {
    "matmul": ("self", "other"),
    "mm": ("self", "mat2"),
    "bmm": ("self", "mat2"),
    "mv": ("self", "vec"),
    "dot": ("self", "tensor"),
    "vdot": ("self", "other"),
    "inner": ("self", "other"),
    "addmm": ("mat1", "mat2"),
    "addmv": ("mat", "vec"),
    "baddbmm": ("batch1", "batch2"),
    "linalg_vecdot": ("x", "y"),
}
_ATTENTIONS = (
    "scaled_dot_product_attention",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)

FORMULAS: dict[str, Formula] = {
    **dict.fromkeys(_CONVOLUTIONS, Formula(convolution, ("input", "weight"))),
    **dict.fromkeys(
        ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        Formula(transposed_convolution, ("input", "weight")),
    ),
    "linear": Formula(linear, ("input", "weight")),
    **{name: Formula(product(factors[0]), factors) for name, factors in _PRODUCTS.items()},
    "addbmm": Formula(summed_product, ("batch1", "batch2")),
    "bilinear": Formula(bilinear, ("input1", "input2", "weight")),
    **dict.fromkeys(_ATTENTIONS, Formula(attention, ("query", "key", "value"), attention_backward)),
    **dict.fromkeys(
        ("lstm", "gru", "rnn_tanh", "rnn_relu"), Formula(recurrent, ("input", "data", "params"), recurrent_backward)
    ),
    **dict.fromkeys(
        ("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
        Formula(cell, ("input", "hx", "w_ih", "w_hh"), cell_backward),
    ),
    "einsum": Formula(einsum, ("tensors",), einsum_backward),
    "cdist": Formula(distances, ("x1", "x2")),
    "_cdist_forward": Formula(distances, ("x1", "x2")),
    "outer": Formula(outer, ("self", "vec2")),
    "ger": Formula(outer, ("self", "vec2")),
    "addr": Formula(outer, ("vec1", "vec2")),
}
"""Multiply-adds by operation, as it is called in ATen."""

# fmt: off
MOVES = frozenset((
    "arange", "cat", "channel_shuffle", "clone", "constant_pad_nd", "contiguous", "copy", "dropout", "embedding",
    "empty", "empty_like", "flip", "full", "full_like", "gather", "index", "index_put", "index_select",
    "new_full", "new_ones", "new_zeros", "ones", "ones_like", "pad", "pixel_shuffle", "rand", "randn", "repeat",
    "roll", "scalar_tensor", "select_scatter", "slice_scatter", "stack", "sym_size", "to", "_to_copy", "tril",
    "triu", "unfold", "zeros", "zeros_like",
))
"""Operations that move or fill memory and compute nothing."""
# fmt: on
