"""Define, compile, fit: training in the words of Keras."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from cutaway.errors import ArgumentError
from cutaway.train.loop import fit
from cutaway.train.losses import Loss
from cutaway.train.measure import Evaluation, evaluate, predict
from cutaway.train.metrics import Metric
from cutaway.train.results import Run


@dataclass(frozen=True)
class Trainer:
    """A network with its optimiser, loss and metrics.

    Args:
        model: the network; trained in place.
        optimizer: see `Settings`.
        loss: see `Settings`.
        metrics: see `Settings`.
        settings: any other field of `Settings`.

    >>> from cutaway.rng import generator
    >>> import torch
    >>> x = torch.randn(64, 2, generator=generator(0)); y = (x[:, 0] > 0).long()
    >>> trainer = Trainer(nn.Linear(2, 2), optimizer="adam", settings={"lr": 0.1})
    >>> history = trainer.fit(x, y, epochs=20, batch_size=16, verbose=0).history
    >>> trainer.evaluate(x, y)["accuracy"] > 0.9, trainer.predict(x).shape
    (True, torch.Size([64, 2]))
    """

    model: nn.Module
    optimizer: Any = "adam"
    loss: str | Loss = "cross_entropy"
    metrics: tuple[str | Metric, ...] | list[str | Metric] = ("accuracy",)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def fit(
        self,
        x: Any,
        y: Any = None,
        batch_size: int = 32,
        epochs: int = 1,
        validation_data: Any = None,
        validation_split: float = 0.0,
        verbose: int = 1,
        callbacks: Any = (),
        **settings: Any,
    ) -> Run:
        """Train from the weights the model has.

        Args:
            x: inputs `(N, …)`, or a data set or loader that holds the targets too.
            y: targets `(N,)` when x are inputs.
            batch_size: examples per step.
            epochs: passes over the data.
            validation_data: a pair (x, y) or a data set.
            validation_split: share of the end of x and y kept back for validation, in [0, 1), as in Keras.
            verbose: 0 shows no progress bar.
            callbacks: see `cutaway.fit`.
            settings: anything else that `cutaway.fit` takes.

        Returns:
            Run, with the columns of `.history`.
        """
        train = x if y is None else (x, y)
        if validation_split:
            if y is None or not 0 < validation_split < 1 or validation_data is not None:
                raise ArgumentError(
                    f"validation_split={validation_split} needs x and y, a share in (0, 1) and no validation_data"
                )
            kept = len(x) - round(len(x) * validation_split)
            train, validation_data = (x[:kept], y[:kept]), (x[kept:], y[kept:])
        chosen = {**self.settings, "batch_size": batch_size, "epochs": epochs, **settings}
        return fit(
            self.model,
            train,
            validation_data,
            progress=bool(verbose),
            callbacks=callbacks,
            optimizer=self.optimizer,
            loss=self.loss,
            metrics=tuple(self.metrics),
            **chosen,
        )

    def evaluate(self, x: Any, y: Any = None, batch_size: int = 256) -> Evaluation:
        """Measure loss and metrics; `[name]` gives one of them."""
        return evaluate(self.model, x if y is None else (x, y), (self.loss, *self.metrics), batch_size)

    def predict(self, x: Any, batch_size: int = 256) -> Tensor:
        """Outputs for every example, `(N, …)`."""
        return predict(self.model, x, batch_size)
