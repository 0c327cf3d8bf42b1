"""Rule sets against their definitions by sums, and against what they promise: conservation, completeness, seeds."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cutaway as ct
from cutaway.errors import ArgumentError
from cutaway.graph import rules
from tests.graph.subjects import images, reused


def mlp(bias: bool = True) -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(4, 5, bias=bias), nn.ReLU(), nn.Linear(5, 3, bias=bias)).double()


def close(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance)


# guided backprop and the deconvnet
class Rectifier(torch.autograd.Function):
    """A ReLU whose backward pass is given: `mode` is "guided" or "deconvnet"."""

    @staticmethod
    def forward(ctx, x: Tensor, mode: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.mode = mode
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (x,) = ctx.saved_tensors
        return grad.clamp(min=0) * (x > 0 if ctx.mode == "guided" else 1), None


@pytest.mark.parametrize("mode", ["guided", "deconvnet"])
@pytest.mark.parametrize(
    "rectifier", [F.relu, lambda x: x.clamp(min=0), lambda x: F.hardtanh(x, 0, 1e9), lambda x: F.threshold(x, 0, 0)]
)
def test_rectifiers_are_replaced_wherever_they_are(mode: str, rectifier: Callable) -> None:
    torch.manual_seed(0)
    first, second = torch.randn(3, 4, 2, 2, dtype=torch.float64), torch.randn(2, 3, 2, 2, dtype=torch.float64)

    def net(x: Tensor, rectify: Callable) -> Tensor:
        x = rectify(F.conv2d(x, first))
        return rectify(F.conv2d(rectify(-x + 0.3), second)).sum((2, 3))

    x = torch.randn(2, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    seed = torch.randn(2, 2, dtype=torch.float64)
    expected = torch.autograd.grad(net(x, lambda z: Rectifier.apply(z, mode)), x, seed)[0]
    ours = ct.grad(lambda x: net(x, rectifier), rules=getattr(rules, mode))(x.detach(), seed=seed)
    assert close(ours, expected)


def test_rules_for_operations_leave_parts_with_their_names_alone() -> None:
    class Misnamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.threshold = nn.GELU(), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.threshold(x))

    model, x = Misnamed().double(), torch.randn(3, 4, dtype=torch.float64)
    graph = ct.capture(model, x)
    assert torch.equal(graph.gradient(rules=rules.guided)(x), graph.gradient()(x))


def test_guided_backprop_serves_in_place_and_reused_rectifiers(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = reused().eval(), images()
    ours = ct.grad(model, rules=rules.guided)(x)
    twin = copy.deepcopy(model)
    monkeypatch.setattr(F, "relu", lambda z, inplace=False: Rectifier.apply(z, "guided"))
    leaf = x.clone().requires_grad_()
    assert close(ours, torch.autograd.grad(twin(leaf).sum(), leaf)[0])


# layer-wise relevance propagation
def relevance(model: nn.Module | Callable, x: Tensor, rule_set: dict) -> tuple[Tensor, Tensor]:
    """Relevance of the input for the first logit, and that logit."""
    graph = ct.capture(model, x)
    values, adjoints = graph.gradient(rules=rule_set).evaluate(
        x, seed=lambda z: z * torch.eye(z.shape[1], dtype=z.dtype)[0]
    )
    return next(iter(adjoints.values())), next(iter(values.values()))[:, 0]


def sign(z: float) -> float:
    return 1.0 if z >= 0 else -1.0


def share_by_sums(x: Tensor, w: Tensor, r: Tensor, rule: str, epsilon: float, bias: Tensor) -> Tensor:
    """One layer's relevance, entry by entry."""
    out = torch.zeros_like(x)
    for k in range(w.shape[0]):
        z = [float(x[j] * w[k, j]) for j in range(len(x))]
        total = sum(z) + float(bias[k])
        up, down = sum(v for v in z if v > 0), sum(v for v in z if v < 0)
        for j in range(len(x)):
            if rule == "epsilon":
                out[j] += z[j] / (total + epsilon * sign(total)) * r[k]
            elif rule == "alpha_beta":
                out[j] += (2 * max(z[j], 0) / up if up else 0) * r[k] - (min(z[j], 0) / down if down else 0) * r[k]
            else:
                out[j] += r[k] / len(x)
    return out


@pytest.mark.parametrize("rule", ["epsilon", "alpha_beta"])
def test_lrp_is_its_definition(rule: str) -> None:
    model, x = mlp(), torch.randn(2, 4, dtype=torch.float64)
    made = rules.lrp_epsilon(0.1) if rule == "epsilon" else rules.lrp_alpha_beta(2, 1)
    ours, _ = relevance(model, x, made)
    for n in range(2):
        hidden = model[:2](x[n]).detach()
        r = torch.zeros(3, dtype=torch.float64)
        r[0] = model(x[n])[0]
        r = share_by_sums(hidden, model[2].weight.detach(), r, rule, 0.1, model[2].bias.detach())
        r = share_by_sums(x[n], model[0].weight.detach(), r, rule, 0.1, model[0].bias.detach())
        assert close(ours[n], r, 1e-6)


class Mixed(nn.Module):
    """Without biases: convolutions, a residual sum, pooling of both kinds, a transposed convolution, a gate, a mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Conv2d(3, 4, 3, padding="same", bias=False)
        self.block = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2, bias=False)
        self.head = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        x = F.gelu(self.block(x)) + x
        x = F.avg_pool2d(self.up(x), 2)
        return self.head((x * x.mean((2, 3), keepdim=True)).mean((2, 3)))


@pytest.mark.parametrize("made", ["epsilon", rules.lrp_alpha_beta(1, 0), "composite"])
def test_relevance_is_conserved(made: dict | str) -> None:
    model, x = Mixed().double(), images(3, 8).abs()
    if made != "epsilon":  # a unit without positive contributions has nothing to share its relevance among
        for parameter in model.parameters():
            parameter.data.abs_()
    made = rules.lrp_epsilon(1e-12) if made == "epsilon" else made
    rule_set = rules.lrp_composite(ct.capture(model, x), 1e-12) if made == "composite" else made
    found, logit = relevance(model, x, rule_set)
    assert close(found.sum((1, 2, 3)), logit, 1e-5)


def test_batch_norm_after_convolution_is_as_if_folded() -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
    nn.init.uniform_(norm.weight, -2, 2)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    model = nn.Sequential(conv, norm, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 3)).double().eval()
    folded = copy.deepcopy(model)
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    folded[0].weight.data = conv.weight.data * scale.view(-1, 1, 1, 1)
    folded[0].bias.data = (conv.bias - norm.running_mean) * scale + norm.bias
    folded[1] = nn.Identity()
    x = images(2, 5)
    # the convolution's own bias is absorbed before the norm's
    conv.bias.data.zero_()
    folded[0].bias.data = -norm.running_mean * scale + norm.bias
    first, second = (relevance(m, x, rules.lrp_epsilon(1e-12))[0] for m in (model, folded))
    assert close(first, second, 1e-6)


def test_the_composite_is_flat_first_zplus_in_between_and_epsilon_last() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU(), nn.Conv1d(2, 2, 2), nn.Flatten(), nn.Linear(10, 2)).double()
    x = torch.rand(1, 1, 8, dtype=torch.float64)
    graph = ct.capture(model, x)
    trace = graph.run(x, rules=rules.lrp_composite(graph)).backward(
        seed=lambda z: z * torch.tensor([1.0, 0.0]).double()
    )
    flat = trace["3"].value[0]
    last = share_by_sums(
        flat, model[4].weight.detach(), trace["output"].adjoint[0], "epsilon", 1e-6, model[4].bias.detach()
    )
    assert close(trace["3"].adjoint[0], last, 1e-6)
    middle, hidden, w = trace["2"].adjoint[0], trace["1"].value[0], model[2].weight.detach()
    expected = torch.zeros_like(hidden)
    for k in range(2):
        for t in range(5):
            z = hidden[:, t : t + 2] * w[k]
            expected[:, t : t + 2] += z.clamp(min=0) / z.clamp(min=0).sum().clamp(min=1e-300) * middle[k, t]
    assert close(trace["1"].adjoint[0], expected, 1e-5)
    windows = trace["0"].adjoint[0].sum(0)  # (6,): each spread evenly over three inputs
    expected = torch.stack([windows[max(0, t - 2) : min(6, t + 1)].sum() / 3 for t in range(8)])
    assert close(trace["x" if "x" in graph else "input"].adjoint[0, 0], expected, 1e-6)


def test_attention_is_shared_as_if_written_out() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 5, 4, dtype=torch.float64) for _ in range(3))
    mask = torch.randn(5, 5, dtype=torch.float64)

    def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, mask)

    def written(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax((q @ k.mT) * 0.5 + mask, -1) @ v

    made, seed = rules.lrp_epsilon(1e-12), torch.randn(2, 5, 4, dtype=torch.float64)
    found = [ct.grad(f, wrt=["q", "k", "v"], rules=made)(q, k, v, seed=seed) for f in (fused, written)]
    for name, a, b in zip("qkv", *found, strict=True):
        assert close(a, b, 1e-8) or name != "v", name
    assert close(found[0][2].sum((1, 2)), seed.sum((1, 2)) / 2, 1e-8), "half of it goes through the values"


def test_a_norm_shares_like_the_linear_map_it_is_for_a_fixed_scale() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, dtype=torch.float64)
    norm = nn.LayerNorm(6, elementwise_affine=False).double()
    found, logit = relevance(norm, x, rules.lrp_epsilon(1e-12))
    rstd = torch.rsqrt(x.var(1, unbiased=False, keepdim=True) + norm.eps)
    r = torch.zeros_like(x)
    r[:, 0] = logit
    s = r / norm(x)
    assert close(found, x * rstd * (s - s.mean(1, keepdim=True)), 1e-8)
    groups = nn.GroupNorm(2, 6, affine=False).double()
    assert close(
        relevance(groups, x, rules.lrp_epsilon(1e-12))[0].sum(1),
        relevance(groups, x, rules.lrp_epsilon(1e-12))[1],
        1e-6,
    )


def test_alpha_minus_beta_is_one() -> None:
    with pytest.raises(ArgumentError, match=r"α = 2, β = 2"):
        rules.lrp_alpha_beta(2, 2)


# DeepLIFT
class Attentive(nn.Module):
    """Norms, attention with a mask, gates, a quotient: all that is taken apart."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.norm, self.last = nn.LayerNorm(6), nn.RMSNorm(6)
        self.q, self.k, self.v = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (part(h).unflatten(-1, (2, 3)).transpose(1, 2) for part in (self.q, self.k, self.v))
        a = (
            F.scaled_dot_product_attention(q, k, v, torch.ones(4, 4, dtype=torch.bool).tril())
            .transpose(1, 2)
            .flatten(2)
        )
        x = x + a * torch.sigmoid(h)
        x = self.last(x) / (1.5 + x.square().mean(-1, keepdim=True))
        return F.log_softmax(self.head(F.silu(x).mean(1)), -1)


def convolutional() -> nn.Module:
    torch.manual_seed(2)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.block, self.group = nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4)
            self.gate, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = F.max_pool2d(F.relu(self.norm(self.stem(x))), 3, 2, 1)  # overlapping windows
            x = x + F.elu(self.group(self.block(x)))
            x = x * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
            return torch.softmax(self.head(F.adaptive_avg_pool2d(x, 1).flatten(1).tanh()), -1)

    return Net()


@pytest.mark.parametrize("model", [convolutional(), Attentive(), mlp()], ids=["convolutional", "attentive", "mlp"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_deep_lift_is_complete(model: nn.Module, dtype: torch.dtype) -> None:
    model = copy.deepcopy(model).to(dtype).eval()
    shape = (4, 3, 9, 9) if hasattr(model, "stem") else (4, 4, 6) if hasattr(model, "q") else (4, 4)
    generator = torch.Generator().manual_seed(8)
    x, baseline = (torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))
    program = ct.capture(model, x).gradient(rules=rules.deep_lift_rescale)
    seed = torch.eye(3, dtype=dtype)[1].expand(4, 3)
    for reference in (baseline, baseline[:1]) if program.built.one_serves_all else (baseline,):
        values, adjoints = program.evaluate(x, seed=seed, reference=reference)
        found = (next(iter(adjoints.values())) * (x - reference)).flatten(1).sum(1)
        promised = (model(x) - model(reference))[:, 1].detach()
        assert close(found, promised, 1e-9 if dtype == torch.float64 else 1e-4)
        assert close((values["output"] - values["output", "reference"])[:, 1], promised, 1e-6)


def test_one_reference_serves_all_where_values_keep_the_batch_first() -> None:
    def mixed(x: Tensor) -> Tensor:
        return x.reshape(-1, 2).relu().reshape(x.shape).sum(1)

    x = torch.randn(3, 4)
    built = [ct.capture(f, x).gradient(rules=rules.deep_lift_rescale).built for f in (mlp().float(), mixed)]
    assert [each.one_serves_all for each in built] == [True, False]


def test_deep_lift_without_a_reference_is_refused() -> None:
    program = ct.capture(mlp(), torch.randn(2, 4, dtype=torch.float64)).gradient(rules=rules.deep_lift_rescale)
    with pytest.raises(ct.errors.ArgumentError, match="reference="):
        program(torch.randn(2, 4, dtype=torch.float64))


def test_deep_lift_is_its_definition_on_a_perceptron() -> None:
    model, x, baseline = mlp(), torch.randn(2, 4, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.float64)
    ours = ct.capture(model, x).gradient(rules=rules.deep_lift_rescale)(x, reference=baseline)
    z, z0 = model[0](x), model[0](baseline)
    slope = (z.relu() - z0.relu()) / (z - z0)
    assert close(ours, (model[2].weight.sum(0) * slope) @ model[0].weight)


def test_deep_lift_where_input_and_baseline_agree_is_the_gradient() -> None:
    model, x = Attentive().double(), torch.randn(2, 4, 6, dtype=torch.float64)
    ours = ct.capture(model, x).gradient(of="head", rules=rules.deep_lift_rescale)(x, reference=x)
    assert close(ours, ct.capture(model, x).gradient(of="head")(x), 1e-7)


@pytest.mark.parametrize(
    "chosen", [rules.guided, rules.deconvnet, rules.deep_lift_rescale, rules.lrp_epsilon(), rules.straight_through]
)
def test_a_program_is_made_once_for_a_rule_set(chosen: dict) -> None:
    graph = ct.capture(mlp(), torch.randn(2, 4, dtype=torch.float64))
    assert graph.gradient(rules=chosen).built is graph.gradient(rules=chosen).built


# learning without weight transport
def test_feedback_alignment_goes_back_through_other_weights() -> None:
    model, x, seed = mlp(), torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    graph = ct.capture(model, x)
    names = ["0.weight", "0.bias", "2.weight", "2.bias"]
    made = rules.feedback_alignment(7)
    plain, ours = (graph.gradient(wrt=names, rules=r)(x, seed=seed) for r in (None, made))
    assert close(ours[2], plain[2]) and close(ours[3], plain[3]), "the last layer learns as usual"
    hidden = model[:2](x)
    feedback = torch.linalg.lstsq(seed, graph.gradient(wrt="1", rules=made)(x, seed=seed)).solution  # (3, 5)
    assert close(ours[0], ((seed @ feedback) * (hidden > 0)).T @ x)
    assert abs(float(feedback.std()) - 5**-0.5) < 0.3 and not close(feedback, model[2].weight)
    again = graph.gradient(wrt=names, rules=rules.feedback_alignment(7))(x, seed=seed)
    other = graph.gradient(wrt=names, rules=rules.feedback_alignment(8))(x, seed=seed)
    assert torch.equal(again[0], ours[0]) and not close(other[0], ours[0])


def test_feedback_weights_stay_while_the_weights_change(global_randomness_untouched: None) -> None:
    with torch.random.fork_rng():
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 3)).double()
    x, seed = images(2, 6), torch.ones(2, 2, 2, 2, dtype=torch.float64)
    graph, made = ct.capture(model, x), rules.feedback_alignment(0)
    before = graph.gradient(wrt="1", rules=made)(x, seed=seed)
    with torch.no_grad():
        model[2].weight.mul_(-3)
    assert torch.equal(graph.gradient(wrt="1", rules=made)(x, seed=seed), before)


def test_direct_feedback_alignment_sends_the_error_straight_back() -> None:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, error = torch.randn(7, 4, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    graph, made = ct.capture(model, x), rules.direct_feedback_alignment(1)
    first, second = graph.gradient(wrt=["1", "3"], rules=made)(x, seed=error)
    for hidden in (first, second):
        matrix = torch.linalg.lstsq(error, hidden).solution
        assert close(error @ matrix, hidden), "a linear function of the error alone"
    ours = graph.gradient(wrt=["0.weight", "4.weight"], rules=made)(x, seed=error)
    assert close(ours[0], (first * (1 - model[:2](x) ** 2)).T @ x)
    assert close(ours[1], error.T @ model[:4](x))
    with torch.no_grad():
        model[2].weight.normal_()
    assert torch.equal(graph.gradient(wrt="1", rules=made)(x, seed=error), first), "weights in between do not matter"


def test_sign_symmetric_feedback_has_the_signs_of_the_weights() -> None:
    model, x, seed = mlp(), torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    w = model[2].weight.detach()
    ours = ct.capture(model, x).gradient(wrt="1", rules=rules.sign_symmetric)(x, seed=seed)
    assert close(ours, seed @ (w.sign() * w.abs().mean()))


@pytest.mark.parametrize(
    "made", [rules.feedback_alignment(0), rules.sign_symmetric, rules.direct_feedback_alignment(0)]
)
def test_networks_learn_without_weight_transport(made: dict) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    x = torch.randn(64, 2, dtype=torch.float64)
    y = (x[:, :1] * x[:, 1:]).sign()  # exclusive or: no straight line separates it
    graph = ct.capture(model, x)
    program = graph.gradient(wrt=[p.name for p in graph.parameters], rules=made)
    losses = []
    for _ in range(600):
        values, adjoints = program.evaluate(x, seed=lambda z: 2 * (z - y) / len(y))
        losses.append(float((next(iter(values.values())) - y).square().mean()))
        with torch.no_grad():
            for name, adjoint in adjoints.items():
                model.get_parameter(name).sub_(0.1 * adjoint)
    assert losses[-1] < 0.4 * losses[0]


# straight-through
def test_steps_let_adjoints_through() -> None:
    x, w = torch.randn(20, dtype=torch.float64) * 1.5, torch.randn(20, dtype=torch.float64)
    assert torch.equal(ct.grad(lambda x: (x.round() * w).sum(), rules=rules.straight_through)(x), w)
    assert torch.equal(ct.grad(lambda x: (x.sign() * w).sum(), rules=rules.straight_through)(x), w * (x.abs() <= 1))
    assert not ct.grad(lambda x: (x.round() * w).sum())(x).any()
