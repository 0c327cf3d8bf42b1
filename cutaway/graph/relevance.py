"""Layer-wise relevance propagation as rule sets: the adjoint that flows is relevance, and what flows is conserved.

Seed the output with the value that is explained (the logit times a one-hot vector); the "adjoint" of the input is then
its relevance, and sums to that logit, but for what biases and ε absorb. A rectifier, or any other function of one
number, passes relevance on as it is; a layer with weights shares it out among its inputs.

Batch norm in evaluation is such a layer; the rules below give for convolution and batch norm in turn what they give for
the two folded into one, if ε is small. The αβ and γ rules want it folded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cutaway.errors import ArgumentError
from cutaway.graph import fused, tables  # noqa: F401 - tables fills the table
from cutaway.graph.fused import Packed
from cutaway.graph.nodes import Node, moves
from cutaway.graph.rows import TABLE, Row, named, names_of, of_operations, requests
from cutaway.graph.shapes import sum_to
from cutaway.graph.signs import nonnegative
from cutaway.graph.table_attention import _repeated, _ungrouped, attention_weights
from cutaway.graph.table_convolution import convolution_input, padded_input

if TYPE_CHECKING:
    from cutaway.graph.graph import Graph


def stabilised(value: Tensor, epsilon: float) -> Tensor:
    """z + ε·sign z, with sign 0 = 1, so that one can divide by it."""
    return value + torch.copysign(value.new_tensor(epsilon), value)


# layers with weights: name → (settings asked for, z without bias from (x, w, settings), and x's adjoint from
# (δz, x's shape, w, settings))
def _convolution(spatial: int) -> tuple:
    apply = (torch.conv1d, torch.conv2d, torch.conv3d)[spatial - 1]
    return ("stride", "padding", "dilation", "groups"), lambda x, w, *s: apply(x, w, None, *s), convolution_input


def _padded(spatial: int) -> tuple:
    apply = (torch.conv1d, torch.conv2d, torch.conv3d)[spatial - 1]
    return ("stride", "padding", "dilation", "groups"), lambda x, w, *s: apply(x, w, None, *s), padded_input


def _transposed(spatial: int) -> tuple:
    apply = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)[spatial - 1]
    return (
        ("stride", "padding", "dilation", "groups", "output_padding"),
        lambda x, w, stride, padding, dilation, groups, out: apply(x, w, None, stride, padding, out, groups, dilation),
        lambda s, shape, w, stride, padding, dilation, groups, out: convolution_input(
            s, shape, w, stride, padding, dilation, groups, True, out
        ),
    )


LAYERS: dict[str, tuple[Sequence[str], Callable, Callable]] = {
    "linear": ((), lambda x, w: x @ w.T, lambda s, shape, w: s @ w),
    **{f"conv{n}d.default": _convolution(n) for n in (1, 2, 3)},
    **{f"conv{n}d.padding": _padded(n) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _transposed(n) for n in (1, 2, 3)},
}


def _packed_apply(x: Tensor, w: Any, stride: list, padding: list, dilation: list, groups: int) -> Tensor:
    if isinstance(w, Packed):
        return fused.convolution(x, w, None, None, stride, padding, dilation, groups, False)
    return torch.conv2d(x, w, None, stride, padding, dilation, groups)


def _packed_pull(s: Tensor, shape: tuple, w: Any, *settings: Any) -> Tensor:
    pull = fused.convolution_input_packed if isinstance(w, Packed) else convolution_input
    return pull(s, shape, w, *settings)


PACKED = "cutaway.convolution"  # what `pack_convolutions` makes of a convolution
WEIGHTED = LAYERS | {PACKED: (LAYERS["conv2d.default"][0], _packed_apply, _packed_pull)}


@dataclass(frozen=True)
class Layer:
    """A layer with weights, as its rule sees it.

    Attributes:
        apply: (x, w) → the layer without bias.
        pull: (δz, x's shape, w) → its adjoint.
        groups: into which a convolution's channels fall; None for linear layers.
        nonnegative: whether its input is known to have no negative entry.
    """

    apply: Callable[[Tensor, Any], Tensor]
    pull: Callable[[Tensor, tuple[int, ...], Any], Tensor]
    groups: int | None
    nonnegative: bool


Rule = Callable[[Tensor, Tensor, Any, Tensor, Layer], Tensor]


def layer_rule(rule: Rule, layer: str) -> dict[str, Callable | None]:
    """A rule for one kind of layer, from a function of (R, x, w, z, layer).

    Args:
        rule: gives the relevance of x from that of the output; w is the layer's weight, or what a pass packed it into.
        layer: a key of `WEIGHTED`.
    """
    settings, apply, pull = WEIGHTED[layer]
    weight = "packed" if layer == PACKED else "weight"

    def serve(grad: Tensor, x: Tensor, w: Any, z: Tensor, node: Node, *s: Any) -> Tensor:
        if node.merged[1:]:
            raise ArgumentError(
                f"relevance has no rule for node {node.name!r}, into which a pass has merged "
                f"{', '.join(repr(each.name) for each in node.merged)}; use pack_convolutions, not fuse_convolutions"
            )
        groups = s[settings.index("groups")] if "groups" in settings else None
        of = Layer(
            lambda x, w: apply(x, w, *s),
            lambda d, shape, w: pull(d, shape, w, *s),
            groups,
            nonnegative(node.args[0]),
        )
        return rule(grad, x, w, z, of)

    names = ("grad", "input", weight, "result", "node", *settings)
    return {"input": named(names, serve), weight: None, "bias": None}


# the layers' rules
def epsilon_rule(epsilon: float) -> Rule:
    """R_j = x_j·Σ_k w_kj·R_k / (z_k + ε·sign z_k)."""
    return lambda relevance, x, w, z, layer: x * layer.pull(relevance / stabilised(z, epsilon), tuple(x.shape), w)


def gamma_rule(gamma: float, epsilon: float = 1e-9) -> Rule:
    """The ε rule with weights w + γ·w⁺, which favours positive contributions; without the bias."""

    def rule(relevance: Tensor, x: Tensor, w: Any, z: Tensor, layer: Layer) -> Tensor:
        plain = w.weight if isinstance(w, Packed) else w
        plain = plain + gamma * plain.clamp(min=0)
        return x * layer.pull(relevance / stabilised(layer.apply(x, plain), epsilon), tuple(x.shape), plain)

    return rule


def alpha_beta_rule(alpha: float, beta: float, epsilon: float = 1e-9) -> Rule:
    """α times the relevance shared out among positive contributions, minus β times among the negative; no bias."""

    def rule(relevance: Tensor, x: Tensor, w: Any, z: Tensor, layer: Layer) -> Tensor:
        positive, negative = w.parts if isinstance(w, Packed) else (w.clamp(min=0), w.clamp(max=0))
        parts = [x] if layer.nonnegative else [x.clamp(min=0), x.clamp(max=0)]

        def share(weights: Sequence[Any]) -> Tensor:
            """What of R each input gets by the products of its parts with these weights."""
            pairs = list(zip(parts, weights, strict=False))
            s = relevance / stabilised(sum(layer.apply(part, w) for part, w in pairs), epsilon)  # pyright: ignore[reportArgumentType]
            return sum(part * layer.pull(s, tuple(x.shape), w) for part, w in pairs)  # pyright: ignore[reportReturnType]

        up = alpha * share((positive, negative))
        return up - beta * share((negative, positive)) if beta else up

    return rule


def flat_rule(relevance: Tensor, x: Tensor, w: Any, z: Tensor, layer: Layer) -> Tensor:
    """Every input of a unit gets the same share."""
    w = w.weight if isinstance(w, Packed) else w
    if layer.groups == 1 and x.ndim == w.ndim:  # all channels share one kernel of ones
        channel, kernel = torch.ones_like(x[:1, :1]), torch.ones_like(w[:1, :1])
        s = relevance.sum(1, keepdim=True) / (x.shape[1] * layer.apply(channel, kernel))  # (N, 1, …)
        return layer.pull(s, (len(x), 1, *x.shape[2:]), kernel).expand(x.shape).contiguous()
    flat = torch.ones_like(w)
    return layer.pull(relevance / layer.apply(torch.ones_like(x), flat), tuple(x.shape), flat)


# everything else
def shared(operation: str, argument: str, epsilon: float, product: int | None = None) -> Callable:
    """The ε rule for an operation that is linear in an argument: the argument times the usual rule of R / z.

    Args:
        operation, argument: whose rule.
        epsilon: keeps z away from 0.
        product: for products of two values the argument's place; where both depend on the input, each gets half.
    """
    usual = TABLE[f"aten.{operation}"].function_for(argument)
    assert usual is not None and usual[1] is not None  # noqa: S101 - the table has these rows
    function, asked = usual[1], requests(usual[1])
    names = dict.fromkeys(("grad", argument, "result", "node", *asked))

    def serve(*values: Any) -> Tensor:
        given = dict(zip(names, values, strict=True))
        given["grad"] = given["grad"] / stabilised(given["result"], epsilon)
        found = given[argument] * function(**{name: given[name] for name in asked})
        if product is None:
            return found
        factors = [moves(factor) for factor in given["node"].args[:2]]
        return found * (0.0 if not factors[product] else 0.5 if all(factors) else 1.0)

    return named(tuple(names), serve)


# linear in these arguments
LINEAR: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("add.Tensor", "sub.Tensor"), ("self", "other")),
    **dict.fromkeys(
        ("add.Scalar", "sub.Scalar", "mean.default", "mean.dim", "sum.default", "sum.dim_IntList"), ("self",)
    ),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d", "cumsum"), ("self",)),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), ("self",)),
    **dict.fromkeys(("upsample_bilinear2d.vec", "upsample_bicubic2d.vec", "upsample_nearest2d.vec"), ("input",)),
    "batch_norm": ("input",),
}
# products of two values
PRODUCTS: dict[str, tuple[str, str]] = {
    "mul.Tensor": ("self", "other"),
    "mm": ("self", "mat2"),
    "bmm": ("self", "mat2"),
    "matmul": ("self", "other"),
}
# functions of one number: relevance passes
PASSED = (
    "relu", "relu6", "leaky_relu", "prelu", "elu", "celu", "selu", "gelu", "silu", "mish", "sigmoid", "tanh",
    "softplus", "hardtanh", "hardswish", "hardsigmoid", "threshold", "clamp", "clamp_min", "clamp_max", "log_sigmoid",
    "abs", "exp", "log", "sqrt", "rsqrt", "square", "pow.Tensor_Scalar", "neg", "reciprocal", "sin", "cos", "erf",
    "mul.Scalar", "div.Scalar",
)  # fmt: skip


def layer_norm(epsilon: float) -> Callable:
    """The ε rule with 1/σ taken for a constant."""

    def rule(grad, input, normalized_shape, weight, result, eps):
        over = list(range(-len(normalized_shape), 0))
        rstd = torch.rsqrt(input.var(over, unbiased=False, keepdim=True) + eps)
        s = grad / stabilised(result, epsilon) * (1 if weight is None else weight) * rstd
        return input * (s - s.mean(over, keepdim=True))

    return rule


def group_norm(epsilon: float) -> Callable:
    """As layer norm, over each group."""
    plain = layer_norm(epsilon)

    def rule(grad, input, num_groups, weight, result, eps):
        shape = (input.shape[0], num_groups, -1)
        scale = torch.ones_like(input[:1])
        scale = scale if weight is None else scale * weight.view(1, -1, *[1] * (input.ndim - 2))
        parts = [tensor.reshape(shape) for tensor in (grad, input, result)]
        found = plain(parts[0], parts[1], [parts[1].shape[-1]], scale.reshape(1, *shape[1:]), parts[2], eps)
        return found.reshape(input.shape)

    return rule


def softmax(grad: Tensor, self: Tensor, result: Tensor, dim: int) -> Tensor:
    """x·(R − s·ΣR): the expansion of the softmax at x; its bias term is absorbed."""
    finite = self.masked_fill(~torch.isfinite(self), 0)
    return finite * (grad - result * grad.sum(dim, keepdim=True))


def attention(epsilon: float) -> Callable:
    """Attention written out: products share by halves, the softmax by its expansion."""

    def rule(grad, query, key, value, attn_mask, is_causal, scale, enable_gqa, result):
        keys, values = _repeated(key, query, enable_gqa), _repeated(value, query, enable_gqa)
        weights, scale = attention_weights(query, keys, attn_mask, is_causal, scale)
        s = grad / stabilised(result, epsilon)
        r_weights, r_value = 0.5 * weights * (s @ values.mT), 0.5 * values * (weights.mT @ s)
        scores = (query @ keys.mT) * scale
        t = 0.5 * softmax(r_weights, scores, weights, -1) / stabilised(scores, epsilon) * scale
        r_query, r_key = query * (t @ keys), keys * (t.mT @ query)
        return sum_to(r_query, query.shape), _ungrouped(r_key, key.shape), _ungrouped(r_value, value.shape), None

    return rule


def elsewhere(epsilon: float) -> dict[str, Any]:
    """The rules of all operations that are no layers with weights."""
    rules: dict[str, Any] = {name: {"self": lambda grad: grad} for name in PASSED}
    rules["div.Tensor"] = {"self": lambda grad: grad, "other": None}
    for name, arguments in LINEAR.items():
        rules[name] = {argument: shared(name, argument, epsilon) for argument in arguments}
    for name, pair in PRODUCTS.items():
        rules[name] = {argument: shared(name, argument, epsilon, place) for place, argument in enumerate(pair)}
    affine = {"weight": None, "bias": None}
    return of_operations(
        rules
        | {
            "batch_norm": rules["batch_norm"] | affine,
            "layer_norm": {"input": layer_norm(epsilon)} | affine,
            "group_norm": {"input": group_norm(epsilon)} | affine,
            "softmax": softmax,
            "glu": lambda grad, dim: torch.cat([grad, torch.zeros_like(grad)], dim),
            "scaled_dot_product_attention": Row({("query", "key", "value", "attn_mask"): attention(epsilon)}),
        }
    )


def lrp_epsilon(epsilon: float = 1e-6) -> dict[str, Any]:
    """LRP with the ε rule everywhere: relevance in proportion to contributions, R_j = Σ_k x_j·w_jk / (z_k ± ε)·R_k.

    Args:
        epsilon: absorbs what weak or contradictory units would pass on; 0.1 … 0.3 of a typical z gives sparser maps.

    Attention, softmax and products follow Achtibat et al., AttnLRP, 2024, section 3 (a product's relevance goes to its
    factors by halves); norms take their scale for a constant (Ali et al., XAI for Transformers, 2022, section 4).

    Source: Bach, Binder, Montavon, Klauschen, Müller, Samek, On Pixel-wise Explanations for Non-linear Classifier
    Decisions by Layer-wise Relevance Propagation, 2015, equation 58.

    >>> import torch, cutaway as ct
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False), torch.nn.ReLU())
    >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0, -1.0]]))
    >>> program = ct.capture(net, torch.ones(2, 2)).gradient(rules=ct.rules.lrp_epsilon())
    >>> program(torch.tensor([[1.0, 1.0]]), seed=lambda z: z).round(decimals=3)  # z = 2 = 3 − 1
    tensor([[ 3., -1.]])
    """
    return elsewhere(epsilon) | of_operations({name: layer_rule(epsilon_rule(epsilon), name) for name in WEIGHTED})


def lrp_alpha_beta(alpha: float = 2.0, beta: float = 1.0, epsilon: float = 1e-6) -> dict[str, Any]:
    """LRP with the αβ rule in layers with weights, the ε rule elsewhere.

    Args:
        alpha, beta: weights of the positive and the negative contributions; α − β = 1 conserves relevance.
        epsilon: of the ε rule.

    Raises:
        ArgumentError: α − β is not 1.

    Source: Bach et al., 2015, equation 60.
    """
    if abs(alpha - beta - 1) > 1e-9 or beta < 0:
        raise ArgumentError(f"the αβ rule conserves relevance for α − β = 1 and β ≥ 0, but got α = {alpha}, β = {beta}")
    made = {name: layer_rule(alpha_beta_rule(alpha, beta), name) for name in WEIGHTED}
    return elsewhere(epsilon) | of_operations(made)


def lrp_composite(graph: "Graph", epsilon: float = 1e-6, first: Rule = flat_rule) -> dict[Any, Any]:
    """LRP with a rule for each depth: ε in linear layers, z⁺ (α = 1, β = 0) in convolutions, a flat rule in the first.

    Args:
        graph: whose layers; the rules of the first ones are given node by node.
        epsilon: of the ε rule.
        first: the rule of the layers that read the input directly.

    Source: Kohlbrenner, Bauer, Nakajima, Binder, Samek, Lapuschkin, Towards Best Practice in Explaining Neural Network
    Decisions with LRP, 2020, section III (EpsilonPlusFlat).
    """
    rules: dict[Any, Any] = lrp_epsilon(epsilon)
    rules |= of_operations({name: layer_rule(alpha_beta_rule(1, 0), name) for name in WEIGHTED if name != "linear"})
    layers = [(node, name) for node in graph.nodes if (name := _layer(node))]
    deep: set[Node] = set()  # nodes that a layer stands before
    for node in graph.nodes:
        if any(source in deep or _layer(source) for source in node.inputs):
            deep.add(node)
    return rules | {node.name: layer_rule(first, name) for node, name in layers if node not in deep and moves(node)}


def _layer(node: Node) -> str | None:
    """The kind of layer a node is, if it has weights."""
    return next((name for name in names_of(node) if name in WEIGHTED), None) if node.op is not None else None
