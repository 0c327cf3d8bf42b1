"""Convolutions of many networks, and the cleaning of their program, against torch and against their definition."""

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx

from cutaway.rng import generator
from cutaway.train import spread
from cutaway.train.bilinear import Convolution, SmallConvolutions
from cutaway.train.cleaning import clean

WINDOWS = [((3, 3), (1, 1), (1, 1)), ((5, 4), (2, 3), (1, 1)), ((2, 3), (1, 2), (2, 1))]


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(1, *shape), dtype=torch.float64)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("n", [1, 3])
def test_convolution_and_its_adjoints_are_torchs(window: tuple, n: int) -> None:
    x, w = drawn(n, 2, 9, 10).requires_grad_(), drawn(4, 2, *window[0]).requires_grad_()
    ours, theirs = Convolution.apply(x, w, window), F.conv2d(x, w, None, window[1], 0, window[2])
    seed = drawn(*theirs.shape)
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(
        torch.autograd.grad(ours, (x, w), seed), torch.autograd.grad(theirs, (x, w), seed), strict=True
    ):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("dims", [(0, 0), (None, 0), (0, None), (1, 2)])
@pytest.mark.parametrize("n", [1, 3])
def test_many_convolutions_at_once_are_each_of_them(dims: tuple, n: int) -> None:
    window = WINDOWS[1]
    x, w = drawn(n, 2, 9, 10), drawn(4, 2, *window[0])
    many = [
        value if dim is None else torch.stack([value, 2 - value], dim) for value, dim in zip((x, w), dims, strict=True)
    ]

    def both(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out, pull = torch.func.vjp(lambda a, b: F.conv2d(a, b, None, window[1]), x, w)
        return (out, *pull(torch.ones_like(out)))

    with SmallConvolutions(2):
        ours = vmap(both, dims)(*many)
    for number in range(2):
        alone = [v if d is None else v.select(d, number) for v, d in zip(many, dims, strict=True)]
        for mine, other in zip(ours, both(*alone), strict=True):
            torch.testing.assert_close(mine[number], other)


@pytest.mark.parametrize("dims", [(None, 0), (0, None), (0, 1)])
def test_copied_rows_and_their_adjoints(dims: tuple) -> None:
    places = torch.tensor([3, 0, 2])
    whole, rows = drawn(5, 2, 2), drawn(3, 2, 2)
    many = [v if d is None else torch.stack([v, 2 - v], d) for v, d in zip((whole, rows), dims, strict=True)]
    seed = drawn(5, 2, 2)

    def both(whole: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
        out, pull = torch.func.vjp(lambda a, b: a.index_copy(0, places, b), whole, rows)
        return (out, *pull(seed))

    with SmallConvolutions(2, [places]):
        ours = vmap(both, dims)(*many)
    for number in range(2):
        alone = [v if d is None else v.select(d, number) for v, d in zip(many, dims, strict=True)]
        for mine, other in zip(ours, both(*alone), strict=True):
            torch.testing.assert_close(mine[number], other)


def test_cleaning_keeps_the_answer() -> None:
    table = torch.arange(6.0).view(2, 3)

    def wordy(x: Tensor, running: Tensor) -> tuple[Tensor, Tensor]:
        twice = (x.view(2, 3) * 1).reshape(3, 2).view(2, 3) @ (table + 1).t()
        again = x.view(2, 3) @ (table + 1).t()
        outer = torch.bmm(x.view(1, 6, 1), x.view(1, 1, 6))
        running.mul_(0.5).add_(x)
        return twice + again, outer.sum((1,), keepdim=True)

    x, running = drawn(6).float(), torch.ones(6)
    expected, changed = wordy(x, running), running.clone()
    program = make_fx(wordy)(x, torch.ones(6))
    before = len(program.graph.nodes)
    program = clean(program)
    assert len(program.graph.nodes) < before
    fresh = torch.ones(6)
    for mine, other in zip(program(x, fresh), expected, strict=True):
        torch.testing.assert_close(mine, other)
    torch.testing.assert_close(fresh, changed)


def test_what_is_written_twice_is_computed_once_but_not_what_is_drawn_twice() -> None:
    program = clean(make_fx(lambda x: x.tanh() * x.tanh() + torch.rand_like(x) - torch.rand_like(x))(torch.ones(3)))
    names = [str(node.target) for node in program.graph.nodes]
    assert sum("tanh" in name for name in names) == 1 and sum("rand_like" in name for name in names) == 2


@pytest.mark.parametrize("n", [2, 8, 31, 60])
def test_interval_is_students(n: int) -> None:
    values = drawn(n)
    found = spread(values.tolist())
    expected = stats.t.interval(0.95, n - 1, values.mean().item(), values.std().item() / n**0.5)
    assert (found.low, found.high) == pytest.approx(expected, rel=2e-3, abs=2e-3)


def test_what_is_changed_in_place_and_looked_at_by_nobody_else_is_made_anew() -> None:
    def fresh(x: Tensor) -> tuple[Tensor, Tensor]:
        return (x * 2).div_(3.0), (x * 2).relu()

    x = drawn(6)
    program = clean(make_fx(fresh)(x))
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert sorted(names) == ["aten.div.Tensor", "aten.mul.Tensor", "aten.relu.default"], names  # one product, shared
    for mine, other in zip(program(x), fresh(x), strict=True):
        torch.testing.assert_close(mine, other)
