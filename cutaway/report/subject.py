"""What a report is about: a run folder, read back into models, data and numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cutaway import graph as G
from cutaway.graph.cost import Cost


@dataclass(frozen=True)
class Subject:
    """A finished run.

    Attributes:
        folder: the run folder.
        name, data: names of the network and the data set.
        record: what run.json holds.
        history: columns of the history by name, one value per epoch.
        model, initial: the network with its kept weights, and as it was before training (None if not known).
        test_x, test_y: test inputs (N, …) and class indices (N,).
        train_x, train_y: some training examples, for gradients.
        classes: their names; empty when the network does not classify.
        sizes: number of examples by split.
        replicates: one row per seed: seed, best_epoch, accuracy, mistakes, seconds.
    """

    folder: Path
    name: str
    data: str
    record: Mapping[str, Any]
    history: Mapping[str, Sequence[float]]
    model: nn.Module
    initial: nn.Module | None
    test_x: Float[Tensor, "n ..."]
    test_y: Int[Tensor, " n"]
    train_x: Float[Tensor, "m ..."]
    train_y: Int[Tensor, " m"]
    classes: Sequence[str] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    best_epoch: int = 1
    loss_name: str = "cross-entropy"
    harder: str = ""
    seconds: float = 0.0
    status: str = "completed"
    replicates: Sequence[Mapping[str, Any]] = ()

    @property
    def images(self) -> bool:
        """Whether the inputs are images (N, C, H, W)."""
        return self.test_x.dim() == 4

    @cached_property
    def test_outputs(self) -> Float[Tensor, "n k"]:
        """The network's outputs on the whole test set, in evaluation mode."""
        with torch.no_grad():
            return torch.cat([self.model(part) for part in self.test_x.split(256)])

    @cached_property
    def graph(self) -> G.Graph:
        """The network as a computation graph."""
        return G.capture(self.model, self.test_x[:2])

    @cached_property
    def cost(self) -> Cost:
        """What one example costs, by node and module."""
        return self.graph.cost()

    def chosen(self, count: int) -> list[int]:
        """Pick test examples that take turns through the classes, the first of each class first."""
        by_class = [(self.test_y == k).nonzero()[:, 0].tolist() for k in range(int(self.test_y.max()) + 1)]
        turns = [examples[turn] for turn in range(count) for examples in by_class if turn < len(examples)]
        return turns[:count]
