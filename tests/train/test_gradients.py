"""The engine's training step against autograd, in float64."""

import copy

import pytest
import torch
from torch import Tensor, nn

from cutaway import nets
from cutaway.errors import ArgumentError, CaptureError
from cutaway.rng import generator
from cutaway.train.gradients import autograd_step, engine_step, in_pieces, make_step, trainable
from cutaway.train.losses import LOSSES, loss_function
from tests.train.common import seeded


class BranchOnData(nn.Module):
    """A network that no graph can hold: its path depends on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if x.numpy().sum() > 0 else -self.linear(x)


def cases() -> dict[str, tuple[nn.Module, Tensor]]:
    images = torch.rand(6, 1, 32, 32, generator=generator(0), dtype=torch.float64)
    small = torch.rand(6, 3, 8, 8, generator=generator(1), dtype=torch.float64)
    normed = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 10),
    )  # fmt: skip
    return {
        "lenet5": (nets.normalized(nets.make("lenet5", seed=0), 0.4, 0.3), images),
        "mlp": (nets.make("mlp", 192, 16, 10, seed=0), small),
        "batch norm": (seeded(lambda: normed), small),
    }


def compare(model: nn.Module, x: Tensor, y: Tensor, loss: object) -> None:
    """Check loss, outputs, gradients and running statistics to 1e-10 relative."""
    model = model.double().train()
    other = copy.deepcopy(model)
    value, outputs, expected = autograd_step(model, loss, trainable(model))(x, y)  # type: ignore[arg-type]
    step = engine_step(other, loss, trainable(other))  # type: ignore[arg-type]
    found_value, found_outputs, found = step(x, y)
    torch.testing.assert_close(found_value, value, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found_outputs, outputs, rtol=1e-12, atol=1e-14)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)
    for (name, a), b in zip(other.named_buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("case", ["lenet5", "mlp", "batch norm"])
def test_engine_agrees_with_autograd_in_training_mode(case: str) -> None:
    model, x = cases()[case]
    compare(model, x, torch.tensor([0, 1, 2, 9, 5, 5]), loss_function("cross_entropy", 0.1))


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error", "absolute_error", "hinge"])
def test_engine_agrees_with_autograd_for_every_loss_of_classes(loss: str) -> None:
    model, x = cases()["mlp"]
    compare(model, x, torch.tensor([0, 1, 2, 9, 5, 5]), LOSSES[loss])


def test_engine_agrees_with_autograd_for_binary_cross_entropy() -> None:
    model = nets.make("mlp", 4, 8, 1, seed=0)
    x = torch.randn(6, 4, generator=generator(2), dtype=torch.float64)
    compare(model, x, torch.tensor([0.0, 1, 1, 0, 1, 0]).double(), LOSSES["binary_cross_entropy"])


def test_engine_draws_dropout_as_the_network_does() -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 3))).double().train()
    x, y = torch.randn(5, 4, generator=generator(3), dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    plain, own = (make(model, LOSSES["cross_entropy"], trainable(model)) for make in (autograd_step, engine_step))
    own(x, y)  # capturing may draw
    torch.manual_seed(5)
    expected = plain(x, y)
    torch.manual_seed(5)
    found = own(x, y)
    for a, b in zip(found[2], expected[2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)
    assert not torch.equal(own(x, y)[0], found[0])  # the next mask is another one


def test_step_follows_weights_and_batch_sizes() -> None:
    model = nets.make("mlp", 4, 8, 3, seed=0).double()
    x, y = torch.randn(7, 4, generator=generator(4), dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    step = make_step(model, LOSSES["cross_entropy"], trainable(model))
    for count in (7, 3, 1):
        with torch.no_grad():
            next(iter(model.parameters())).add_(0.1)
        expected = autograd_step(model, LOSSES["cross_entropy"], trainable(model))(x[:count], y[:count])
        for a, b in zip(step(x[:count], y[:count])[2], expected[2], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


def test_pieces_give_the_gradient_of_the_whole() -> None:
    model = nets.make("mlp", 4, 8, 3, seed=0).double()
    x, y = torch.randn(7, 4, generator=generator(4), dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    step = make_step(model, LOSSES["cross_entropy"], trainable(model))
    value, outputs, expected = step(x, y)
    found_value, found_outputs, found = in_pieces(step, 3)(x, y)
    torch.testing.assert_close(found_value, value)
    torch.testing.assert_close(found_outputs, outputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


def test_network_that_cannot_be_captured_trains_by_autograd_and_says_so() -> None:
    model = seeded(BranchOnData)
    step = make_step(model, LOSSES["cross_entropy"], trainable(model))
    with pytest.warns(UserWarning, match="cannot be captured"):
        gradients = step(torch.ones(2, 2), torch.tensor([0, 1]))[2]
    assert len(gradients) == 2 and all(bool(g.any()) for g in gradients)


def test_rules_need_the_engine() -> None:
    model = seeded(BranchOnData)
    with pytest.raises(CaptureError):
        make_step(model, LOSSES["cross_entropy"], trainable(model), rules={})(torch.ones(2, 2), torch.tensor([0, 1]))
    with pytest.raises(ArgumentError, match="precision"):
        make_step(model, LOSSES["cross_entropy"], trainable(model), "bfloat16", rules={})
