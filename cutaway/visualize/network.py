"""A network asked for layers' values, and for the gradient of an objective by the image."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway import graph as G
from cutaway.errors import ArgumentError
from cutaway.visualize.objective import IMAGE, Objective, Values


def _upward(grad: Tensor, self: Tensor) -> Tensor:
    """A rectifier that is shut lets through what would open it."""
    return grad * ((self > 0) | (grad > 0))


def _upward6(grad: Tensor, self: Tensor) -> Tensor:
    return grad * (((self > 0) & (self < 6)) | ((self <= 0) & (grad > 0)))


def _upward_between(grad: Tensor, self: Tensor, min_val: float, max_val: float) -> Tensor:
    return grad * (((self > min_val) & (self < max_val)) | ((self <= min_val) & (grad > 0)))


# Source: tensorflow/lucid, misc/redirected_relu_grad.py, 2018
REDIRECTED: Mapping[str, Any] = {"relu": _upward, "relu6": _upward6, "hardtanh": _upward_between}


def nearest_rectifiers(nodes: Iterable[G.Node]) -> list[G.Node]:
    """The rectifiers met first on every way from some nodes back to the input."""
    found, waiting, met = [], list(nodes), set()
    while waiting:
        node = waiting.pop()
        if node in met:
            continue
        met.add(node)
        if node.op is not None and node.op_name in REDIRECTED:
            found.append(node)
        else:
            waiting += node.inputs
    return found


@dataclass(frozen=True, eq=False)
class Network:
    """The part of a model that some layers need, for images of one size.

    Attributes:
        graph: the model's graph, after passes where they keep the layers asked for.
        plain: the graph as it was captured.
        nodes: by the names as they were asked for.
    """

    graph: G.Graph
    plain: G.Graph
    nodes: dict[str, G.Node]

    def values(self, x: Float[Tensor, "n ..."]) -> dict[str, Tensor]:
        """The layers' values; no further than the deepest."""
        first = next(iter(self.nodes))
        node = self.nodes[first]
        program = self.graph.gradient(of=node, wrt=[node], values=list(self.nodes.values()))
        found, _ = program.evaluate(x)
        return {name: found[node] for name, node in self.nodes.items()}

    def gradient(
        self, x: Float[Tensor, "n ..."], objective: Objective, copies: int = 1, redirect: bool = False
    ) -> tuple[Float[Tensor, " m"], Float[Tensor, "n ..."]]:
        """The objective's value of each image (its mean over copies) and the gradient of their sum by the input.

        Args:
            x: `copies` whole batches, one after the other.
            objective: without terms of the image itself.
            copies: how often each image is there.
            redirect: let shut rectifiers pass what would open them; only those next to the layers, so that below them
                the gradient is that of the network.
        """
        graph = self.plain if redirect else self.graph
        names: dict[str, list[str]] = {}  # by node, as two names may mean the same
        for name in objective.layers:
            names.setdefault(self.nodes[name].name, []).append(name)
        nodes = {name: graph[name] for name in names}
        rules = {node: REDIRECTED[node.op_name] for node in nearest_rectifiers(nodes.values())} if redirect else None
        program = graph.gradient(of=list(nodes.values()), wrt=graph.inputs[0], rules=rules)
        known = {} if objective.separable else self.values(x)
        seeds = tuple(_seed(objective, asked, known, copies) for asked in names.values())
        found, adjoints = program.evaluate(x, seed=seeds)
        values = {each: found[nodes[name]] for name, asked in names.items() for each in asked}
        total = torch.stack([objective.value(batch) for batch in split(values, copies)]).mean(0)
        return total, next(iter(adjoints.values()))


def network(model: nn.Module | Callable, x: Float[Tensor, "n ..."], layers: Iterable[str]) -> Network:
    """Capture a model for images of the size of x, and find layers in it.

    Raises:
        LookupFailure: no node or module has one of the names.
        ArgumentError: a layer's value is not real.
    """
    plain = G.capture(model, x)
    nodes = {name: plain[name] for name in layers}
    if not nodes:
        raise ArgumentError("the objective looks at no layer; add a unit, channel, layer or class")
    for name, node in nodes.items():
        if node.shape is None or not node.differentiable:
            raise ArgumentError(f"layer {name!r} holds {node.dtype or 'no tensor'}: an objective needs real numbers")
    faster = plain.optimized()
    if all(node.name in faster.by_name for node in nodes.values()):
        return Network(faster, plain, {name: faster[node.name] for name, node in nodes.items()})
    return Network(plain, plain, nodes)


def home(model: nn.Module | Callable) -> dict[str, Any]:
    """The device and dtype of a model's parameters, for tensors made for it."""
    tensors = [p for p in model.parameters() if p.is_floating_point()] if isinstance(model, nn.Module) else []
    return {"device": tensors[0].device, "dtype": tensors[0].dtype} if tensors else {}


def split(values: Values, copies: int) -> list[Values]:
    """Values of several whole batches, batch by batch."""
    if copies == 1:
        return [values]
    parts = {name: value.chunk(copies) for name, value in values.items()}
    return [{name: chunks[copy] for name, chunks in parts.items()} for copy in range(copies)]


def _seed(objective: Objective, names: list[str], known: Values, copies: int) -> Callable[[Tensor], Tensor]:
    """The derivative of the objective's mean over copies by one layer's value."""
    own = objective.part(lambda term: bool(term.layers & set(names)))

    def total(z: Tensor) -> Tensor:
        values = {**known, **dict.fromkeys(names, z)}
        return torch.stack([own.value(batch).sum() for batch in split(values, copies)]).mean()

    return lambda z: torch.func.grad(total)(z)


def of_layers(objective: Objective) -> Objective:
    """The terms that look at layers.

    Raises:
        ArgumentError: a term multiplies the image itself with a layer.
    """
    if any(IMAGE in term.layers and len(term.layers) > 1 for term in objective.terms):
        raise ArgumentError(f"{objective.words}: priors on the image add to objectives, they do not multiply with them")
    return objective.part(lambda term: IMAGE not in term.layers)


def of_image(objective: Objective) -> Objective:
    """The terms that look at the image itself."""
    return objective.part(lambda term: IMAGE in term.layers)
