"""Programs in C against the same programs run by torch."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from cutaway import nets
from cutaway.rng import generator
from cutaway.train import fit, fit_many
from cutaway.train.cleaning import clean
from cutaway.train.native import compiler, native
from cutaway.train.native_table import TABLE

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler")
INDEX = torch.tensor([3, 0, 2, 2])
POOL_BACK = torch.ops.aten.avg_pool2d_backward
WAYS = torch.tensor([0, 1, 2, 6, 7, 8])


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(3, *shape), dtype=torch.float64)


def nll(scores: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(scores, targets, reduction="none")


FUNCTIONS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "arithmetic": lambda a, b: (a + 2 * b, a - b.t().t(), a * b / 3.0, -a, 1 / (b.abs() + 1), a**2, b**3),
    "scaled sums": lambda a, b: (torch.add(a, b, alpha=3), torch.sub(a, b, alpha=0.5), a + 1, a - 2.5),
    "functions": lambda a, b: (a.tanh(), a.sigmoid(), a.exp(), b.abs().log(), b.abs().sqrt(), a.abs().pow(1.5)),
    "choices": lambda a, b: (a.relu(), a.clamp_min(0.3), torch.where(a > 0, a, b), (a <= 0.1) * a, (a == b) * a),
    "broadcasting": lambda a, b: (a[:, :1] * b[:1], a.unsqueeze(1) + b.unsqueeze(0), a.expand(2, 5, 6) + b),
    "products": lambda a, b: (a @ b.t(), a.t() @ b, a[:1] @ b.t(), a[:, :4] @ b[:4], a[:2, :3] @ b[:3]),
    "batched products": lambda a, b: (
        torch.bmm(a.view(5, 2, 3), b.view(5, 3, 2)), torch.bmm(a.view(5, 3, 2).transpose(1, 2), b.view(5, 3, 2)),
        torch.bmm(a.view(1, 5, 6), b.view(1, 5, 6).transpose(1, 2)), torch.bmm(a.view(1, 5, 6), b.t().view(1, 6, 5)),
    ),
    "sums": lambda a, b: (a.sum(), a.sum(0), b.mean(1), b.sum((0, 1), keepdim=True), a.view(5, 2, 3).sum(1)),
    "softmax": lambda a, b: (a.log_softmax(1), a.log_softmax(0), nll(a, INDEX.new_tensor([1, 0, 5, -100, 3]))),
    "padding": lambda a, b: (F.pad(a, (1, 2)), F.pad(b, (0, 1, 2, 0), value=-1.0), F.pad(a, (-1, 0, -2, -1))),
    "rows": lambda a, b: (a.index_select(0, INDEX), b.index_select(1, WAYS % 6), a[INDEX], b[0 * INDEX]),
    "copied rows": lambda a, b: (a.index_copy(0, INDEX[:3], b[1:4]), a.index_copy(1, WAYS[:3], b[:, 3:])),
    "sums of rows": lambda a, b: (
        torch.zeros(5, 6, dtype=a.dtype).index_add(0, INDEX, b[:4]), a.index_add(1, INDEX, b[:, :4]),
        a.new_ones(5, 9).index_add(1, WAYS, b),
    ),
    "joining": lambda a, b: (torch.cat((a, b)), torch.cat((a[:, :2], b, a[:, 3:]), 1), a.t().reshape(3, 10)),
    "gathering": lambda a, b: (a.gather(1, INDEX[:, None] % 4), b.gather(0, WAYS[None] % 5)),
    "views": lambda a, b: (a.t().reshape(30), b[1:4:2].reshape(12), a.view(5, 3, 2).permute(2, 0, 1) * 2, b.t()),
    "strides": lambda a, b: (a.as_strided((3, 2, 2), (7, 6, 1)) * 2, b.t().as_strided((4, 3), (1, 2), 5) + 0),
    "pooling": lambda a, b: (
        F.avg_pool2d(a.view(1, 5, 6), 2), F.avg_pool2d(b.view(1, 1, 5, 6), 3, 1), F.avg_pool2d(a.view(1, 6, 5), (3, 2)),
        POOL_BACK(b[:2, :3].reshape(1, 2, 3), a.view(1, 5, 6), [2, 2], [2, 2], [0, 0], False, True, None),
    ),
    "matrices and a sum": lambda a, b: (torch.addmm(a[0, :5], a, b.t()), torch.addmm(b[:, :1], a, b.t()), a.mean()),
    "as given": lambda a, b: (a, b.view(30), a.view(30).view(6, 5), a * 1),
    "turned": lambda a, b: ((a + b).t(), (a + b).view(30), (a @ b.t()).t(), (a * b).view(6, 5), (a * b)[1:3]),
}  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_each_operation_answers_as_torchs(name: str, dtype: torch.dtype) -> None:
    a, b = drawn(5, 6).to(dtype), drawn(5, 6).to(dtype) - 0.2
    expected = FUNCTIONS[name](a, b)
    program = native(clean(make_fx(FUNCTIONS[name])(a, b)), (a, b))
    assert program is not None, "it could not be written"
    for found in (program(a.flip(0), b), program(a, b)):  # nothing stays from call to call
        last = found
    for mine, theirs in zip(last, expected, strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, rtol=1e-12 if dtype == torch.float64 else 1e-5, atol=1e-6)


@needs_compiler
def test_every_row_of_the_table_is_tried() -> None:
    tried: set[str] = set()
    a, b = drawn(5, 6), drawn(5, 6)
    for function in FUNCTIONS.values():
        graph = make_fx(function)(a, b).graph
        tried |= {str(node.target) for node in graph.nodes if node.op == "call_function"}
    x, y = drawn(4, 3), torch.tensor([0, 2, 1, 1])

    def whole(x: Tensor) -> tuple[Tensor, ...]:
        weight = x[:3].t()
        value, pull = torch.func.vjp(lambda w: nll((x @ w).tanh().sigmoid().relu(), y).mean(), weight)  # pyright: ignore[reportAssignmentType]
        return value, *pull(torch.ones_like(value))

    tried |= {str(node.target) for node in make_fx(whole)(x).graph.nodes}
    program = native(clean(make_fx(whole)(x)), (x,))
    assert program is not None
    for mine, theirs in zip(program(x), whole(x), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert len(tried & set(map(str, TABLE))) > 45, sorted(set(map(str, TABLE)) - tried)


@needs_compiler
def test_values_that_are_not_finite_come_through() -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0])

    def function(x: Tensor) -> tuple[Tensor, ...]:
        return x.relu(), x.tanh(), x * 2, x.log_softmax(0), x.clamp_min(0.0), x.sum()

    program = native(clean(make_fx(function)(x)), (x,))
    assert program is not None
    for mine, theirs in zip(program(x), function(x), strict=True):
        torch.testing.assert_close(mine, theirs, equal_nan=True)


@needs_compiler
def test_what_is_drawn_is_torchs() -> None:
    x = drawn(6, 50)

    def function(x: Tensor) -> tuple[Tensor, ...]:
        return F.dropout(x, 0.3), F.dropout(x.tanh(), 0.5)

    program = native(clean(make_fx(function)(x)), (x,))
    assert program is not None
    torch.manual_seed(4)
    expected = function(x)
    torch.manual_seed(4)
    for mine, theirs in zip(program(x), expected, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("function", [lambda x: (x.sort().values,), lambda x: (x.add_(1),)], ids=["unknown", "changes"])
def test_what_cannot_be_written_is_left_to_torch(function: Callable[[Tensor], tuple[Tensor]]) -> None:
    x = drawn(4)
    assert native(clean(make_fx(function)(x.clone())), (x,)) is None


@needs_compiler
def test_an_index_out_of_range_is_refused_and_a_negative_one_counts_from_the_end() -> None:
    a = drawn(5, 6)
    for function in (lambda a, i: (a[i],), lambda a, i: (a.gather(0, i[None]),), lambda a, i: (nll(a[:4], i),)):
        program = native(clean(make_fx(function)(a, INDEX)), (a, INDEX))
        assert program is not None
        torch.testing.assert_close(program(a, INDEX), function(a, INDEX))
        with pytest.raises(IndexError, match="outside"):
            program(a, INDEX + 5)
    program = native(clean(make_fx(lambda a, i: (a[i],))(a, INDEX)), (a, INDEX))
    assert program is not None
    torch.testing.assert_close(program(a, -1 - INDEX)[0], a[-1 - INDEX])


@needs_compiler
def test_whole_numbers_are_not_divided() -> None:
    assert native(clean(make_fx(lambda i: (i / 2,))(INDEX)), (INDEX,)) is None


def test_without_a_compiler_torch_runs_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutaway.train.native.compiler", lambda: None)
    data = (drawn(20, 4).float(), torch.arange(20) % 3)
    runs = fit_many(lambda seed: nn.Linear(4, 3), data, seeds=range(2), epochs=1, compiled=True, progress=False)
    assert runs.status == "completed"


@needs_compiler
def test_replicates_are_trained_alike() -> None:
    data = (drawn(60, 1, 16, 16).float(), torch.arange(60) % 10)

    def make(seed: int) -> nn.Module:
        return nets.lenet1989(activation="relu", output_activation="identity", dropout=0.25)

    told = {"seeds": range(3), "batch_size": 1, "epochs": 2, "optimizer": "adamw", "progress": False}
    by_torch, by_c = (fit_many(make, data, compiled=flag, **told) for flag in (False, True))
    for one, other in zip(by_torch.models, by_c.models, strict=True):
        for mine, theirs in zip(other.parameters(), one.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)  # Adam enlarges rounding of gradients near 0


@needs_compiler
def test_one_network_is_trained_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    data = (drawn(60, 1, 16, 16).float(), torch.arange(60) % 10)
    ends = []
    for pays in (10**9, 1):
        monkeypatch.setattr("cutaway.train.prepare.PAYS", pays)
        model = nets.make("lenet1989", seed=1)
        fit(model, data, batch_size=1, epochs=2, optimizer="sgd", lr=0.02, clip=5.0, progress=False)
        ends.append([weight.detach().clone() for weight in model.parameters()])
    for mine, theirs in zip(*ends, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
