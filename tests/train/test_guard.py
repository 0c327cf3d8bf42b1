"""The first value that is not finite stops training and is named."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cutaway.errors import NonFiniteError
from cutaway.train import Epoch, fit
from cutaway.train.checkpoint import load_checkpoint
from cutaway.train.guard import all_finite
from tests.train.common import blobs, seeded

quiet = partial(fit, progress=False)


class Logarithm(nn.Module):
    """Takes the logarithm of a hidden unit: fine until an input brings it below zero."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        shifted = x + 3.0
        return self.inner(torch.log(shifted))


def spoiled(row: int) -> tuple[Tensor, Tensor]:
    x, y = blobs(96)
    x[row] = -4.0
    return x, y


def test_node_step_and_index_are_named_and_the_state_before_is_kept(tmp_path: Path) -> None:
    batches = [(x, y) for x, y in zip(*(part.split(8) for part in spoiled(43)), strict=True)]
    net = seeded(Logarithm)
    with pytest.raises(NonFiniteError, match=r"epoch 1, step 6 .*'log.*NaN at index \(3, 0\)") as caught:
        quiet(net, batches, epochs=3, out=tmp_path)
    assert str(tmp_path) in str(caught.value)
    state = load_checkpoint(tmp_path)
    assert state is not None and state["numbers"]["total"] == 5
    assert all_finite(list(net.parameters()))
    plain = quiet(seeded(Logarithm), batches[:5], epochs=1, schedule="constant")
    again = seeded(Logarithm)
    with pytest.raises(NonFiniteError):
        quiet(again, batches, epochs=3, schedule="constant")
    for a, b in zip(again.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_value_that_appears_in_a_later_epoch_is_named_there(tmp_path: Path) -> None:
    x, y = blobs(8)

    def spoil(epoch: Epoch) -> None:
        if epoch.number == 2:
            x[3] = -4.0

    with pytest.raises(NonFiniteError, match=r"epoch 3, step 1 .*'log.*NaN at index \(3, 0\)"):
        quiet(seeded(Logarithm), [(x, y)] * 4, epochs=4, callbacks=[spoil], out=tmp_path)
    state = load_checkpoint(tmp_path)
    assert state is not None and [row["epoch"] for row in state["history"]] == [1, 2]


def test_rate_that_explodes_is_named_with_its_value() -> None:
    with pytest.raises(NonFiniteError, match=r"learning rate 1e\+30"):
        quiet(seeded(lambda: nn.Linear(2, 3)), blobs(), epochs=50, optimizer="sgd", lr=1e30, loss="squared_error")


def test_loss_and_gradient_are_told_apart() -> None:
    def bad_loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sum(1) / 0.0

    def bad_gradient(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs * 0).sum(1).clamp_min(0).sqrt()

    for loss, message in ((bad_loss, "the loss bad_loss is .* while the outputs are finite"), (bad_gradient, "0.bias")):
        with pytest.raises(NonFiniteError, match=message):
            quiet(seeded(lambda: nn.Sequential(nn.Linear(2, 3))), blobs(), epochs=1, loss=loss)


def test_training_goes_on_when_asked() -> None:
    run = quiet(seeded(Logarithm), spoiled(43), epochs=2, nonfinite="continue")
    assert run.status == "completed" and run.history["loss"][-1] != run.history["loss"][-1]
