"""Costs against torch's own FLOP counter, the numbers of the papers, and sums by hand."""

import csv
import json
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import cutaway as ct
from cutaway.errors import ArgumentError, LookupFailure
from cutaway.graph.sizes import number_shape


def flops(run: Callable[[], object]) -> int:
    """What torch counts: two for a multiply-add."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def counted(model: nn.Module, x: Tensor, input_too: bool) -> tuple[int, int]:
    """Multiply-adds forward and backward of a whole batch, as torch runs them."""
    x = x.clone().requires_grad_(input_too)
    forward = flops(lambda: model(x))
    everything = flops(lambda: _sum(model(x)).backward())
    return forward // 2, (everything - forward) // 2


def _sum(output: object) -> Tensor:
    return output.sum() if isinstance(output, Tensor) else output[0].sum()  # type: ignore[index]


class Wrapped(nn.Module):
    """A function of the input and some parameters."""

    def __init__(self, function: Callable, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList(torch.randn(shape) for shape in shapes)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.weights)


CASES = {
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, stride=2), (2, 3, 11)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), stride=2, padding=1), (3, 4, 9, 8)),
    "conv2d, dilated": (lambda: nn.Conv2d(2, 3, 3, dilation=2, padding="same"), (2, 2, 7, 7)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (2, 2, 4, 5, 6)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 5, 5)),
    "linear": (lambda: nn.Linear(5, 7), (3, 5)),
    "linear on a sequence": (lambda: nn.Linear(5, 7, bias=False), (3, 4, 5)),
    "chain": (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 5)), (2, 1, 6, 6)),
    "matmul": (lambda: Wrapped(lambda x, w: x @ w, (5, 6)), (3, 4, 5)),
    "matmul, batches": (lambda: Wrapped(lambda x, w: (w @ x).exp(), (4, 6)), (3, 6, 5)),
    "bmm of the input with itself": (lambda: Wrapped(lambda x: torch.bmm(x, x.mT)), (3, 4, 5)),
    "addmm": (lambda: Wrapped(lambda x, b, w: torch.addmm(b, x, w), (6,), (5, 6)), (3, 5)),
    "baddbmm": (lambda: Wrapped(lambda x, b: torch.baddbmm(b, x, x.mT), (4, 4)), (3, 4, 5)),
    "einsum": (lambda: Wrapped(lambda x, w: torch.einsum("nij,jk->nik", x, w), (5, 6)), (3, 4, 5)),
    "einsum of three": (lambda: Wrapped(lambda x, a, b: torch.einsum("ni,ij,jk->nk", x, a, b), (4, 5), (5, 6)), (3, 4)),
    "attention layer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (3, 5, 8)),
}


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_torchs_counter(case: str) -> None:
    make, shape = CASES[case]
    model, x = make().eval(), torch.randn(shape)
    graph = ct.capture(model, x)
    for wrt, input_too in ((graph.parameters, False), ([*graph.parameters, *graph.inputs], True)):
        if not wrt:
            continue
        total = graph.cost(wrt=wrt, batch=len(x)).total
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # no products that are done twice
            assert (total.multiply_adds, total.backward) == counted(model, x, input_too)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d])
def test_groups_are_separate_convolutions(kind: Callable[..., nn.Module]) -> None:
    """Torch counts the adjoint of a grouped kernel too high, so that the groups one by one are the oracle."""
    x = torch.randn(2, 2, *((7,) if kind is nn.Conv1d else (7, 6)))
    forward, backward = counted(kind(2, 3, 3, stride=2), x, input_too=True)
    whole = kind(8, 12, 3, stride=2, groups=4)
    total = ct.capture(whole, x.repeat_interleave(4, dim=1)).cost(wrt=["input", "weight"], batch=2).total
    assert (total.multiply_adds, total.backward) == (4 * forward, 4 * backward)


@pytest.mark.parametrize("needs", [("q",), ("k",), ("v",), ("q", "k"), ("k", "v"), ("q", "k", "v")], ids=str)
def test_attention_by_hand(needs: tuple[str, ...]) -> None:
    q, k, v = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 6, 5), torch.randn(2, 3, 6, 7)
    graph = ct.capture(lambda q, k, v: F.scaled_dot_product_attention(q, k, v), q, k, v)
    scores, mix = 2 * 3 * 4 * 6 * 5, 2 * 3 * 4 * 6 * 7
    expected = mix * ("v" in needs) + mix * ("q" in needs or "k" in needs) + scores * sum(n in needs for n in "qk")
    row = graph.cost(wrt=needs, batch=2).total
    assert (row.multiply_adds, row.backward) == (scores + mix, expected)


@pytest.mark.parametrize(
    ("kind", "gates", "bidirectional"), [(nn.LSTM, 4, True), (nn.GRU, 3, False), (nn.RNN, 1, False)]
)
def test_recurrent_by_hand(kind: Callable[..., nn.Module], gates: int, bidirectional: bool) -> None:
    inputs, hidden, steps, examples = 4, 3, 5, 2
    model = kind(inputs, hidden, num_layers=2, batch_first=True, bidirectional=bidirectional)
    ways = 1 + bidirectional
    first = ways * gates * hidden * inputs
    rest = (
        ways * gates * hidden * (hidden + ways * hidden + hidden)
    )  # h of layer 1; h of layer 1 as input; h of layer 2
    graph = ct.capture(model, torch.randn(examples, steps, inputs))
    row = graph.cost(batch=examples).total
    assert row.multiply_adds == examples * steps * (first + rest)
    assert row.backward == examples * steps * (first + 2 * rest)
    assert graph.cost(wrt="input", batch=examples).total.backward == examples * steps * (first + rest)


def test_lenet5_by_hand() -> None:
    cost = ct.capture(ct.nets.lenet5(), torch.rand(2, 1, 32, 32)).cost()
    work = [row.multiply_adds for row in cost.rows if row.multiply_adds]
    assert work == [6 * 28 * 28 * 25, 16 * 10 * 10 * 6 * 25, 120 * 16 * 25, 120 * 84, 84 * 10]
    assert cost.total.parameters == 61_706  # 156 + 2,416 + 48,120 + 10,164 + 850
    assert cost.total.backward == 2 * sum(work) - work[0]  # the image needs no adjoint
    assert cost["c1"].activation_bytes == 6 * 28 * 28 * 4
    assert cost["act1"].elementwise == 6 * 28 * 28
    assert cost["s2"].elementwise == 6 * 28 * 28  # every value is read once
    assert [row.activation_bytes for row in cost.rows if row.shape == ("N", 120)] == [0]  # a view of c5
    assert cost.batch == 1
    assert cost.ratio == cost.total.backward / cost.total.multiply_adds


def block(inputs: int, outputs: int, stride: int) -> nn.Module:
    """A basic block of a residual network."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
            self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
            same = stride == 1 and inputs == outputs
            short = [nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)]
            self.downsample = nn.Sequential(*([] if same else short))

        def forward(self, x: Tensor) -> Tensor:
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            return F.relu(y + self.downsample(x))

    return Block()


def resnet18() -> nn.Module:
    sizes = [
        (64, 64, 1),
        (64, 64, 1),
        (64, 128, 2),
        (128, 128, 1),
        (128, 256, 2),
        (256, 256, 1),
        (256, 512, 2),
        (512,) * 2,
    ]
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    blocks = [block(*(*size, 1)[:3]) for size in sizes]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


def alexnet() -> nn.Module:
    """Krizhevsky et al. 2012: the two halves are groups."""

    def conv(*size: int, pool: bool = False, **settings: int) -> Iterator[nn.Module]:
        yield nn.Conv2d(*size, **settings)
        yield nn.ReLU()
        if pool:
            yield nn.MaxPool2d(3, 2)

    return nn.Sequential(
        *conv(3, 96, 11, stride=4, pool=True),
        *conv(96, 256, 5, padding=2, groups=2, pool=True),
        *conv(256, 384, 3, padding=1),
        *conv(384, 384, 3, padding=1, groups=2),
        *conv(384, 256, 3, padding=1, groups=2, pool=True),
        *(nn.Flatten(), nn.Linear(9216, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)),
    )


def mobilenet() -> nn.Module:
    """Howard et al. 2017, table 1."""

    def conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        made = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
        return [made, nn.BatchNorm2d(outputs), nn.ReLU()]

    pairs = [(32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]
    pairs += [(512, 512, 1)] * 5 + [(512, 1024, 2), (1024, 1024, 1)]
    layers = conv(3, 32, 3, 2)
    for inputs, outputs, stride in pairs:
        layers += conv(inputs, inputs, 3, stride, inputs) + conv(inputs, outputs, 1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 1000))


@pytest.mark.parametrize(
    ("make", "side", "millions", "parameters"),
    [
        (alexnet, 227, 724, 61.0),  # the paper: 60 million parameters
        (resnet18, 224, 1_814, 11.7),  # the paper: 1.8 · 10⁹
        (mobilenet, 224, 569, 4.2),  # the paper, table 4: 569 million multiply-adds, 4.2 million parameters
    ],
)
def test_papers(make: Callable[[], nn.Module], side: int, millions: int, parameters: float) -> None:
    with torch.device("meta"):
        model = make()
        total = ct.capture(model, torch.empty(2, 3, side, side)).cost().total
    assert round(total.multiply_adds / 1e6) == millions
    assert round(total.parameters / 1e6, 1) == parameters
    assert total.parameters == sum(parameter.numel() for parameter in model.parameters())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.idle = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(2, 2)
        self.again.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.first(self.again(self.first(x)))


def test_shared_parameters_count_once_and_work_each_time() -> None:
    cost = ct.capture(Tied(), torch.randn(2, 4)).cost()
    assert cost.total.parameters == 16 + 4 + 4 + 6 == sum(p.numel() for p in Tied().parameters())
    assert cost.total.multiply_adds == 3 * 16
    assert cost["idle"].parameters == 6
    assert [row.multiply_adds for row in cost.by_module(1) if row.name == "first"] == [32]


def test_by_module_adds_up_at_every_depth() -> None:
    model = nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), nn.Sequential(block(2, 4, 2), nn.Flatten()))
    graph = ct.capture(model, torch.randn(2, 1, 9, 9))
    cost = graph.cost()
    for depth in (0, 1, 2, 3, None):
        rows = cost.by_module(depth)
        for number in ("parameters", "multiply_adds", "elementwise", "backward", "activation_bytes"):
            assert sum(getattr(row, number) for row in rows) == getattr(cost.total, number)
    assert [(row.name, row.op) for row in cost.by_module(1)] == [("0", "Sequential"), ("1", "Sequential")]
    assert [row.name for row in cost.by_module(2)] == ["0.0", "0.1", "1.0", "1.1"]
    assert cost.by_module(2)[2].shape == ("N", 4, 4, 4)
    assert cost["1.0"].multiply_adds == cost.by_module(2)[2].multiply_adds


def test_backward_counts_only_what_the_request_needs() -> None:
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Linear(5, 6, bias=False), nn.Linear(6, 7, bias=False))
    graph = ct.capture(model, torch.randn(2, 4))
    backward = {wrt: graph.cost(wrt=wrt).total.backward for wrt in ("2.weight", "1.weight", "0.weight", "input")}
    assert backward == {"2.weight": 42, "1.weight": 42 + 30, "0.weight": 42 + 30 + 20, "input": 42 + 30 + 20}
    assert graph.cost(of="1", wrt="input").total.backward == 30 + 20
    assert graph.cost(of="1", wrt="2.weight").total.backward == 0


def test_fixed_and_chosen_batch() -> None:
    model, x = nn.Linear(3, 2), torch.randn(5, 3)
    assert ct.capture(model, x).cost(batch=7).total.multiply_adds == 7 * 6
    fixed = ct.capture(model, x, dynamic=False).cost()
    assert fixed.batch is None
    assert fixed.total.multiply_adds == 5 * 6
    with pytest.raises(ArgumentError, match="batch=0"):
        ct.capture(model, x).cost(batch=0)


def test_sizes_are_read() -> None:
    assert number_shape(("N", "2*N", "(N + 1)//2", "Max(1, N - 2)", 3), batch=5) == (5, 10, 3, 3, 3)
    assert number_shape(("M",), batch=5) == (1,)
    with pytest.raises(ArgumentError, match="cannot read the size"):
        number_shape(("N if N else 1",))


def test_save_plot_and_unknown_names(tmp_path) -> None:
    cost = ct.capture(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.randn(2, 3)).cost()
    rows = list(csv.DictReader(cost.save(tmp_path / "cost.csv").open()))
    assert [(row["name"], row["multiply_adds"]) for row in rows] == [("0", "6"), ("1", "0")]
    assert json.loads(cost.save(tmp_path / "cost.json").read_text())["total"]["parameters"] == 8
    assert [bar.get_width() for bar in cost.plot("parameters").axes[0].patches] == [8]
    with pytest.raises(ArgumentError, match=r"cost\.txt"):
        cost.save(tmp_path / "cost.txt")
    with pytest.raises(ArgumentError, match="number='speed'"):
        cost.plot("speed")
    with pytest.raises((ArgumentError, LookupFailure), match="'2'"):
        cost["2"]


def test_measured_time_lies_where_the_work_is() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2048), nn.Linear(2048, 4))
    x = torch.randn(256, 4)
    timing = ct.capture(model, x).measure(x, repeats=5)
    assert [row.name for row in timing.rows] == ["0", "1", "2", "3"]
    seconds = {row.name: row for row in timing.rows}
    assert seconds["2"].forward > seconds["0"].forward
    assert seconds["2"].backward > seconds["0"].backward > 0
    assert timing.total.forward == pytest.approx(sum(row.forward for row in timing.rows))
    assert timing.ratio == pytest.approx(timing.total.backward / timing.total.forward)
    assert timing.gradient_program > timing.forward_program > 0
    assert [row.name for row in timing.by_module(1)] == ["0", "1", "2", "3"]


def test_measured_backward_stops_where_nothing_is_asked(tmp_path) -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(3, 4)
    timing = ct.capture(model, x).measure(x, wrt="2.weight", repeats=2)
    assert [row.backward > 0 for row in timing.rows] == [False, False, True]
    assert len(list(csv.DictReader(timing.save(tmp_path / "times.csv").open()))) == 3
    assert len(timing.plot().axes[0].patches) == 6
    with pytest.raises(ArgumentError, match="repeats=0"):
        ct.capture(model, x).measure(x, repeats=0)
