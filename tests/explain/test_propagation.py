"""LRP and DeepLIFT against sums written out, and where others go wrong: functional and reused layers, residual sums."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cutaway import explain, nets
from cutaway.errors import ArgumentError, LookupFailure


def share(x, w, b, relevance, epsilon=1e-6):
    """The ε rule, entry by entry: R_j = Σ_k x_j w_kj / (z_k ± ε) R_k."""
    out = torch.zeros_like(x)
    for n in range(len(x)):
        for k in range(len(w)):
            z = sum(float(x[n, j] * w[k, j]) for j in range(len(w[k]))) + float(b[k])
            z += epsilon if z >= 0 else -epsilon
            for j in range(len(w[k])):
                out[n, j] += float(x[n, j] * w[k, j]) / z * float(relevance[n, k])
    return out


def one_hot(z, target):
    return torch.zeros_like(z).scatter(1, torch.tensor(target)[:, None], 1.0) * z


class Shared(nn.Module):
    """One Linear called twice around a residual sum, functional ReLUs in between; `tied` is the same with copies."""

    def __init__(self, bias=False):
        super().__init__()
        self.inner, self.head = nn.Linear(6, 6, bias=bias), nn.Linear(6, 3, bias=bias)

    def forward(self, x):
        first = F.relu(self.inner(x))
        second = self.inner(first).clamp(min=0) + first
        return self.head(second)

    def untied(self):
        made = copy.deepcopy(self)
        made.again = copy.deepcopy(self.inner)

        def forward(x):
            first = made.inner(x).relu()
            return made.head(made.again(first).relu() + first)

        made.forward = forward
        return made


def test_lrp_of_a_reused_linear_and_a_residual_sum_is_written_out():
    net = Shared(bias=True).double()
    x, target = torch.rand(2, 6, dtype=torch.float64), [2, 0]
    found = explain.lrp(net, x, target, rule="epsilon", score=False).values
    w, b = net.inner.weight.detach(), net.inner.bias.detach()
    first = F.relu(x @ w.T + b)
    second = F.relu(first @ w.T + b)
    r = share(second + first, net.head.weight.detach(), net.head.bias.detach(), one_hot(net(x).detach(), target))
    parts = second + first
    below = parts + 1e-6
    r_first = r * first / below + share(first, w, b, r * second / below)
    torch.testing.assert_close(found, share(x, w, b, r_first), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("method", [explain.lrp, explain.deep_lift])
def test_a_reused_layer_is_explained_like_its_copies(method):
    net, x = Shared(bias=True).double(), torch.rand(3, 6, dtype=torch.float64)
    tied, untied = (method(each, x, 1, score=False).values for each in (net, net.untied()))
    torch.testing.assert_close(tied, untied)


class Residual(nn.Module):
    """Without biases: convolutions, a residual sum, functional and in-place ReLUs, ReLU6, clamp, pooling."""

    def __init__(self):
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.head = nn.Linear(6, 4, bias=False)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        x = F.relu6(self.block(x)) + x
        x = self.block(x).relu_() + x.clamp(min=0)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("rule", ["epsilon", "alpha_beta", "composite"])
def test_relevance_is_conserved_without_biases(rule):
    net, x = Residual().double(), torch.rand(4, 3, 8, 8, dtype=torch.float64)
    if rule != "epsilon":  # a unit without any positive contribution has nothing to share its relevance among
        for parameter in net.parameters():
            parameter.data.abs_()
    beta = {"alpha": 1.0, "beta": 0.0} if rule == "alpha_beta" else {}
    found = explain.lrp(net, x, [0, 1, 2, 3], rule=rule, epsilon=1e-12, score=False, **beta)
    logits = net(x).gather(1, torch.arange(4)[:, None])[:, 0]
    torch.testing.assert_close(found.values.sum((1, 2, 3)), logits, rtol=1e-6, atol=1e-9)
    assert found.gap.max() < 1e-6 and not found.warning


def test_standardisation_takes_no_relevance():
    net, x = Residual().double(), torch.rand(2, 3, 8, 8, dtype=torch.float64)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])
    inside = (x - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    bare = explain.lrp(net, inside, 1, rule="epsilon", score=False)
    found = explain.lrp(nets.normalized(net, mean, std).double(), x, 1, rule="epsilon", score=False)
    torch.testing.assert_close(found.values, bare.values, rtol=1e-5, atol=1e-8)
    assert found.gap.max() < 1e-3


def test_batch_norm_counts_as_part_of_its_convolution(pooled, x):
    pooled.norm.running_mean.normal_(0, 0.1)
    pooled.norm.running_var.uniform_(0.5, 2)
    folded = copy.deepcopy(pooled).eval()
    scale = folded.norm.weight / torch.sqrt(folded.norm.running_var + folded.norm.eps)
    folded.conv1.weight.data = folded.conv1.weight.data * scale.detach().view(-1, 1, 1, 1)
    folded.conv1.bias.data = ((folded.conv1.bias - folded.norm.running_mean) * scale + folded.norm.bias).detach()
    folded.norm = nn.Identity()
    for rule in ("epsilon", "alpha_beta", "composite"):
        first, second = (explain.lrp(net, x, 2, rule=rule, score=False).values for net in (pooled, folded))
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-9)


def test_lrp_of_another_number_shares_that_out(mixed, x):
    found = explain.lrp(mixed, x, 1, of="log_probability", rule="epsilon", score=False)
    z = copy.deepcopy(mixed).eval()(x).detach()
    promised = (z * (F.one_hot(torch.tensor([1, 1, 1]), 5) - z.softmax(1))).sum(1)
    torch.testing.assert_close(found.gap, (found.values.sum((1, 2, 3)) - promised).abs() / promised.abs())


def test_deep_lift_is_written_out_on_a_perceptron():
    net = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 3)).double()
    x, baseline = torch.randn(5, 4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    found = explain.deep_lift(net, x, 2, baseline=baseline, score=False)
    z, z0 = net[0](x), net[0](baseline)
    slope = (z.relu() - z0.relu()) / (z - z0)
    expected = ((net[2].weight[2] * slope) @ net[0].weight) * (x - baseline)
    torch.testing.assert_close(found.values, expected.detach())


@pytest.mark.parametrize("of", ["logit", "log_probability", lambda z: z.square().sum(1)])
@pytest.mark.parametrize("subject", ["mixed", "vit", "pooled"])
def test_deep_lift_adds_up_on_any_architecture(subject, of, request, x):
    net = request.getfixturevalue(subject)
    target = None if callable(of) else [0, 3, 1]
    found = explain.deep_lift(net, x, target, of=of, baseline=0.3, score=False)
    plain = copy.deepcopy(net).eval()
    value = of if callable(of) else lambda z: (z if of == "logit" else z.log_softmax(1))[[0, 1, 2], [0, 3, 1]]
    promised = (value(plain(x)) - value(plain(torch.full_like(x, 0.3)))).detach()
    torch.testing.assert_close(found.values.sum((1, 2, 3)), promised, rtol=1e-6, atol=1e-9)
    assert found.gap.max() < 1e-6


def test_deep_lift_does_not_mind_how_a_relu_is_written(mixed, x):
    modular = copy.deepcopy(mixed)
    modular.rectify = lambda value, kind: nn.ReLU()(value)
    torch.testing.assert_close(
        explain.deep_lift(mixed, x, 1, score=False).values, explain.deep_lift(modular, x, 1, score=False).values
    )


def test_relevance_rules_are_made_once(mixed, x):
    for method in (explain.lrp, explain.deep_lift):
        method(mixed, x, score=False)
    programs = explain.propagation.G.capture(mixed, x).programs
    before = len(programs)
    for method in (explain.lrp, explain.deep_lift):
        method(mixed, x, score=False)
    assert len(programs) == before


def test_the_default_rule_follows_the_architecture(mixed, x):
    assert explain.lrp(mixed, x, score=False).settings["rule"] == "composite"
    table = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    assert explain.lrp(table, torch.rand(2, 4), score=False).settings["rule"] == "epsilon"


def test_wrong_arguments_are_refused(mixed, x):
    with pytest.raises(LookupFailure, match="epsilon"):
        explain.lrp(mixed, x, rule="epsilom")
    with pytest.raises(ArgumentError, match="epsilon > 0, got -1"):
        explain.lrp(mixed, x, epsilon=-1.0)
    with pytest.raises(ArgumentError, match="α = 2"):
        explain.lrp(mixed, x, rule="alpha_beta", alpha=2.0, beta=2.0)
    with pytest.raises(ArgumentError, match=r"\(7,\) does not broadcast"):
        explain.deep_lift(mixed, x, baseline=torch.zeros(7))
