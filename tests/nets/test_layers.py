"""Convolution and pooling against their definitions, and the layers that torch lacks."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.signal import correlate, correlate2d
from torch import nn

from cutaway import nets
from cutaway.errors import ArgumentError, LookupFailure

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
SETTINGS = list(itertools.product((1, 2), (0, 2)))


def convolution_by_sums(x, weight, bias, stride, padding):
    """(N, C, *size), (O, C, *window), (O,) -> (N, O, *positions), one output at a time."""
    dims = x.ndim - 2
    x = np.pad(x, [(0, 0)] * 2 + [(padding, padding)] * dims)
    window = weight.shape[2:]
    positions = [(side - k) // stride + 1 for side, k in zip(x.shape[2:], window, strict=True)]
    y = np.zeros((x.shape[0], weight.shape[0], *positions))
    for n, o, *place in itertools.product(*map(range, y.shape)):
        total = bias[o]
        for c, *offset in itertools.product(range(x.shape[1]), *map(range, window)):
            at = tuple(p * stride + d for p, d in zip(place, offset, strict=True))
            total += weight[o, c][tuple(offset)] * x[n, c][at]
        y[n, o][tuple(place)] = total
    return y


@pytest.mark.parametrize(("stride", "padding"), SETTINGS)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolution_is_its_sum(dims, stride, padding):
    layer = CONVOLUTIONS[dims](2, 3, 3, stride, padding).double()
    x = torch.randn(2, 2, *(7, 6, 5)[:dims], dtype=torch.float64)
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    expected = convolution_by_sums(x.numpy(), weight, bias, stride, padding)
    np.testing.assert_allclose(layer(x).detach(), expected, atol=1e-12)
    sides = [nets.output_size(side, 3, stride, padding) for side in x.shape[2:]]
    assert list(expected.shape[2:]) == sides
    assert nets.parameters(layer) == 3**dims * 2 * 3 + 3  # F·F·D1·K weights and K biases


@pytest.mark.parametrize("mode", ["valid", "full"])
def test_convolution_is_scipys_correlation(mode):
    x, kernel = torch.randn(2, 9, 8, dtype=torch.float64), torch.randn(4, 2, 3, 5, dtype=torch.float64)
    padding = (0, 0) if mode == "valid" else (2, 4)
    ours = nn.functional.conv2d(x[None], kernel, padding=padding)[0]
    theirs = [sum(correlate2d(x[c], k[c], mode=mode) for c in range(2)) for k in kernel]
    np.testing.assert_allclose(ours, np.stack(theirs), atol=1e-12)
    x, kernel = torch.randn(5, 6, 7, dtype=torch.float64), torch.randn(3, 2, 4, dtype=torch.float64)
    ours = nn.functional.conv3d(x[None, None], kernel[None, None])[0, 0]
    np.testing.assert_allclose(ours, correlate(x, kernel, mode="valid"), atol=1e-12)


def test_pooling_gives_the_worked_examples():
    largest = torch.tensor([[29, 15, 28, 184], [0, 100, 70, 38], [12, 12, 7, 2], [12, 12, 45, 6]]).float()
    mean = largest.clone()
    mean[0, 0] = 31
    assert nets.pooling("max", 1)(largest[None, None]).flatten().tolist() == [100, 184, 12, 45]
    assert nets.pooling("average", 1)(mean[None, None]).floor().flatten().tolist() == [
        36,
        80,
        12,
        15,
    ]  # 36.5 shown as 36
    assert nets.pooling("median", 1)(largest[None, None]).flatten().tolist() == [22, 54, 12, 6.5]
    assert nets.pooling("strided", 1)(largest[None, None]).flatten().tolist() == [29, 28, 12, 7]
    with pytest.raises(LookupFailure, match="average"):
        nets.pooling("averge", 1)


@pytest.mark.parametrize(("name", "by"), [("max", np.max), ("average", np.mean), ("median", np.median)])
def test_pooling_is_its_definition(name, by):
    x = torch.randn(2, 3, 7, 9, dtype=torch.float64)
    y = nets.pooling(name, 3, 3)(x)
    assert y.shape == (2, 3, nets.output_size(7, 3, 3), nets.output_size(9, 3, 3))
    for n, c, i, j in itertools.product(*map(range, y.shape)):
        assert y[n, c, i, j].item() == pytest.approx(by(x[n, c, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3].numpy()))


def test_subsampling_is_a_scaled_and_shifted_average():
    layer = nets.Subsample(3).double()
    nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    for c in range(3):
        mean = x[:, c].reshape(2, 2, 2, 3, 2).mean((2, 4))
        torch.testing.assert_close(layer(x)[:, c], mean * layer.weight[c, 0, 0] + layer.bias[c, 0, 0])


@pytest.mark.parametrize(("stride", "padding"), SETTINGS)
def test_locally_connected_is_a_convolution_with_its_own_kernel_everywhere(stride, padding):
    layer = nets.LocallyConnected2d(2, 3, (7, 6), 3, stride, padding).double()
    x = torch.randn(2, 2, 7, 6, dtype=torch.float64)
    padded = nn.functional.pad(x, (padding,) * 4)
    y, rows, columns = layer(x), *layer.positions
    for p, (i, j) in enumerate(itertools.product(range(rows), range(columns))):
        patch = padded[:, :, i * stride : i * stride + 3, j * stride : j * stride + 3].flatten(1)
        torch.testing.assert_close(y[:, :, i, j], patch @ layer.weight[p].T + layer.bias[:, i, j])
    layer = nets.LocallyConnected1d(2, 3, 7, 3, stride, padding).double()
    x = x[..., 0]
    padded = nn.functional.pad(x, (padding, padding))
    for p in range(layer.weight.shape[0]):
        patch = padded[:, :, p * stride : p * stride + 3].flatten(1)
        torch.testing.assert_close(layer(x)[:, :, p], patch @ layer.weight[p].T + layer.bias[:, p])
    with pytest.raises(ArgumentError, match="positions"):
        layer(x[..., 1:])


def test_locally_connected_with_equal_kernels_is_a_convolution():
    local, shared = nets.LocallyConnected2d(2, 3, 8, 3, bias=False), nn.Conv2d(2, 3, 3, bias=False)
    local.weight.data[:] = shared.weight.data.flatten(1)
    x = torch.randn(4, 2, 8, 8)
    torch.testing.assert_close(local(x), shared(x))


def test_parameters_of_connected_local_and_shared_layers():
    lecture = nets.connections((28, 28), channels=1, width=7, kernel=5)
    assert lecture["fully connected"]["weights"] == 451_584 * 7 and lecture["shared"]["weights"] == 25 * 7
    assert 200 * 200 * 1000 == 40_000_000 == nets.connections((200, 200), 1, 1000, 200)["fully connected"]["weights"]
    for dims, size in ((1, (9,)), (2, (9, 7))):
        rows = nets.connections(size, channels=2, width=3, kernel=3, stride=2, padding=1)
        positions = [nets.output_size(side, 3, 2, 1) for side in size]
        dense = nn.Linear(2 * math.prod(size), 3 * math.prod(positions))
        local = (
            nets.LocallyConnected1d(2, 3, 9, 3, 2, 1) if dims == 1 else nets.LocallyConnected2d(2, 3, (9, 7), 3, 2, 1)
        )
        shared = CONVOLUTIONS[dims](2, 3, 3, 2, 1)
        for kind, layer in (("fully connected", dense), ("locally connected", local), ("shared", shared)):
            assert rows[kind] == {"weights": layer.weight.numel(), "biases": layer.bias.numel()}
    with pytest.raises(ArgumentError, match="does not fit"):
        nets.connections((4, 4), 1, 1, kernel=5)


def test_counts_leave_the_model_as_it_was():
    model = nets.make("resnet20_cifar", seed=0)
    model.layer2.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert nets.multiply_adds(model, 3, 32, 32) == 40_551_040
    assert model.training and not model.layer2.training and model.layer3[0].bn1.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert nets.multiply_adds(nn.ConvTranspose2d(2, 3, 4, stride=2), 2, 5, 5) == 2 * 25 * 3 * 16
    with pytest.raises(ArgumentError, match=r"\(1, \(4, 32, 32\)\)"):
        nets.multiply_adds(model, 4, 32, 32)


@pytest.mark.parametrize(
    ("scheme", "gain", "std"),
    [
        ("zero", None, 0.0),
        ("constant", None, 0.0),
        ("normal", 0.3, 0.3),
        ("xavier", None, math.sqrt(2 / (200 * 9 + 300 * 9))),
        ("xavier_uniform", None, math.sqrt(2 / (200 * 9 + 300 * 9))),
        ("kaiming", None, math.sqrt(2 / (200 * 9))),
        ("kaiming_uniform", None, math.sqrt(2 / (200 * 9))),
        ("orthogonal", None, 1 / math.sqrt(200 * 9)),
    ],
)
def test_schemes_have_their_standard_deviation(scheme, gain, std):
    layer = nets.initialize(nn.Conv2d(200, 300, 3), scheme, seed=1, gain=gain)
    assert layer.weight.std().item() == pytest.approx(std, rel=0.02, abs=1e-6)
    assert layer.bias.abs().max() == 0
    again, other = (nets.initialize(nn.Conv2d(200, 300, 3), scheme, seed=s, gain=gain) for s in (1, 2))
    assert torch.equal(again.weight, layer.weight)
    assert torch.equal(other.weight, layer.weight) == (scheme in ("zero", "constant"))
    if scheme == "orthogonal":
        flat = layer.weight.flatten(1)
        torch.testing.assert_close(flat @ flat.T, torch.eye(300), atol=1e-4, rtol=0)


def test_initialisation_knows_the_inputs_of_our_layers():
    local = nets.LocallyConnected2d(20, 30, 12, 5).requires_grad_(False)
    table = nets.TableConv2d([tuple(range(100))] * 3 + [tuple(range(25))] * 40, 100, 3).requires_grad_(False)
    norm = nn.BatchNorm2d(4)
    state = torch.get_rng_state()
    model = nets.initialize(nn.ModuleList([local, table, norm]), "kaiming", seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert local.weight.std().item() == pytest.approx(math.sqrt(2 / 500), rel=0.02)
    assert table.weight[:300].std().item() == pytest.approx(math.sqrt(2 / 900), rel=0.06)
    assert table.weight[300:].std().item() == pytest.approx(math.sqrt(2 / 225), rel=0.06)
    assert norm.weight.unique().item() == 1
    with pytest.raises(LookupFailure, match="'kaiming'"):
        nets.initialize(model, "kaimin")
