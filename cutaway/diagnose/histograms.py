"""Activations and gradients at every layer, as histograms with a verdict."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cutaway import graph as G
from cutaway.diagnose import picture
from cutaway.diagnose.layers import Layer, layers
from cutaway.diagnose.loss import Loss, adjoint_of_outputs
from cutaway.diagnose.units import dead_share, example_norm, root_mean_square, saturated_share
from cutaway.diagnose.verdict import Finding, called, judge, summary
from cutaway.errors import ArgumentError
from cutaway.rng import seeded
from cutaway.saving import save_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Bins of log10 |gradient|, four to a decade; magnitudes outside 1e-16 … 1e8 are counted in the outermost ones
DECADES = torch.linspace(-16.0, 8.0, 97)


@dataclass(frozen=True, eq=False)
class LayerHistogram:
    """The values and adjoints of one layer.

    Attributes:
        name: the layer, as in the graph.
        activation: its activation ("relu"), "" if there is none.
        shape: of its values; "N" is the batch.
        values: counts of its values (B,).
        value_edges: the edges of their bins (B + 1,), the same for all layers but the outputs; values outside lie in
            the outermost bins.
        gradients: counts of log10 |∂loss/∂value| (G,); zeros are left out.
        gradient_edges: the edges of their bins (G + 1,), the same for all layers.
        mean, std: of the values.
        gradient_norm: Euclidean norm of an example's adjoints, root mean square over examples.
        zero_gradients: share of adjoints that are exactly zero.
        dead: share of ReLU units that are zero for every example and place; None where there is no ReLU.
        saturated: share of values where a saturating activation is flat; None where nothing saturates.
        finding: the verdict on this layer.
    """

    name: str
    activation: str
    shape: tuple
    values: Int[Tensor, " b"]
    value_edges: Float[Tensor, " e"]
    gradients: Int[Tensor, " g"]
    gradient_edges: Float[Tensor, " f"]
    mean: float
    std: float
    gradient_norm: float
    zero_gradients: float
    dead: float | None
    saturated: float | None
    finding: Finding

    @property
    def verdict(self) -> str:
        """One word (or two): "healthy", "vanishing", "exploding", "dead ReLUs", "saturated" or "not finite"."""
        return self.finding.word


@dataclass(frozen=True, eq=False)
class Histograms:
    """Activation and gradient histograms of every layer, from the input to the output.

    Attributes:
        layers: one entry for each layer.
        settings: the arguments.
        seed: fixes the random direction where there were no targets.
    """

    layers: tuple[LayerHistogram, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def verdict(self) -> str:
        """The whole network in words."""
        first, last = self.layers[0], self.layers[-1]
        share = first.gradient_norm / last.gradient_norm if last.gradient_norm else 0.0
        healthy = f"the gradient at {called(first.name)} is {share:.2g} × that at {called(last.name)}"
        return summary([layer.finding for layer in self.layers], healthy)

    def rows(self) -> list[dict[str, Any]]:
        """One row for each layer: its numbers and its verdict."""
        kept = ("name", "activation", "mean", "std", "gradient_norm", "zero_gradients", "dead", "saturated", "verdict")
        return [{name: getattr(layer, name) for name in kept} for layer in self.layers]

    def plot(self, before: "Histograms | None" = None) -> "Figure":
        """Draw the layers from top (input) to bottom (output).

        Args:
            before: an earlier result of the same network with the same edges (`like=`), drawn as an outline.
        """
        return picture.ridges(self, before)

    def save(self, path: str | Path) -> Path:
        """Write the picture (.png, .svg, .pdf) or the numbers (.json)."""
        return save_json(path, self.plot, self._numbers)

    def _numbers(self) -> dict[str, Any]:
        kept = ("values", "value_edges", "gradients", "gradient_edges")
        counts = [{name: getattr(layer, name).tolist() for name in kept} for layer in self.layers]
        rows = [row | more for row, more in zip(self.rows(), counts, strict=True)]
        return {"verdict": self.verdict, "seed": self.seed, "layers": rows}


def histograms(
    model: nn.Module | Callable,
    x: Float[Tensor, "n ..."],
    y: Tensor | None = None,
    *,
    loss: Loss = None,
    bins: int = 64,
    like: Histograms | None = None,
    train: bool = False,
    seed: int = 0,
) -> Histograms:
    """Count the activations and gradients of every layer, and say what is wrong with them.

    A layer is "vanishing" if its gradient norm is below 1e-3 of the last layer's, or its values below 1e-3 of the first
    layer's; "exploding" above 1e3; "dead ReLUs" if at least 20 % of its units are zero for every example; "saturated"
    if at least half of its values lie where the slope is below a tenth of its largest.

    Args:
        model: a module, or a function of one tensor.
        x: inputs (N, …), best a hundred or more: a unit that is zero for all of them counts as dead.
        y: class indices (N,), or regression targets; None differentiates a random direction of the outputs.
        loss: "cross_entropy", "squared_error" or a function (outputs, y) -> number; by default, what fits y.
        bins: number of bins of the values.
        like: an earlier result whose bin edges are used again, so that the two can be compared.
        train: look at the network as it trains, with batch statistics and dropout. In evaluation mode a network whose
            running statistics are still those it was made with may look worse than it is.
        seed: fixes the random direction, and dropout.

    Raises:
        ArgumentError: the model has no layers, bins < 2, or y does not fit.

    Source: X. Glorot, Y. Bengio, Understanding the Difficulty of Training Deep Feedforward Neural Networks, 2010,
    figures 2–4 and 6–7.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> result = histograms(net, torch.rand(32, 4), torch.zeros(32, dtype=torch.long))
    >>> [(layer.name, layer.verdict) for layer in result.layers]
    [('0', 'healthy'), ('2', 'healthy')]
    """
    if bins < 2:
        raise ArgumentError(f"histograms need at least 2 bins, got {bins}")
    graph = G.capture(model, x, train=train)
    found = layers(graph)
    if not found:
        raise ArgumentError("the model has no layers with weights or activations to look at")
    nodes = [layer.node for layer in found]
    program = graph.gradient(of="output", wrt=nodes, values=nodes)
    with seeded(seed, "dropout"):
        values, adjoints = program.evaluate(x, seed=adjoint_of_outputs(y, loss, seed))
    edges = _edges([values[node] for node in nodes], bins) if like is None else _same_edges(like, found)
    norms = [example_norm(adjoints[node], len(x)) for node in nodes]
    sizes = [root_mean_square(values[node]) for node in nodes]
    rows = []
    for layer, norm, size, value_edges in zip(found, norms, sizes, edges, strict=True):
        value, adjoint = values[layer.node], adjoints[layer.node]
        dead, saturated = dead_share(layer, value), saturated_share(layer, value)
        rows.append(
            LayerHistogram(
                name=layer.name,
                activation=layer.activation,
                shape=tuple(layer.node.shape or ()),
                values=_count(value, value_edges),
                value_edges=value_edges,
                gradients=_count(adjoint[adjoint != 0].abs().log10(), DECADES),
                gradient_edges=DECADES,
                mean=float(value.mean()),
                std=float(value.std(correction=0)),
                gradient_norm=norm,
                zero_gradients=float((adjoint == 0).float().mean()),
                dead=dead,
                saturated=saturated,
                finding=judge(layer.name, _ratio(norm, norms[-1]), _ratio(size, sizes[0]), dead, saturated),
            )
        )
    settings = {"loss": loss, "bins": bins, "train": train, "examples": len(x)}
    return Histograms(tuple(rows), settings, seed)


def _edges(values: list[Tensor], bins: int) -> list[Float[Tensor, " e"]]:
    """Each layer's edges: shared, so that layers can be compared, but for the outputs, whose scale is their own."""
    if len(values) == 1:
        return [_range(values, bins)]
    return [_range(values[:-1], bins)] * (len(values) - 1) + [_range(values[-1:], bins)]


def _same_edges(like: Histograms, found: list[Layer]) -> list[Float[Tensor, " e"]]:
    """An earlier result's edges."""
    if [layer.name for layer in like.layers] != [layer.name for layer in found]:
        raise ArgumentError("`like` holds the histograms of another network: the layers' names differ")
    return [layer.value_edges for layer in like.layers]


def _range(values: list[Tensor], bins: int) -> Float[Tensor, " e"]:
    """Edges that hold 99.8 % of the values of every layer given."""
    lows, highs = [0.0], [0.0]
    for value in values:
        flat = value.flatten()
        flat = flat[:: max(1, len(flat) // 100_000)]  # the quantiles of a sample are near enough
        flat = flat[torch.isfinite(flat)].sort().values
        if len(flat):
            lows.append(float(flat[int(0.001 * (len(flat) - 1))]))
            highs.append(float(flat[round(0.999 * (len(flat) - 1))]))
    low, high = min(lows), max(highs)
    return torch.linspace(low, high if high > low else low + 1.0, bins + 1)


def _count(values: Tensor, edges: Float[Tensor, " e"]) -> Int[Tensor, " b"]:
    """How many values lie in each bin; those outside lie in the outermost bins, NaN and infinity in none."""
    inside = values.flatten()
    low, high = float(edges[0]), float(edges[-1])
    inside = inside[torch.isfinite(inside)].clamp(low, high)
    return torch.histc(inside.float(), len(edges) - 1, low, high).long().cpu()


def _ratio(value: float, reference: float) -> float:
    return value / reference if reference else 1.0 if value == 0 else float("inf")
