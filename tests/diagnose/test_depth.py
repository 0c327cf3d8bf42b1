import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cutaway import diagnose
from cutaway.errors import ArgumentError, LookupFailure

from .subjects import Residual, deep

X, Y = torch.rand(16, 32), torch.arange(16) % 4


def hidden(net, x):
    """The layers' values, kept for autograd."""
    values = []
    for part in net:
        x = part(x)
        if not isinstance(part, nn.Linear) or part is net[-1]:
            x.retain_grad()
            values.append(x)
    return values


def test_gradient_norms_are_autograds():
    net, x = deep(nn.Tanh, layers=3).double(), X.double()
    found = diagnose.depth(net, x, Y, examples=0)
    values = hidden(net, x)
    F.cross_entropy(values[-1], Y, reduction="sum").backward()
    expected = [value.grad.norm(dim=1).square().mean().sqrt().item() for value in values]
    assert [layer.gradient_norm for layer in found.layers] == pytest.approx(expected, rel=1e-10)
    for layer, linear in zip(found.layers, (part for part in net if isinstance(part, nn.Linear)), strict=True):
        weights = torch.cat([linear.weight.grad.flatten(), linear.bias.grad]) / 16
        assert layer.weight_gradient_norm == pytest.approx(weights.norm().item(), rel=1e-10)


@pytest.mark.parametrize(
    ("loss", "y", "function"),
    [
        (None, torch.rand(16, 4).double(), lambda z, y: ((z - y) ** 2).sum()),
        ("squared_error", torch.rand(16, 4).double(), lambda z, y: ((z - y) ** 2).sum()),
        (lambda z, y: (z - y).abs().sum(), torch.rand(16, 4).double(), lambda z, y: (z - y).abs().sum()),
    ],
)
def test_other_losses(loss, y, function):
    net, x = deep(nn.Tanh, layers=2).double(), X.double()
    found = diagnose.depth(net, x, y, loss=loss, examples=0)
    values = hidden(net, x)
    function(values[-1], y).backward()
    assert found.layers[0].gradient_norm == pytest.approx(values[0].grad.norm().item() / 4, rel=1e-10)


def test_singular_values_of_a_linear_network_are_its_weights():
    net = deep(nn.Identity, layers=3)
    found = diagnose.depth(net, X)
    for layer, linear in zip(found.layers, (part for part in net if isinstance(part, nn.Linear)), strict=True):
        expected = torch.linalg.svdvals(linear.weight.detach())
        torch.testing.assert_close(layer.jacobian.values[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("activation", "gain", "word"),
    [
        (nn.Sigmoid, 1.0, "vanishing"),
        (nn.ReLU, 0.5, "vanishing"),
        (nn.ReLU, 5.0, "exploding"),
        (nn.Tanh, 1.0, "healthy"),
    ],
)
def test_verdicts_on_known_networks(activation, gain, word):
    found = diagnose.depth(deep(activation, gain=gain), X, Y)
    assert found.verdict.startswith(word)
    assert {layer.verdict for layer in found.layers} <= {word, "healthy"}
    assert (found.factor < 1) == (found.ratio < 1)
    assert found.ratio == pytest.approx(found.factor ** (len(found.layers) - 1))


def test_below_one_everywhere_is_said():
    assert "largest singular value of every layer is below 1" in diagnose.depth(deep(nn.Sigmoid), X).verdict
    assert "singular value" not in diagnose.depth(deep(nn.ReLU, gain=1.4), X).verdict


def test_batch_norm_and_shortcuts_cure_the_sigmoid():
    class Shortcut(nn.Module):
        def __init__(self, part):
            super().__init__()
            self.part = part

        def forward(self, x):
            return self.part(x) + x

    plain = deep(nn.Sigmoid)
    blocks = [Shortcut(nn.Sequential(plain[2 * i], nn.Sigmoid())) for i in range(12)]
    cured = diagnose.depth(nn.Sequential(*blocks, plain[-1]), X, Y)
    assert cured.verdict.startswith("healthy") and cured.ratio > 1e4 * diagnose.depth(plain, X, Y).ratio


def test_layers_inside_a_branch_have_no_jacobian_of_their_own():
    net, x = Residual().eval().double(), torch.rand(2, 3, 4, 4, dtype=torch.float64)
    rows = diagnose.depth(net, x).layers
    assert [row.jacobian is None for row in rows] == [False, True, False, True, False, False]
    with torch.no_grad():
        stem = F.relu(net.norm(net.stem(x)))
    expected = torch.stack(
        [torch.func.jacrev(lambda e: F.relu(net.a(e[None]) + e[None])[0])(e).reshape(64, 64) for e in stem]
    )
    torch.testing.assert_close(rows[2].jacobian.values, torch.linalg.svdvals(expected.detach()))


def test_training_mode_uses_batch_statistics_and_repeatable_dropout():
    net = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 4)).double()
    x = 1000 * X.double()
    found = diagnose.depth(net, x, Y, train=True, seed=5)
    state = torch.get_rng_state()
    again = diagnose.depth(net, x, Y, train=True, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.rows() == again.rows() != diagnose.depth(net, x, Y, train=True, seed=6).rows()
    assert all(layer.jacobian is None for layer in found.layers)
    assert net[1].num_batches_tracked == 0 and (net[1].running_mean == 0).all()
    values = F.relu(F.batch_norm(net[0](x), None, None, net[1].weight, net[1].bias, training=True))
    looked = diagnose.histograms(net, x, Y, train=True).layers[0]
    assert looked.mean == pytest.approx(values.mean().item())


def test_without_targets_a_seed_fixes_the_direction():
    net = deep(nn.Tanh, layers=2)
    first, second, other = (diagnose.depth(net, X, seed=seed, examples=0).layers[0].gradient_norm for seed in (1, 1, 2))
    assert first == second != other
    assert diagnose.depth(net, X, examples=0).layers[-1].gradient_norm == pytest.approx(1.0)


def test_nan_is_named():
    net = deep(nn.Tanh, layers=3)
    with torch.no_grad():
        net[2].weight[0, 0] = float("nan")
    assert "not finite: layer 0 holds NaN" in diagnose.depth(net, X, examples=0).verdict


def test_results_are_drawn_saved_and_listed(tmp_path):
    found = diagnose.depth(deep(nn.Sigmoid, layers=3), X, Y)
    assert found.save(tmp_path / "depth.png").stat().st_size > 5000
    saved = json.loads(found.save(tmp_path / "depth.json").read_text())
    assert saved["verdict"] == found.verdict and saved["layers"] == found.rows()
    assert [row["name"] for row in found.rows()] == ["0", "2", "4", "6"]
    with pytest.raises(ArgumentError, match=r"depth\.doc"):
        found.save(tmp_path / "depth.doc")


def test_the_model_is_left_as_it_was():
    net, x = Residual().train(), torch.rand(2, 3, 4, 4)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    diagnose.depth(net, x, torch.tensor([0, 1]))
    diagnose.histograms(net, x)
    diagnose.dead_units(net, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net.training and all(p.grad is None and p.requires_grad for p in net.parameters())


def test_wrong_targets_and_losses_are_refused():
    net = deep(nn.Tanh, layers=1)
    with pytest.raises(ArgumentError, match="targets go from 0 to 4, classes from 0 to 3"):
        diagnose.depth(net, X, Y + 1 - (Y == 0).long())
    with pytest.raises(ArgumentError, match="16 outputs, but 3 targets"):
        diagnose.depth(net, X, Y[:3])
    with pytest.raises(LookupFailure, match="cross_entropy"):
        diagnose.depth(net, X, Y, loss="crossentropy")
    with pytest.raises(ArgumentError, match="needs targets"):
        diagnose.depth(net, X, loss="cross_entropy")
    with pytest.raises(ArgumentError, match="no layers"):
        diagnose.depth(lambda x: x.sum(1, keepdim=True), X)
