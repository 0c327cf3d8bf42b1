"""What attention looks at: the weights of every attention in a model, and how they add up over its layers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway import graph as G
from cutaway.errors import ArgumentError
from cutaway.explain import attention_picture
from cutaway.explain.attribution import Attribution
from cutaway.explain.frame import Found, attribute, checked, explained, outputs
from cutaway.explain.layers import attention_nodes, upstream
from cutaway.explain.layouts import Layout, layouts
from cutaway.explain.objective import Objective, Of, Target
from cutaway.graph.nodes import bound_arguments
from cutaway.graph.table_attention import attention_weights
from cutaway.saving import save, save_arrays

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FUSE: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda weights: weights.mean(1),
    "max": lambda weights: weights.amax(1),
    "min": lambda weights: weights.amin(1),
}


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """The weights of every attention in a model.

    Attributes:
        weights: for each attention by its node's name, (N, heads, L, S): how much each of L queries takes from each of
            S keys; every row sums to 1. Where a model attends in windows, the windows stand in the batch.
        grid: how tokens stand for the places of an image; None where they do not.
    """

    weights: Mapping[str, Float[Tensor, "n heads l s"]]
    grid: Layout | None = None

    def rollout(self, heads: str = "mean") -> Float[Tensor, "n l l"]:
        """How much each token holds of each token of the input: the product over layers of (W + 1) / 2.

        Args:
            heads: how a layer's heads are fused: "mean", "max" or "min".

        Raises:
            ArgumentError: the attentions do not all go from the same tokens to the same tokens.

        Source: S. Abnar, W. Zuidema, Quantifying Attention Flow in Transformers, 2020, section 3.

        >>> weights = {"a": torch.full((1, 2, 2, 2), 0.5), "b": torch.eye(2).expand(1, 2, 2, 2)}
        >>> AttentionMaps(weights).rollout()
        tensor([[[0.7500, 0.2500],
                 [0.2500, 0.7500]]])
        """
        if heads not in FUSE:
            raise ArgumentError(f"heads={heads!r} is none of {', '.join(map(repr, FUSE))}")
        shapes = {(len(each), *each.shape[2:]) for each in self.weights.values()}
        if len(shapes) != 1 or len({*next(iter(shapes))[1:]}) != 1:
            listed = ", ".join(f"{name} {tuple(each.shape)}" for name, each in self.weights.items())
            raise ArgumentError(f"rollout follows the same tokens through all layers, but the attentions are {listed}")
        flow = None
        for each in self.weights.values():
            fused = FUSE[heads](each)  # (N, T, T)
            step = fused / fused.sum(-1, keepdim=True) + torch.eye(fused.shape[-1], dtype=each.dtype).to(each)
            flow = step / 2 if flow is None else step @ flow / 2
        return flow  # type: ignore[return-value]

    def plot(self, example: int = 0, **options: Any) -> "Figure":
        """Draw every head of every layer for one example; see `cutaway.explain.attention_picture.draw`."""
        return attention_picture.draw(self, example, **options)

    def save(self, path: str | Path, example: int = 0, **options: Any) -> Path:
        """Write the picture (.png, .svg, .pdf) or the numbers (.npz).

        Raises:
            ArgumentError: the ending is none of these.
        """
        numbers = partial(save_arrays, tensors=self.weights, about={"grid": str(self.grid)})
        return save(path, lambda: self.plot(example, **options), numbers, ".npz")


def attention_maps(
    model: nn.Module | Callable, x: Float[Tensor, "n ..."], layers: Sequence[str] | None = None
) -> AttentionMaps:
    """Read the weights of every attention, fused (`scaled_dot_product_attention`) or written out.

    Args:
        model: a module, or a function of one tensor; it is left as it is.
        x: inputs (N, …).
        layers: only attentions whose name begins with one of these; None for all.

    Raises:
        ArgumentError: the model has no such attention.

    >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> [tuple(each.shape) for each in attention_maps(layer, torch.rand(2, 5, 8)).weights.values()]
    [(2, 2, 5, 5)]
    """
    x = checked(x)
    return _read(G.capture(model, x), x, layers)


def attention_rollout(
    model: nn.Module | Callable,
    x: Float[Tensor, "n ..."],
    target: Target = None,
    *,
    heads: str = "mean",
    token: int | None = None,
    of: Of = "logit",
    score: bool = True,
    seed: int = 0,
) -> Attribution:
    """Follow attention through all layers, and see how much of each place the class token holds in the end.

    Args:
        model, x, score, seed: as for `gradient`.
        target, of: recorded with the result; attention is the same whatever is explained.
        heads: how heads are fused: "mean", "max" or "min".
        token: the token whose view is shown; None for the first where class tokens stand before those of the places,
            else the mean over all.

    Returns:
        values (N, 1, h, w) where tokens stand for places of an image, else (N, T).

    Raises:
        ArgumentError: the model has no attention, or not always between the same tokens.

    Source: S. Abnar, W. Zuidema, Quantifying Attention Flow in Transformers, 2020, section 3.

    >>> class Tagger(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer, self.head = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 3)
    ...     def forward(self, x):
    ...         return self.head(self.layer(x).mean(1))
    >>> attention_rollout(Tagger(), torch.rand(2, 5, 8)).values.sum(1).round(decimals=4)
    tensor([1., 1.])
    """
    settings = {"heads": heads, "token": token}
    return attribute("attention_rollout", rollout_map, model, x, target, of, settings=settings, score=score, seed=seed)


def rollout_map(graph: G.Graph, x: Tensor, goal: Objective, heads: str = "mean", token: int | None = None) -> Found:
    """Compute attention rollout on a graph."""
    maps = _read(graph, x, None)
    flow, grid = maps.rollout(heads), maps.grid
    token = 0 if token is None and grid is not None and grid.extra else token
    if token is not None and not -flow.shape[1] <= token < flow.shape[1]:
        raise ArgumentError(f"token={token}: there are {flow.shape[1]} tokens")
    row = flow.mean(1) if token is None else flow[:, token]  # (N, T)
    values = row if grid is None else grid.as_map(row[..., None])
    return Found(values, explained(goal, outputs(graph, x)))


def _read(graph: G.Graph, x: Tensor, layers: Sequence[str] | None) -> AttentionMaps:
    used = upstream(graph.outputs[:1])
    nodes = [node for node in attention_nodes(graph) if node in used]
    chosen = [node for node in nodes if layers is None or any(node.name.startswith(each) for each in layers)]
    if not chosen:
        listed = ", ".join(repr(node.name) for node in nodes) or "none"
        which = "" if layers is None else f" whose name begins with {' or '.join(map(repr, layers))}"
        raise ArgumentError(f"the model has no attention{which}; it has {listed}")
    arguments = {node: _asked(node) for node in chosen}
    needed = list(dict.fromkeys(each for given in arguments.values() for each in given.values() if _is_node(each)))
    values, _ = graph.gradient(of="output", wrt=[], values=needed).evaluate(x)
    weights = {
        node.name: _weights({name: values[each] if _is_node(each) else each for name, each in given.items()}, len(x))
        for node, given in arguments.items()
    }
    return AttentionMaps(weights, _grid(graph, weights))


def _asked(node: G.Node) -> dict[str, Any]:
    """What the weights are computed from; those themselves, where they are written out."""
    if node.op_name == "softmax":
        return {"weights": node}
    given = bound_arguments(node)
    return {name: given.get(name) for name in ("query", "key", "attn_mask", "is_causal", "scale", "enable_gqa")}


def _weights(given: dict[str, Any], n: int) -> Float[Tensor, "n heads l s"]:
    if "weights" in given:
        found = given["weights"]
    else:
        query, key = given["query"], given["key"]
        if given["enable_gqa"]:
            key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        found, _ = attention_weights(query, key, given["attn_mask"], given["is_causal"], given["scale"])
    return found if found.dim() == 4 else found.reshape(n, -1, *found.shape[-2:])  # (N · heads, L, S)


def _grid(graph: G.Graph, weights: Mapping[str, Tensor]) -> Layout | None:
    """The layout of the tokens that are attended to, if they stand for places."""
    tokens = next(iter(weights.values())).shape[-1]
    found = (each for each in layouts(graph).values() if each.kind == "tokens")
    return next((each for each in found if each.extra + each.places == tokens), None)


def _is_node(value: Any) -> bool:
    return isinstance(value, G.Node)
