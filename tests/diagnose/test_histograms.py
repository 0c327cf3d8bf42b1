import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cutaway import diagnose
from cutaway.diagnose.verdict import WORDS, Finding, judge, summary
from cutaway.errors import ArgumentError

from .subjects import Residual, deep

X, Y = torch.rand(64, 32), torch.arange(64) % 4


def test_counts_are_numpys():
    net = deep(nn.Tanh, layers=2)
    found = diagnose.histograms(net, X, Y)
    values = [net[:2](X), net[:4](X), net(X)]
    for layer, value in zip(found.layers, values, strict=True):
        edges = layer.value_edges.numpy()
        expected = np.histogram(value.detach().clamp(float(edges[0]), float(edges[-1])).numpy(), edges)[0]
        assert layer.values.sum() == value.numel()
        assert np.abs(layer.values.numpy() - expected).sum() <= 4  # a value on an edge may fall on either side
        assert layer.mean == pytest.approx(value.mean().item(), abs=1e-6)
        assert layer.std == pytest.approx(value.std(correction=0).item(), rel=1e-5)


def test_gradients_are_counted_by_decade():
    net = deep(nn.ReLU, layers=2, gain=1.4).double()
    found = diagnose.histograms(net, X.double(), Y)
    first = net[1](net[0](X.double()))
    first.retain_grad()
    F.cross_entropy(net[2:](first), Y, reduction="sum").backward()
    gradient = first.grad
    layer = found.layers[0]
    decades = gradient[gradient != 0].abs().log10()
    edges = layer.gradient_edges.double().numpy()
    assert np.abs(layer.gradients.numpy() - np.histogram(decades.numpy(), edges)[0]).sum() <= 2
    assert layer.zero_gradients == pytest.approx((gradient == 0).double().mean().item())
    assert layer.gradient_norm == pytest.approx(gradient.norm(dim=1).square().mean().sqrt().item())


def test_hidden_layers_share_their_edges_and_hold_nearly_all_values():
    found = diagnose.histograms(deep(nn.ReLU, gain=1.4), X, Y)
    hidden = [layer.value_edges for layer in found.layers[:-1]]
    assert all(torch.equal(edges, hidden[0]) for edges in hidden)
    assert all(len(layer.values) == 64 and layer.values[1:-1].sum() > 0 for layer in found.layers)


def test_start_and_end_of_training_can_be_compared():
    end = diagnose.histograms(deep(nn.Tanh, layers=3, gain=2.0), X, Y, bins=20)
    start = diagnose.histograms(deep(nn.Tanh, layers=3), X, Y, like=end)
    assert torch.equal(start.layers[1].value_edges, end.layers[1].value_edges)
    assert start.layers[1].values.sum() == end.layers[1].values.sum() == 64 * 32
    assert len(end.plot(before=start).axes) == 8
    with pytest.raises(ArgumentError, match="another network"):
        diagnose.histograms(deep(nn.Tanh, layers=2), X, Y, like=end)


@pytest.mark.parametrize(
    ("activation", "gain", "word"),
    [
        (nn.Sigmoid, 1.0, "vanishing"),
        (nn.ReLU, 0.3, "vanishing"),
        (nn.ReLU, 6.0, "exploding"),
        (nn.Tanh, 20.0, "saturated"),
        (nn.Tanh, 1.0, "healthy"),
        (lambda: nn.LeakyReLU(0.1), 1.4, "healthy"),
    ],
)
def test_verdicts_on_known_networks(activation, gain, word):
    found = diagnose.histograms(deep(activation, gain=gain), X - 0.5, Y)
    assert word in found.verdict
    assert word in {layer.verdict for layer in found.layers}
    if word == "healthy":
        assert {layer.verdict for layer in found.layers} == {"healthy"} and found.verdict.startswith("healthy")


def test_dead_and_saturated_shares_by_hand():
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.copy_(torch.tensor([1.0, -1.0, -2.0, 3.0]))  # two of four never fire
        net[2].weight.zero_()
        net[2].bias.copy_(torch.tensor([0.0, 5.0, -5.0, 2.0]))  # slopes .25, .0066, .0066, .105; the limit is .025
    first, second, last = diagnose.histograms(net, torch.rand(8, 2), torch.zeros(8, dtype=torch.long)).layers
    assert (first.dead, first.saturated) == (0.5, None)
    assert (second.dead, second.saturated) == (None, 0.5) and second.verdict == "saturated"
    assert (last.dead, last.saturated) == (None, None)


@pytest.mark.parametrize(
    ("activation", "biases", "saturated", "dead"),
    [
        (nn.Tanh(), [0.0, 1.0, 2.0, -3.0], 0.5, None),  # 1 − t² = 1, .42, .07, .01
        (nn.Hardtanh(), [0.0, 0.5, 2.0, -3.0], 0.5, None),
        (nn.ReLU6(), [-1.0, 1.0, 5.0, 7.0], 0.25, 0.25),
        (nn.Hardsigmoid(), [0.0, 2.0, 4.0, -4.0], 0.5, None),
        (nn.ReLU(), [-1.0, 1.0, 1.0, 1.0], None, 0.25),
        (nn.GELU(), [-9.0, 1.0, 1.0, 1.0], None, None),
    ],
)
def test_flat_parts_of_every_activation(activation, biases, saturated, dead):
    net = nn.Sequential(nn.Linear(1, 4), activation, nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.copy_(torch.tensor(biases))
    layer = diagnose.histograms(net, torch.rand(5, 1)).layers[0]
    assert (layer.saturated, layer.dead) == (saturated, dead)


def test_the_first_bad_layer_is_named_and_the_rest_counted():
    findings = [
        Finding("healthy", ""),
        Finding("vanishing", "why a"),
        Finding("vanishing", "why b"),
        Finding("dead ReLUs", "c"),
    ]
    assert summary(findings, "fine") == "vanishing: why a (and 1 more of 4 layers); dead ReLUs: c."


def test_the_worst_word_wins():
    assert judge("a", float("nan"), 1.0, 1.0, 1.0).word == "not finite"
    assert judge("a", 1e-9, 1e9, 1.0, 1.0).word == "exploding"
    assert judge("a", 1e-9, 1.0, 1.0, 1.0).word == "vanishing"
    assert judge("a", 1.0, 1e-9, 1.0, 1.0).word == "vanishing"
    assert judge("a", 1.0, 1.0, 0.2, 1.0).word == "dead ReLUs"
    assert judge("a", 1.0, 1.0, 0.19, 0.5).word == "saturated"
    assert judge("a", 1.0, 1.0, 0.19, 0.49).word == "healthy" == WORDS[-1]


def test_results_are_drawn_saved_and_listed(tmp_path):
    found = diagnose.histograms(Residual().eval(), torch.rand(4, 3, 5, 5), torch.tensor([0, 1, 2, 0]))
    assert found.save(tmp_path / "histograms.png").stat().st_size > 5000
    saved = json.loads(found.save(tmp_path / "histograms.json").read_text())
    assert [row["name"] for row in saved["layers"]] == [row["name"] for row in found.rows()]
    assert len(saved["layers"][0]["value_edges"]) == len(saved["layers"][0]["values"]) + 1


def test_bins_must_be_two_or_more():
    with pytest.raises(ArgumentError, match="got 1"):
        diagnose.histograms(deep(nn.Tanh, layers=1), X, bins=1)
