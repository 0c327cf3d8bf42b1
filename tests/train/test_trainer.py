"""The words of Keras."""

import pytest
import torch
from torch import nn

from cutaway.errors import ArgumentError
from cutaway.train import Trainer
from tests.train.common import blobs, same_weights, seeded


def trainer() -> Trainer:
    return Trainer(seeded(lambda: nn.Linear(2, 3)), optimizer="adam", metrics=["accuracy"], settings={"lr": 0.1})


def test_fit_evaluate_predict() -> None:
    x, y = blobs()
    made = trainer()
    history = made.fit(x, y, batch_size=16, epochs=10, validation_data=(x, y), verbose=0).history
    assert {"loss", "accuracy", "validation_loss", "validation_accuracy"} <= set(history)
    outputs = made.predict(x)
    assert made.evaluate(x, y)["accuracy"] == pytest.approx(float((outputs.argmax(1) == y).float().mean()))
    assert made.evaluate(x, y)["cross_entropy"] == pytest.approx(float(nn.functional.cross_entropy(outputs, y)))


def test_validation_split_keeps_the_end_back() -> None:
    x, y = blobs(40)
    a, b = trainer(), trainer()
    a.fit(x, y, epochs=2, validation_split=0.25, verbose=0)
    b.fit(x[:30], y[:30], epochs=2, validation_data=(x[30:], y[30:]), verbose=0)
    assert same_weights(a.model, b.model)
    with pytest.raises(ArgumentError, match="validation_split"):
        a.fit([(x, y)], epochs=1, validation_split=0.5)


def test_fit_goes_on_from_the_weights_it_has() -> None:
    x, y = blobs()
    made = trainer()
    first = made.fit(x, y, epochs=3, verbose=0).history["loss"]
    assert made.fit(x, y, epochs=1, verbose=0).history["loss"][0] < first[0]
    assert torch.isfinite(made.predict(x)).all()
