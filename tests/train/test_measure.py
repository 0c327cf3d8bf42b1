"""Measuring: exact means whatever the batches, and the model as it was."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cutaway.errors import DataError
from cutaway.train import evaluate, predict, wilson_interval
from tests.train.common import blobs, small_net


@pytest.mark.parametrize("batch_size", [1, 7, 96, 1000])
def test_means_do_not_depend_on_the_batches(batch_size: int) -> None:
    x, y = blobs()
    net = small_net().train()
    found = evaluate(net, (x, y), ["accuracy", "cross_entropy"], batch_size=batch_size)
    with torch.no_grad():
        outputs = net.eval()(x)
    right = int((outputs.argmax(1) == y).sum())
    assert found.n == 96 and found["accuracy"] == pytest.approx(right / 96, abs=1e-12)
    assert found["cross_entropy"] == pytest.approx(float(F.cross_entropy(outputs, y)), rel=1e-6)
    assert found.interval == pytest.approx(wilson_interval(right, 96))
    torch.testing.assert_close(predict(net, x, batch_size=batch_size), outputs)


def test_the_model_stays_as_it_was(global_randomness_untouched: None) -> None:
    net = small_net()
    net.train()
    net[1].eval()  # type: ignore[index]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    evaluate(net, blobs())
    predict(net, blobs()[0])
    assert [part.training for part in net] == [True, False, True, True, True] and net.training  # type: ignore[union-attr]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_words_and_empty_data() -> None:
    text = str(evaluate(nn.Identity(), (torch.eye(4), torch.tensor([0, 1, 2, 0])), ["accuracy"]))
    assert text == "accuracy 75.00 % (95 % interval 30.06 % to 95.44 %) on 4 examples"
    with pytest.raises(DataError, match="no batch"):
        evaluate(nn.Identity(), [])
