"""Every pass keeps values and adjoints, to rounding in float64, and follows the parameters."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cutaway as ct
from cutaway.errors import ArgumentError
from cutaway.graph.passes import PASSES, cut, start
from tests.graph.subjects import images, reused


class Residual(nn.Module):
    """Convolutions with and without bias, batch norm, sums with and without ReLU, groups, stride, dilation, scales."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.left = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.right = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, affine=False))
        self.depthwise = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.grouped = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2)
        self.narrower = nn.Conv2d(8, 16, (3, 2), stride=(2, 1), padding=1, groups=8)
        self.scale, self.narrow_scale = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(16, 1, 1))
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(self.left(x) + self.right(x))
        x = x + self.depthwise(x) * self.scale.reshape(1, -1, 1, 1)
        x = self.narrow_scale.exp() * self.narrower(F.relu(self.grouped(self.stemless(x))))
        return self.head(F.relu(x).mean((2, 3)))

    def stemless(self, x: torch.Tensor) -> torch.Tensor:
        return self.left[0](x)


def subject(dtype: torch.dtype) -> nn.Module:
    model = Residual().to(dtype).eval()
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5) if "var" in name else buffer.uniform_(-0.2, 0.2)
    return model


@pytest.mark.parametrize("name", list(PASSES))
@pytest.mark.parametrize("size", [12, 13])
def test_a_pass_keeps_the_answer(name: str, size: int) -> None:
    model, x = subject(torch.float64), torch.randn(3, 3, size, size, dtype=torch.float64)
    graph = ct.capture(model, x)
    passed = graph.optimized([name])
    assert torch.allclose(passed(x), model(x), rtol=1e-12)
    seed = torch.randn(3, 5, dtype=torch.float64)
    assert torch.allclose(passed.gradient()(x, seed=seed), graph.gradient()(x, seed=seed), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_all_passes_keep_the_answer_for_any_batch(dtype: torch.dtype) -> None:
    model = subject(dtype)
    tolerance = 1e-11 if dtype == torch.float64 else 1e-4
    graph = ct.capture(model, torch.randn(2, 3, 13, 13, dtype=dtype))
    passed = graph.optimized()
    operations = [node.op_name for node in passed.nodes if node.op is not None]
    assert not {"batch_norm", "conv2d", "mul"} & {*operations} and operations.count("convolution") == 7
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 13, 13, dtype=dtype)
        ours, theirs = passed.gradient()(x), graph.gradient()(x)
        assert torch.allclose(passed(x), model(x), rtol=tolerance, atol=tolerance)
        assert ((ours - theirs).norm() / theirs.norm()).item() < tolerance * 10


def test_folded_weights_follow_the_parameters() -> None:
    model, x = subject(torch.float64), torch.randn(2, 3, 12, 12, dtype=torch.float64)
    passed = ct.capture(model, x).optimized()
    before = passed(x)
    with torch.no_grad():
        model.norm.weight.mul_(1.5)
    assert not torch.equal(passed(x), before)
    assert torch.allclose(passed(x), model(x), rtol=1e-12)
    model.load_state_dict(subject(torch.float64).state_dict())
    assert torch.allclose(passed(x), model(x), rtol=1e-12)
    model.norm = nn.BatchNorm2d(8).double().eval()
    assert torch.allclose(ct.capture(model, x).optimized()(x), model(x), rtol=1e-12)


def test_prepared_weights_are_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = subject(torch.float32), torch.randn(2, 3, 12, 12)
    passed = ct.capture(model, x).optimized()
    passed(x)
    known = {node: entry[1] for node, entry in passed.preparations.items()}
    passed(x)
    assert known and all(passed.preparations[node][1] is value for node, value in known.items())


def test_what_is_asked_for_is_not_merged_away() -> None:
    model, x = reused().eval(), images()
    graph = ct.capture(model, x).optimized(["remove_dead_code"])
    assert "block.norm" in graph
    with pytest.raises(LookupError, match="'fold'"):
        ct.capture(model, x).optimized(["fold"])


def test_cut_ends_at_a_node() -> None:
    model, x = reused().eval(), images()
    shallow = cut(ct.capture(model, x), "block")
    assert torch.equal(shallow(x), model.block(x))
    assert "head" not in shallow
    assert not any(node.name == "stem.0" for node in shallow.nodes)


def test_running_statistics_of_a_batch_are_not_folded() -> None:
    model, x = subject(torch.float64).train(), torch.randn(4, 3, 12, 12, dtype=torch.float64)
    graph = ct.capture(model, x, train=True)
    passed = graph.optimized()
    assert torch.allclose(passed(x), graph(x), rtol=1e-10)
    assert set(passed.updates) == set(graph.updates)


def reader(dtype: torch.dtype, position: int) -> nn.Module:
    """Two transformer blocks whose classifier reads one token."""
    torch.manual_seed(0)

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True, norm_first=True)
            self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.scale, self.norm, self.head = nn.Parameter(torch.rand(8)), nn.LayerNorm(8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.norm(self.blocks(x) * self.scale + x)[:, position])

    return Reader().to(dtype).eval()


@pytest.mark.parametrize("position", [0, 3, -1])
def test_tokens_nobody_reads_are_left_out(position: int) -> None:
    model, x = reader(torch.float64, position), torch.randn(3, 11, 8, dtype=torch.float64)
    graph = ct.capture(model, x)
    passed = graph.optimized(["skip_unread"])
    assert passed.cost().total.multiply_adds < 0.85 * graph.cost().total.multiply_adds
    for batch in (3, 5):
        x = torch.randn(batch, 11, 8, dtype=torch.float64)
        leaf = x.clone().requires_grad_()
        value = model(leaf)
        seed = torch.randn_like(value)
        assert torch.allclose(passed(x), value, rtol=1e-10)
        expected = torch.autograd.grad(value, leaf, seed)[0]
        assert torch.allclose(passed.gradient()(x, seed=seed), expected, rtol=1e-9, atol=1e-12)


def test_one_query_attends_alone() -> None:
    x = torch.randn(2, 3, 7, 4, dtype=torch.float64)
    graph = ct.capture(lambda x: F.scaled_dot_product_attention(x, x * 2, x.sin())[:, :, 2].sum(1), x)
    passed = graph.optimized(["skip_unread"])
    assert passed.cost().total.multiply_adds * 7 == graph.cost().total.multiply_adds
    assert torch.allclose(passed(x), graph(x), rtol=1e-10)
    assert torch.allclose(passed.gradient()(x), graph.gradient()(x), rtol=1e-9, atol=1e-12)


def test_what_is_read_twice_or_whole_stays() -> None:
    layer, x = nn.Linear(4, 4), torch.randn(2, 5, 4)
    for function in (
        lambda x: (layer(x)[:, 0], layer(x)),  # returned
        lambda x: layer(x)[:, 0] + layer(x).sum(1),  # also summed
        lambda x: layer(x)[..., 0],  # the features themselves
        lambda x: (y := layer(x))[:, 0] * y[:, 1],  # two positions
    ):
        graph = ct.capture(function, x)
        passed = graph.optimized(["skip_unread"])
        assert passed.cost().total.multiply_adds >= min(graph.cost().total.multiply_adds, 96)
        for ours, theirs in zip(passed.outputs, graph.outputs, strict=True):
            assert ours.shape == theirs.shape
        assert torch.allclose(passed.gradient()(x), graph.gradient()(x), atol=1e-6)


@pytest.mark.parametrize("rules", [ct.rules.guided, ct.rules.deconvnet], ids=["guided", "deconvnet"])
def test_rules_for_rectifiers_reach_those_inside_fused_convolutions(rules: dict) -> None:
    model, x = subject(torch.float64), torch.randn(2, 3, 12, 12, dtype=torch.float64)
    graph = ct.capture(model, x)
    ours, plain = graph.optimized().gradient(rules=rules)(x), graph.gradient(rules=rules)(x)
    assert torch.allclose(ours, plain, rtol=1e-10, atol=1e-14)
    assert (plain - graph.gradient()(x)).abs().max() > 1e-3


@pytest.mark.parametrize("key", ["relu", "add", "conv2d"])
def test_a_rule_for_what_was_merged_is_refused(key: str) -> None:
    model, x = subject(torch.float64), torch.randn(2, 3, 12, 12, dtype=torch.float64)
    passed = ct.capture(model, x).optimized()
    with pytest.raises(ArgumentError, match=f"{key}.*merged"):
        passed.gradient(rules={key: lambda grad: grad})


def test_kept_nodes_keep_their_values() -> None:
    model, x = subject(torch.float64), torch.randn(2, 3, 12, 12, dtype=torch.float64)
    graph = ct.capture(model, x)
    assert "stem" not in graph.optimized().by_name
    kept = graph.optimized(keep=["stem"])
    value = kept.gradient(wrt=[], values=["stem"]).evaluate(x)[0]["stem"]
    assert torch.allclose(value, model.stem(x))


def test_a_graph_without_passes_is_the_graph() -> None:
    model, x = subject(torch.float64), torch.randn(2, 3, 12, 12, dtype=torch.float64)
    graph = ct.capture(model, x)
    assert torch.equal(graph.optimized([])(x), graph(x)) and graph.module is model


def test_a_graph_that_starts_inside_gives_the_same_adjoint() -> None:
    model, x = subject(torch.float64), torch.randn(2, 3, 12, 12, dtype=torch.float64)
    graph = ct.capture(model, x)
    values, adjoints = graph.gradient(wrt=["grouped"], values=["grouped"]).evaluate(x)
    head = start(graph, "grouped")
    assert torch.equal(head(values["grouped"]), graph(x))
    assert torch.equal(head.gradient()(values["grouped"]), adjoints["grouped"])
    with pytest.raises(ArgumentError, match=r"around 'left\.0'"):
        start(graph, "left.0")


def test_a_trace_after_the_passes_has_the_adjoints_of_the_graph_before() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
    graph = ct.capture(model.eval(), torch.randn(2, 3, 8, 8))
    x = torch.randn(2, 3, 8, 8)
    plain = graph.run(x).backward()
    for end in (None, "input"):
        traced = graph.optimized().run(x).backward(wrt=end)
        assert torch.allclose(traced["input"].adjoint, plain["input"].adjoint, atol=1e-6)
    traced = graph.optimized().run(x).backward()
    for name in ("0.bias", "2.bias", "5.weight"):
        assert torch.allclose(traced[name].adjoint, plain[name].adjoint, atol=1e-5), name
    assert traced["0.weight"].adjoint is None  # rather than zero


def test_adjoints_that_no_pass_leaves_a_way_to_are_refused() -> None:
    model = subject(torch.float32)
    graph = ct.capture(model, torch.randn(2, 3, 12, 12))
    for passes in (["fuse_convolutions"], ["pack_convolutions"], ["fold_batch_norm", "fold_constants"]):
        passed = graph.optimized(passes)
        with pytest.raises(ArgumentError, match=r"prepares something of 'stem.weight'.*before the passes"):
            passed.gradient(wrt=["x", "stem.weight"])
        with pytest.raises(ArgumentError, match=r"stem.weight"):
            passed.run(torch.randn(2, 3, 12, 12)).backward(wrt="stem.weight")
        assert passed.gradient(wrt="head.weight")(torch.randn(2, 3, 12, 12)).any()


def test_a_weight_that_the_input_makes_is_not_packed() -> None:
    def dynamic(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, w.tanh(), padding=1)

    x, w = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3)
    graph = ct.capture(dynamic, x, w)
    seed = torch.randn(2, 4, 6, 6)
    for name in ("x", "w"):
        found = graph.optimized().gradient(wrt=name)(x, w, seed=seed)
        assert torch.allclose(found, graph.gradient(wrt=name)(x, w, seed=seed), atol=1e-5)
