"""Vanishing and exploding gradients: how adjoints change from layer to layer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway import graph as G
from cutaway.diagnose import picture
from cutaway.diagnose.layers import Layer, layers
from cutaway.diagnose.loss import Loss, adjoint_of_outputs
from cutaway.diagnose.singular import Singular, singular
from cutaway.diagnose.units import example_norm, precise
from cutaway.diagnose.verdict import HEALTHY, Finding, called, judge, summary
from cutaway.errors import ArgumentError
from cutaway.graph.walks import pullback
from cutaway.progress import track
from cutaway.rng import seeded
from cutaway.saving import save_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class DepthLayer:
    """How gradients arrive at one layer.

    Attributes:
        name: the layer, as in the graph.
        activation: its activation, "" if there is none.
        shape: of its values; "N" is the batch.
        gradient_norm: Euclidean norm of an example's ∂loss/∂values, root mean square over examples.
        weight_gradient_norm: Euclidean norm of the gradient of its parameters (loss averaged over examples); None where
            it has none.
        jacobian: singular values of ∂(its values)/∂(values of the layer before, on the trunk); None inside a branch,
            where paths run beside the layer.
        finding: the verdict on this layer.
    """

    name: str
    activation: str
    shape: tuple
    gradient_norm: float
    weight_gradient_norm: float | None
    jacobian: Singular | None
    finding: Finding

    @property
    def verdict(self) -> str:
        """One word: "healthy", "vanishing", "exploding" or "not finite"."""
        return self.finding.word


@dataclass(frozen=True, eq=False)
class Depth:
    """Gradient norms and Jacobians of every layer, from the input to the output.

    Attributes:
        layers: one entry for each layer.
        settings: the arguments.
        seed: fixes random directions and probes.
    """

    layers: tuple[DepthLayer, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def ratio(self) -> float:
        """The gradient norm at the first layer over that at the last."""
        first, last = self.layers[0].gradient_norm, self.layers[-1].gradient_norm
        return first / last if last else 1.0 if first == 0 else float("inf")

    @property
    def factor(self) -> float:
        """By how much the gradient norm changes from a layer to the one before it, geometric mean."""
        return self.ratio ** (1 / max(len(self.layers) - 1, 1))

    @property
    def verdict(self) -> str:
        """The whole network in words."""
        first, last = called(self.layers[0].name), called(self.layers[-1].name)
        words = f"the gradient at {first} is {self.ratio:.2g} × that at {last}, {self.factor:.2f} × per layer"
        found = summary([layer.finding for layer in self.layers], words)
        if not found.startswith(HEALTHY):
            found = f"{found[:-1]}; {self.factor:.2g} × per layer."
        largest = [float(layer.jacobian.largest.mean()) for layer in self.layers if layer.jacobian is not None]
        if largest and max(largest) < 1:
            found = f"{found[:-1]}; the largest singular value of every layer is below 1 (up to {max(largest):.2g})."
        return found

    def rows(self) -> list[dict[str, Any]]:
        """One row for each layer: gradient norms, singular values (means over examples), verdict."""
        return [
            {
                "name": layer.name,
                "activation": layer.activation,
                "gradient_norm": layer.gradient_norm,
                "weight_gradient_norm": layer.weight_gradient_norm,
                "largest_singular_value": None if layer.jacobian is None else float(layer.jacobian.largest.mean()),
                "gain": None if layer.jacobian is None else float(layer.jacobian.gain.mean()),
                "verdict": layer.verdict,
            }
            for layer in self.layers
        ]

    def plot(self) -> "Figure":
        """Draw gradient norms and singular values by layer."""
        return picture.depth(self)

    def save(self, path: str | Path) -> Path:
        """Write the picture (.png, .svg, .pdf) or the rows (.json)."""
        numbers = {"verdict": self.verdict, "seed": self.seed, "layers": self.rows()}
        return save_json(path, self.plot, lambda: numbers)


def depth(
    model: nn.Module | Callable,
    x: Float[Tensor, "n ..."],
    y: Tensor | None = None,
    *,
    loss: Loss = None,
    examples: int = 2,
    exact: int = 256,
    iterations: int = 20,
    train: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Depth:
    """Measure how gradients change on their way back: gradient norm and Jacobian singular values of every layer.

    A layer is "vanishing" if its gradient norm is below 1e-3 of the last layer's, "exploding" if it is above 1e3 times
    the last layer's. Where the largest singular value of every layer's Jacobian is below 1, gradients must vanish with
    depth.

    Args:
        model: a module, or a function of one tensor.
        x: inputs (N, …).
        y: class indices (N,), or regression targets; None differentiates a random direction of the outputs.
        loss: "cross_entropy", "squared_error" or a function (outputs, y) -> number; by default, what fits y.
        examples: for how many examples singular values are computed; 0 for none.
        exact: all singular values are computed for layers with at most this many inputs or outputs; of larger ones the
            largest (power iteration) and the mean.
        iterations: steps of power iteration.
        train: look at the network as it trains, with batch statistics and dropout; then there are no singular values,
            since each example's values depend on the others. In evaluation mode a network whose running statistics are
            still those it was made with may look worse than it is.
        seed: fixes the random direction, the probes, and dropout.
        progress: whether to show a progress bar on a terminal.

    Raises:
        ArgumentError: the model has no layers, or y does not fit.

    Source: Y. Bengio, P. Simard, P. Frasconi, Learning Long-Term Dependencies with Gradient Descent is Difficult, 1994;
    A. M. Saxe, J. L. McClelland, S. Ganguli, Exact Solutions to the Nonlinear Dynamics of Learning, 2014 (the
    Jacobian's singular values).

    >>> net = nn.Sequential(*[part for _ in range(8) for part in (nn.Linear(10, 10), nn.Sigmoid())], nn.Linear(10, 2))
    >>> depth(net, torch.rand(4, 10)).layers[0].verdict
    'vanishing'
    """
    graph, examples = G.capture(model, x, train=train), 0 if train else examples
    found = layers(graph)
    if not found:
        raise ArgumentError("the model has no layers with weights or activations to look at")
    weights = list(dict.fromkeys(weight for layer in found for weight in layer.weights))
    wanted = [*dict.fromkeys([*(layer.node for layer in found), *weights])]
    with seeded(seed, "dropout"):
        _, adjoints = graph.gradient(of="output", wrt=wanted).evaluate(x, seed=adjoint_of_outputs(y, loss, seed))
    norms = [example_norm(adjoints[layer.node], len(x)) for layer in found]
    jacobians = _jacobians(graph, found, x[:examples], exact, iterations, seed, progress) if examples else {}
    rows = [
        DepthLayer(
            name=layer.name,
            activation=layer.activation,
            shape=tuple(layer.node.shape or ()),
            gradient_norm=norm,
            weight_gradient_norm=_weight_norm([adjoints[weight] for weight in layer.weights], len(x)),
            jacobian=jacobians.get(layer.name),
            finding=judge(layer.name, norm / norms[-1] if norms[-1] else 1.0, 1.0),
        )
        for layer, norm in zip(found, norms, strict=True)
    ]
    settings = {"loss": loss, "examples": examples, "exact": exact, "iterations": iterations, "train": train}
    return Depth(tuple(rows), settings, seed)


def _jacobians(
    graph: G.Graph, found: list[Layer], x: Tensor, exact: int, iterations: int, seed: int, progress: bool
) -> dict[str, Singular]:
    """Singular values of each trunk layer by the trunk layer before it, the input standing before the first."""
    trace, before, results = graph.run(x), graph.inputs[0], {}
    trunk = [layer for layer in found if layer.trunk and _per_example(layer.node)]
    if not before.differentiable:
        before, trunk = (trunk[0].node, trunk[1:]) if trunk else (before, [])
    for layer in track(trunk, "singular values", progress):
        between = graph.nodes[before.index + 1 : layer.node.index + 1]
        pull = pullback(trace, layer.node, before, between)
        of, wrt = trace[layer.node].value, trace[before].value
        results[layer.name] = singular(pull, of, wrt, exact=exact, iterations=iterations, seed=seed)
        before = layer.node
    return results


def _per_example(node: G.Node) -> bool:
    return bool(node.shape) and (isinstance(node.shape[0], str) or node.shape[0] is None) and node.shape[0] == "N"


def _weight_norm(gradients: list[Tensor], examples: int) -> float | None:
    if not gradients:
        return None
    return float(torch.stack([precise(gradient).square().sum() for gradient in gradients]).sum().sqrt()) / examples
