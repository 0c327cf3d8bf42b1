"""The programs of small networks and the layout of large ones, against autograd."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cutaway import nets
from cutaway.rng import generator
from cutaway.train import OPTIMIZERS, fit
from cutaway.train.flat import flat_step
from cutaway.train.gradients import Step, autograd_step, trainable
from cutaway.train.layout import channels_last
from cutaway.train.losses import LOSSES
from cutaway.train.moves import Moves
from tests.train.common import blobs, seeded
from tests.train.test_gradients import BranchOnData

LOSS = LOSSES["cross_entropy"]


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(3, *shape))


def refused(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    raise AssertionError("the other step was taken")


def normed() -> nn.Module:
    layers = [nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(64, 10))


CASES = {
    "lenet1989": (lambda: nets.make("lenet1989", seed=0, output_activation="identity"), (3, 1, 16, 16)),
    "lenet5": (lambda: nets.make("lenet5", seed=0), (2, 1, 32, 32)),
    "mlp": (lambda: nets.make("mlp", 20, 16, 10, seed=0), (5, 20)),
    "batch norm": (normed, (6, 1, 16, 16)),
}


@pytest.mark.parametrize("case", CASES)
def test_programs_answer_as_autograd(case: str) -> None:
    make, shape = CASES[case]
    model = seeded(make).double().train()
    other = copy.deepcopy(model)
    step, plain = flat_step(model, LOSS, trainable(model), refused), autograd_step(other, LOSS, trainable(other))
    for count in (shape[0], shape[0], shape[0] - 1):  # the last batch is smaller
        x, y = drawn(count, *shape[1:]).double(), torch.arange(count) % 10
        value, outputs, found = step(x, y)
        wanted, expected_outputs, expected = plain(x, y)
        torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(outputs, expected_outputs, rtol=1e-11, atol=1e-13)
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-13)
        for mine, theirs in zip(model.buffers(), other.buffers(), strict=True):
            torch.testing.assert_close(mine, theirs)
        with torch.no_grad():
            for a, b, gradient in zip(trainable(model).values(), trainable(other).values(), expected, strict=True):
                a.sub_(0.1 * gradient)
                b.sub_(0.1 * gradient)


def test_a_path_that_depends_on_values_is_not_believed() -> None:
    model, taken = seeded(BranchOnData), []

    def other(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        taken.append(len(x))
        return autograd_step(model, LOSS, trainable(model))(x, y)

    flat_step(model, LOSS, trainable(model), other)(torch.ones(2, 2), torch.tensor([0, 1]))
    assert taken == [2]


def test_a_curve_is_the_plain_loops() -> None:
    x, y = drawn(60, 1, 16, 16), torch.arange(60) % 10
    make = CASES["lenet1989"][0]
    run = fit(
        make(), (x, y), epochs=2, batch_size=1, optimizer="sgd", lr=0.01, schedule="constant", shuffle=False,
        progress=False,
    )  # fmt: skip
    plain = make().train()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.01)
    for row in [*range(60), *range(60)]:
        optimizer.zero_grad()
        F.cross_entropy(plain(x[row : row + 1]), y[row : row + 1]).backward()
        optimizer.step()
    for mine, theirs in zip(run.model.parameters(), plain.parameters(), strict=True):
        assert (mine - theirs).norm() <= 1e-6 * theirs.norm()


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "lbfgs"])
def test_moves_are_the_optimisers_own_steps_bit_by_bit(name: str) -> None:
    row = OPTIMIZERS[name]
    sides = []
    for direct in (False, True):
        weights = [nn.Parameter(drawn(3, 2)), nn.Parameter(drawn(5)), nn.Parameter(drawn(4))]
        groups = [{"params": weights[:1], "lr": 0.02}, {"params": weights[1:]}]
        fused = {} if "rmsprop" in name else {"fused": True}
        optimizer = row.make(groups, lr=0.1, **row.settings, **fused)
        moves = Moves(optimizer)
        for turn in range(4):
            gradients = [drawn(*weight.shape, turn + 1)[..., turn].contiguous() for weight in weights]
            if turn == 2:  # as after going on
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            if direct and moves.ready():
                moves(gradients)
                continue
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient
            optimizer.step()
        moved = direct and moves.ready()
        assert moved == (direct and name not in ("rmsprop", "rmsprop_inside", "adagrad"))
        sides.append([*weights, *(v for held in optimizer.state.values() for v in held.values() if v is not None)])
    assert len(sides[0]) == len(sides[1])
    assert all(torch.equal(a, b) for a, b in zip(*sides, strict=True))


class Viewed(nn.Module):
    """Looks at the memory of its maps."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.conv, self.norm, self.form, self.seen = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), form, []
        self.linear = nn.Linear(4 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.is_contiguous())
        z = self.norm(self.conv(x))
        return self.linear(z.view(len(z), -1) if self.form == "view" else z.flatten(1))


@pytest.mark.parametrize("form", ["view", "flatten"])
def test_channels_lie_last_where_the_network_takes_them(form: str) -> None:
    model = seeded(lambda: Viewed(form)).train()
    other, x, y = copy.deepcopy(model), drawn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    plain: Step = autograd_step(other, LOSS, trainable(other))
    step = channels_last(autograd_step(model, LOSS, trainable(model)), model)
    for _ in range(2):
        expected, found = plain(x, y), step(x, y)
        for mine, theirs in zip(found[2], expected[2], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
        for mine, theirs in zip(model.buffers(), other.buffers(), strict=True):
            torch.testing.assert_close(mine, theirs)
    assert model.seen[-1] == (form == "view")  # type: ignore[index]


def test_data_of_a_loader_take_the_engine() -> None:
    x, y = blobs(24)
    run = fit(seeded(lambda: nn.Linear(2, 3)), [(x, y)], epochs=2, progress=False)
    assert run.status == "completed"
