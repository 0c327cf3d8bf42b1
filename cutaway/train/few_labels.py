"""Learning with few labels: pseudo-labels, and pre-training without labels by contrast."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cutaway.errors import ArgumentError
from cutaway.rng import seeded
from cutaway.train.batches import Augment, make_source
from cutaway.train.loop import fit
from cutaway.train.measure import placement, predict
from cutaway.train.results import Run


@dataclass(frozen=True)
class PseudoLabels:
    """What training with pseudo-labels gave.

    Attributes:
        runs: the first training, on labels alone, and one per round after it.
        chosen: which unlabelled examples were used in the last round, `(M,)`.
        labels: what they were taken for, `(M,)`.
    """

    runs: tuple[Run, ...]
    chosen: Bool[Tensor, " m"]
    labels: Int[Tensor, " m"]


def pseudo_labels(
    make_model: Callable[[], nn.Module],
    train: Any,
    unlabelled: Float[Tensor, "m ..."],
    validation: Any = None,
    test: Any = None,
    *,
    rounds: int = 2,
    confidence: float = 0.95,
    **settings: Any,
) -> PseudoLabels:
    """Train on few labels, take the sure predictions on unlabelled examples for labels, and train again.

    Args:
        make_model: function to a new network; each round starts anew.
        train: the labelled examples, a Dataset or a pair (x, y).
        unlabelled: examples `(M, …)` without labels.
        validation, test: as in `fit`.
        rounds: trainings with pseudo-labels, at least 1.
        confidence: least softmax probability of a prediction that is believed, in (0, 1).
        settings: anything `fit` takes.

    Raises:
        ArgumentError: rounds or confidence are out of range.

    Source: Lee, Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural Networks, 2013.

    >>> from cutaway.rng import generator
    >>> y = torch.arange(400) // 200
    >>> x = torch.randn(400, 2, generator=generator(0)) + 6 * y[:, None] - 3
    >>> few = torch.tensor([0, 1, 398, 399])
    >>> make = lambda: nn.Linear(2, 2)
    >>> found = pseudo_labels(make, (x[few], y[few]), x, test=(x, y), lr=0.1, epochs=30, progress=False)
    >>> len(found.runs), found.runs[-1].test["accuracy"] > 0.95
    (3, True)
    """
    if rounds < 1 or not 0 < confidence < 1:
        raise ArgumentError(f"rounds={rounds}, confidence={confidence}: expected rounds ≥ 1 and confidence in (0, 1)")
    known = (train.x, train.y) if hasattr(train, "x") else (torch.as_tensor(train[0]), torch.as_tensor(train[1]))
    runs = [fit(make_model(), known, validation, test, **settings)]
    chosen = torch.zeros(len(unlabelled), dtype=torch.bool)
    labels = torch.zeros(len(unlabelled), dtype=torch.int64)
    for _ in range(rounds):
        sure, labels = predict(runs[-1].model, unlabelled).softmax(1).max(1)
        chosen = sure >= confidence
        x, y = torch.cat([known[0], unlabelled[chosen]]), torch.cat([known[1], labels[chosen].to(known[1].dtype)])
        runs.append(fit(make_model(), (x, y), validation, test, **settings))
    return PseudoLabels(tuple(runs), chosen, labels)


def contrast(embeddings: Float[Tensor, "m d"], temperature: float = 0.5) -> Float[Tensor, " m"]:
    """How far each embedding is from being most like its partner: the normalised, temperature-scaled cross-entropy.

    Args:
        embeddings: `(2N, D)`; the first N and the last N are two views of the same examples.
        temperature: above 0; the smaller, the more the nearest others count.

    Source: Chen, Kornblith, Norouzi, Hinton, A Simple Framework for Contrastive Learning of Visual Representations,
    2020, equation 1.

    >>> contrast(torch.eye(2).repeat(2, 1), temperature=0.01).max() < 1e-3
    tensor(True)
    """
    if temperature <= 0 or len(embeddings) % 2:
        raise ArgumentError(f"temperature={temperature}, {len(embeddings)} embeddings: expected above 0, and pairs")
    unit = F.normalize(embeddings, dim=1)
    alike = unit @ unit.T / temperature  # (2N, 2N)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    count = len(unit) // 2
    partners = torch.arange(2 * count, device=unit.device).roll(count)
    return F.cross_entropy(alike.masked_fill(itself, float("-inf")), partners, reduction="none")


class _Views(nn.Module):
    """An encoder with a projection, for two views of a batch side by side `(N, 2, …)`."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, x: Tensor) -> Tensor:
        views = x.transpose(0, 1).flatten(0, 1)  # (2N, …)
        return self.head(self.encoder(views).flatten(1))


def pretrain(
    encoder: nn.Module,
    x: Float[Tensor, "n ..."],
    augment: Augment,
    *,
    width: int = 64,
    temperature: float = 0.5,
    seed: int = 0,
    **settings: Any,
) -> Run:
    """Pre-train an encoder without labels: two augmented views of an example are to be alike, all others not.

    Args:
        encoder: from inputs `(N, …)` to features `(N, …)`; trained in place.
        x: examples `(N, …)` without labels.
        augment: function `(x, generator) -> x` that makes a view.
        width: of the projection that is thrown away afterwards.
        temperature: see `contrast`.
        seed: of the projection, the order and the views.
        settings: anything else `fit` takes.

    Returns:
        The run; its `history["loss"]` is the contrastive loss.

    Source: Chen, Kornblith, Norouzi, Hinton, A Simple Framework for Contrastive Learning of Visual Representations,
    2020.

    >>> from cutaway.rng import generator
    >>> noise = lambda x, source: x + 0.1 * torch.randn(x.shape, generator=source)
    >>> x = torch.randn(64, 4, generator=generator(0))
    >>> losses = pretrain(nn.Linear(4, 8), x, noise, epochs=5, batch_size=32, lr=0.01, progress=False).history["loss"]
    >>> losses[-1] < losses[0]
    True
    """
    where, dtype = placement(encoder)
    source = make_source((x, torch.zeros(len(x))), 1, 0, where, dtype)
    with torch.no_grad():
        features = encoder(source.x[:2]).flatten(1).shape[1]  # pyright: ignore[reportAttributeAccessIssue]
    with seeded(seed, "projection"):
        head = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, width)).to(where, dtype)

    def views(batch: Tensor, draw: torch.Generator) -> Tensor:
        return torch.stack([augment(batch[:, 0], draw), augment(batch[:, 1], draw)], 1)  # (N, 2, …)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return contrast(outputs, temperature).view(2, -1).mean(0)  # (N,)

    chosen = {"loss": loss, "metrics": (), "augment": views, "seed": seed, "drop_last": len(x) > 1, **settings}
    twice = x.unsqueeze(1).expand(-1, 2, *x.shape[1:])  # (N, 2, …), the same memory
    return fit(_Views(encoder, head), (twice, torch.zeros(len(x))), **chosen)
