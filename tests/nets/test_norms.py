"""Normalisation by name: each against its definition by sums, in training and in evaluation, and its gradient."""

import itertools

import pytest
import torch
from torch import nn

from cutaway import graph as G
from cutaway import nets
from cutaway.errors import ArgumentError, LookupFailure

SHAPE = (5, 6, 3, 4)  # (N, C, H, W)
GROUPS = 3
# Which of the values share a mean, by their place (n, c, i, j).
SHARED = {
    "batch": lambda n, c, i, j: c,
    "layer": lambda n, c, i, j: n,
    "instance": lambda n, c, i, j: (n, c),
    "group": lambda n, c, i, j: (n, c // (SHAPE[1] // GROUPS)),
}


def made(name: str) -> nn.Module:
    """The norm of six channels in float64, with scale and shift that are not 1 and 0."""
    layer = nets.norm(name, SHAPE[1], groups=GROUPS).double()
    nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    return layer


def by_sums(x: torch.Tensor, key) -> torch.Tensor:
    """Subtract the mean and divide by the standard deviation of the values with the same key, one value at a time."""
    sums, squares, counts = {}, {}, {}
    places = list(itertools.product(*map(range, x.shape)))
    for place in places:
        k = key(*place)
        sums[k] = sums.get(k, 0.0) + x[place].item()
        counts[k] = counts.get(k, 0) + 1
    for place in places:
        k = key(*place)
        squares[k] = squares.get(k, 0.0) + (x[place].item() - sums[k] / counts[k]) ** 2
    y = torch.empty_like(x)
    for place in places:
        k = key(*place)
        y[place] = (x[place] - sums[k] / counts[k]) / (squares[k] / counts[k] + 1e-5) ** 0.5
    return y


def images() -> torch.Tensor:
    return torch.randn(SHAPE, dtype=torch.float64) * torch.rand(5, 6, 1, 1, dtype=torch.float64) * 3 + 2


def test_the_table_has_the_four_of_the_literature():
    assert set(nets.NORMS) == set(SHARED)


@pytest.mark.parametrize("name", SHARED)
def test_mean_and_variance_are_sums_over_the_axes_of_the_definition(name):
    layer, x = made(name).train(), images()
    scale, shift = (parameter.reshape(1, -1, 1, 1) for parameter in (layer.weight, layer.bias))
    torch.testing.assert_close(layer(x), by_sums(x, SHARED[name]) * scale + shift, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["layer", "instance", "group"])
def test_norms_of_single_examples_do_not_see_the_batch_or_the_mode(name):
    layer, x = made(name), images()
    torch.testing.assert_close(layer.train()(x)[:1], layer.eval()(x[:1]), rtol=1e-12, atol=1e-12)
    assert not list(layer.buffers())


def test_batch_norm_keeps_running_statistics_and_uses_them_in_evaluation():
    layer = made("batch").train()
    mean, variance = torch.zeros(6).double(), torch.ones(6).double()
    for x in (images(), images() - 4, 2 * images()):
        layer(x)
        n = x.numel() // 6
        channel_mean = x.sum((0, 2, 3)) / n
        channel_variance = ((x - channel_mean.reshape(1, -1, 1, 1)) ** 2).sum((0, 2, 3)) / (n - 1)  # unbiased
        mean, variance = 0.9 * mean + 0.1 * channel_mean, 0.9 * variance + 0.1 * channel_variance
    torch.testing.assert_close(layer.running_mean, mean)
    torch.testing.assert_close(layer.running_var, variance)
    x = images()
    in_training = layer(x)
    kept = {key: value.clone() for key, value in layer.state_dict().items()}
    y = layer.eval()(x)
    mean, variance = kept["running_mean"].reshape(1, -1, 1, 1), kept["running_var"].reshape(1, -1, 1, 1)
    scale, shift = (parameter.reshape(1, -1, 1, 1) for parameter in (layer.weight, layer.bias))
    torch.testing.assert_close(y, (x - mean) / (variance + 1e-5).sqrt() * scale + shift)
    torch.testing.assert_close(layer(x[:1]), y[:1])  # one image alone gives the same
    assert not torch.allclose(y, in_training, atol=0.1)
    assert all(torch.equal(value, kept[key]) for key, value in layer.state_dict().items())


def test_group_norm_lies_between_layer_norm_and_instance_norm():
    x = images()
    one, each = (nets.norm("group", 6, groups=groups).double() for groups in (1, 6))
    torch.testing.assert_close(one(x), nn.LayerNorm((6, 3, 4)).double()(x))  # over (C, H, W)
    torch.testing.assert_close(each(x), nn.InstanceNorm2d(6).double()(x))
    torch.testing.assert_close(nets.norm("layer", 6).double()(x), one(x))
    torch.testing.assert_close(nets.norm("instance", 6).double()(x), each(x))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", SHARED)
def test_gradient_agrees_with_finite_differences(name, train):
    layer, x = made(name), images()
    layer(x)  # running statistics that are not 0 and 1
    layer.train(train)
    weights = torch.randn(SHAPE, dtype=torch.float64)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return (weights * torch.tanh(layer(x))).sum()

    before = {key: value.clone() for key, value in layer.state_dict().items()}
    graph = G.capture(layer, x, train=train)
    adjoint = graph.gradient(of="output", wrt="input")(x, seed=lambda y: weights / torch.cosh(y) ** 2)
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
    found = G.check_gradient(lambda at: loss(at).detach(), x, adjoint)
    assert found.agrees, found.errors
    if train:  # what is taken off again in the mean cannot move it: the gradient of each mean's share sums to 0
        plain = graph.gradient(of="output", wrt="input")(x, seed=weights)
        sums = {}
        for place in itertools.product(*map(range, SHAPE)):
            key = SHARED[name](*place)
            sums[key] = sums.get(key, 0.0) + plain[place].item()
        assert max(map(abs, sums.values())) < 1e-10


@pytest.mark.parametrize("dims", [0, 1, 2, 3])
@pytest.mark.parametrize("name", SHARED)
def test_any_number_of_axes(name, dims):
    if (name, dims) == ("instance", 0):
        return
    x = torch.randn(4, 6, *(3, 2, 5)[:dims], dtype=torch.float64) + 7
    y = nets.norm(name, 6, dims=dims, groups=GROUPS).double().train()(x)
    expected = by_sums(x.reshape(4, 6, -1, 1), SHARED[name]).reshape(x.shape)
    torch.testing.assert_close(y, expected)


def test_networks_take_norms_by_name():
    x = torch.randn(6, 24)
    assert type(nets.mlp(24, 16, 3, norm="layer").norm1) is nn.LayerNorm
    for name in ("batch", "layer", "group"):
        model = nets.make("mlp", 24, 16, 3, seed=0, norm=name, groups=4)
        hidden = model.linear1(x)
        normed = by_sums(hidden.double().reshape(6, 16, 1, 1), {**SHARED, "group": lambda n, c, *_: (n, c // 4)}[name])
        expected = model.linear2(torch.relu(normed.flatten(1).float()))
        torch.testing.assert_close(model(x), expected)
    x = torch.randn(2, 3, 32, 32)
    default = nets.make("resnet20_cifar", seed=1).eval()
    assert torch.equal(nets.make("resnet20_cifar", seed=1, norm="batch").eval()(x), default(x))
    for name in ("layer", "instance", "group"):
        model = nets.make("resnet20_cifar", seed=1, norm=name)
        kinds = {type(part) for part in model.modules()} & {nn.BatchNorm2d, nn.GroupNorm}
        assert kinds == {nn.GroupNorm}
        assert nets.parameters(model) == nets.parameters(default)
        assert set(model.state_dict()) == {
            key for key in default.state_dict() if key in dict(default.named_parameters())
        }
        model.train()
        torch.testing.assert_close(model(x)[:1], model.eval()(x[:1]), atol=1e-5, rtol=1e-4)


def test_names_of_the_default_are_those_of_the_published_weights():
    keys = list(nets.resnet_cifar(8).state_dict())
    assert keys[:7] == [
        "conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked",
        "layer1.0.conv1.weight",
    ]  # fmt: skip


def test_errors_say_what_was_given_and_what_to_do():
    with pytest.raises(LookupFailure, match="unknown norm 'bach'; nearest: 'batch'"):
        nets.norm("bach", 4)
    with pytest.raises(ArgumentError, match=r"8 groups do not divide 12 channels; groups=1, 2, 3, 4, 6, 12 would"):
        nets.norm("group", 12)
    with pytest.raises(ArgumentError, match="0 groups"):
        nets.norm("group", 12, groups=0)
    for name, groups in (("instance", 8), ("group", 12)):
        with pytest.raises(ArgumentError, match="its own mean, and the output 0; choose 'batch', 'layer'"):
            nets.norm(name, 12, dims=0, groups=groups)
    for channels, dims in ((0, 2), (4, 4), (4, -1)):
        with pytest.raises(ArgumentError, match=f"{channels}, dims={dims}"):
            nets.norm("batch", channels, dims=dims)
    with pytest.raises(ArgumentError, match="8 groups do not divide 100 channels"):
        nets.mlp(784, 100, 10, norm="group")
    with pytest.raises(LookupFailure, match="'layer'"):
        nets.resnet_cifar(20, norm="layr")
    with pytest.raises(ArgumentError, match="5 groups do not divide 16 channels"):
        nets.resnet_cifar(20, norm="group", groups=5)
