"""Dead units: ReLUs that are zero for every example of a data set."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor, nn

from cutaway import graph as G
from cutaway.diagnose import picture
from cutaway.diagnose.layers import layers
from cutaway.diagnose.units import active_units, rectifier
from cutaway.diagnose.verdict import DEAD, called
from cutaway.errors import ArgumentError
from cutaway.progress import track
from cutaway.saving import save_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class DeadLayer:
    """The units of one layer that ends in a ReLU.

    Attributes:
        name: the layer, as in the graph.
        active: share of examples and places at which each unit is above zero (U,).
        dead: indices of the units that never are.
    """

    name: str
    active: Float[Tensor, " u"]
    dead: tuple[int, ...]

    @property
    def share(self) -> float:
        """Share of dead units."""
        return len(self.dead) / len(self.active)


@dataclass(frozen=True, eq=False)
class DeadUnits:
    """Dead units by layer, from the input to the output.

    Attributes:
        layers: one entry for each layer that ends in a ReLU.
        examples: how many examples were looked at.
        settings: the arguments.
    """

    layers: tuple[DeadLayer, ...]
    examples: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Share of dead units in the whole network."""
        units = sum(len(layer.active) for layer in self.layers)
        return sum(len(layer.dead) for layer in self.layers) / units if units else 0.0

    @property
    def verdict(self) -> str:
        """The whole network in words."""
        if not self.layers:
            return "healthy: the network has no ReLUs, so no unit can die."
        worst = max(self.layers, key=lambda layer: layer.share)
        words = f"{len(worst.dead)} of {len(worst.active)} units of {called(worst.name)}"
        if worst.share >= DEAD:
            return f"dead ReLUs: {words} are zero for all {self.examples} examples."
        if worst.dead:
            return f"healthy: few ReLUs are dead ({words}, the most of any layer)."
        return f"healthy: every ReLU is above zero for some of {self.examples} examples."

    def rows(self) -> list[dict[str, Any]]:
        """One row for each layer: units, dead units and their share."""
        return [
            {"name": layer.name, "units": len(layer.active), "dead": len(layer.dead), "share": layer.share}
            for layer in self.layers
        ]

    def plot(self) -> "Figure":
        """Draw how often units are active, by layer."""
        return picture.dead(self)

    def save(self, path: str | Path) -> Path:
        """Write the picture (.png, .svg, .pdf) or the numbers (.json)."""
        rows = [row | {"which": layer.dead} for row, layer in zip(self.rows(), self.layers, strict=True)]
        numbers = {"verdict": self.verdict, "examples": self.examples, "layers": rows}
        return save_json(path, self.plot, lambda: numbers)


def dead_units(model: nn.Module | Callable, data: Any, *, batch_size: int = 256, progress: bool = True) -> DeadUnits:
    """Find the ReLU units that are zero for every example of a data set.

    A dead unit passes no gradient, so training cannot bring it back; a leaky ReLU can recover. Units are channels for
    maps (N, C, H, W), which count as active if any place is, and features otherwise. At least 20 % in a layer is called
    "dead ReLUs".

    Args:
        model: a module, or a function of one tensor.
        data: inputs (N, …); an object with inputs `.x`; or an iterable of batches (inputs, or tuples that begin
            with inputs), which is gone through once.
        batch_size: examples in one pass, where data is one tensor.
        progress: whether to show a progress bar on a terminal.

    Raises:
        ArgumentError: there is no example, or the data are of no known kind.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> _ = nn.init.constant_(net[0].bias, -100.0)
    >>> dead_units(net, torch.rand(16, 2)).verdict
    'dead ReLUs: 3 of 3 units of layer 0 are zero for all 16 examples.'
    """
    examples, counts, places, names = 0, {}, {}, {}
    for x in track(batches(data, batch_size), "dead units", progress):
        graph = G.capture(model, x)
        found = [layer for layer in layers(graph) if rectifier(layer)]
        nodes = [layer.node for layer in found]
        values = graph.gradient(of="output", wrt=[], values=nodes).evaluate(x)[0]
        for layer in found:
            value = values[layer.node]
            active = active_units(layer, value).cpu()
            counts[layer.name] = counts.get(layer.name, 0) + active
            places[layer.name] = places.get(layer.name, 0) + value.numel() // len(active)
            names[layer.name] = layer
        examples += len(x)
    if not examples:
        raise ArgumentError("there is no example in the data")
    rows = [
        DeadLayer(name, counts[name].double() / places[name], tuple((counts[name] == 0).nonzero()[:, 0].tolist()))
        for name in names
    ]
    return DeadUnits(tuple(rows), examples, {"batch_size": batch_size})


def batches(data: Any, batch_size: int) -> Iterable[Float[Tensor, "n ..."]]:
    """Read data as batches of inputs.

    >>> import torch
    >>> [len(x) for x in batches(torch.zeros(5, 2), 3)]
    [3, 2]
    """
    inputs = data if isinstance(data, Tensor) else getattr(data, "x", None)
    if isinstance(inputs, Tensor):
        return inputs.split(batch_size)
    if not isinstance(data, Iterable):
        raise ArgumentError(
            f"data must be a tensor, a data set with inputs `.x` or an iterable, got {type(data).__name__}"
        )
    return _first_parts(data)


def _first_parts(data: Iterable) -> Iterator[Tensor]:
    for batch in data:
        x = batch[0] if isinstance(batch, tuple | list) else batch
        if not isinstance(x, Tensor):
            raise ArgumentError(f"a batch must be a tensor or a tuple with the inputs first, got {type(x).__name__}")
        yield x
