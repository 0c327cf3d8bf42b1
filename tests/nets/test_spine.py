"""LeNets, MLPs, normalisation and the table of networks."""

import pytest
import torch

from cutaway import nets
from cutaway.errors import ArgumentError, LookupFailure


def test_lenet5_original_has_the_60000_trainable_parameters_of_the_paper():
    model = nets.lenet5(activation="scaled_tanh", pooling="subsample", connections="paper")
    layers = {
        name: sum(p.numel() for p in child.parameters())
        for name, child in model.named_children()
        if list(child.parameters())
    }
    assert layers == {"c1": 156, "s2": 12, "c3": 1516, "s4": 32, "c5": 48120, "f6": 10164, "output": 850}
    assert sum(layers.values()) - layers["output"] == 60000


def test_c3_table_is_the_one_of_the_paper():
    rows = [sorted(row) for row in nets.lenet5(connections="paper").c3.table]
    columns = [[channel for channel in range(6) if channel in row] for row in rows]
    assert columns == rows
    assert [len(row) for row in rows] == [3] * 6 + [4] * 9 + [6]
    assert rows[4] == [0, 4, 5] and rows[11] == [0, 1, 2, 5] and rows[12] == [0, 1, 3, 4] and rows[14] == [0, 2, 3, 5]
    assert [sum(channel in row for row in rows) for channel in range(6)] == [10] * 6


def test_table_convolution_is_a_sum_over_the_connected_channels_only():
    torch.manual_seed(0)
    table = [(0, 2), (1,), (0, 1, 2)]
    layer = nets.TableConv2d(table, channels=3, kernel=3, stride=2, padding=1).double()
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    expected, place = [], 0
    for out, inputs in enumerate(table):
        total = torch.full((2, 1, 4, 4), layer.bias[out].item(), dtype=torch.float64)
        for channel in inputs:
            total += torch.nn.functional.conv2d(
                x[:, channel : channel + 1], layer.weight[place][None, None], None, 2, 1
            )
            place += 1
        expected.append(total)
    torch.testing.assert_close(layer(x), torch.cat(expected, 1))
    with pytest.raises(ArgumentError, match="row 1"):
        nets.TableConv2d([(0,), (3,)], channels=3, kernel=3)


def test_lenet1989_is_the_network_of_the_paper():
    model = nets.lenet1989()
    count = {name: p.numel() for name, p in model.named_parameters()}
    assert count["h1.weight"] + count["h1_bias"] == 1068
    assert count["h2.weight"] + count["h2_bias"] == 2592
    assert count["h3.weight"] + count["h3.bias"] == 5790
    assert count["out.weight"] + count["out.bias"] == 310
    assert sum(count.values()) == 9760
    assert model(torch.zeros(2, 1, 16, 16)).abs().max() < 1


def test_mlp_is_the_composition_of_its_formulas():
    model = nets.mlp(4, 5, 3, activation="tanh").double()
    x = torch.randn(6, 4, dtype=torch.float64)
    hidden = torch.tanh(x @ model.linear1.weight.T + model.linear1.bias)
    torch.testing.assert_close(model(x), hidden @ model.linear2.weight.T + model.linear2.bias)
    assert [name for name, _ in nets.mlp(4, 2).named_children()] == ["flatten", "linear1"]
    with pytest.raises(ArgumentError, match="at least two sizes"):
        nets.mlp(4)
    with pytest.raises(LookupFailure, match="relu"):
        nets.mlp(4, 3, 2, activation="rely")


def test_normalized_resizes_and_standardises_and_saves_its_numbers():
    model = nets.normalized(torch.nn.Identity(), mean=[0.1, 0.2, 0.3], std=[1, 2, 4], size=(6, 8))
    x = torch.rand(2, 3, 12, 16)
    resized = torch.nn.functional.interpolate(x, (6, 8), mode="bilinear", align_corners=False)
    expected = torch.stack([(resized[:, c] - m) / s for c, (m, s) in enumerate([(0.1, 1), (0.2, 2), (0.3, 4)])], 1)
    torch.testing.assert_close(model(x), expected)
    assert set(model.state_dict()) == {"mean", "std"}
    assert model(x[..., :6, :8]).shape == (2, 3, 6, 8)
    for mean, std in [([0, 0], 1), (0.0, 0.0), (float("nan"), 1.0)]:
        with pytest.raises(ArgumentError, match="std"):
            nets.normalized(torch.nn.Identity(), mean, std)


def test_make_by_name():
    state = torch.get_rng_state()
    first, second = (nets.make("lenet5", seed=3, activation="relu") for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(nets.make("lenet5", seed=4).c1.weight, first.c1.weight)
    assert nets.make("mlp", 4, 3)(torch.zeros(1, 4)).shape == (1, 3)
    with pytest.raises(LookupFailure, match="'lenet5'"):
        nets.make("lennet5")
    with pytest.raises(ArgumentError, match="activation"):
        nets.make("lenet5", activations="relu")
