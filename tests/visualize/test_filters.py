"""Filters are the layer's weights, on one scale."""

import pytest
import torch
from torch import nn

from cutaway.errors import ArgumentError, LookupFailure
from cutaway.visualize import filters


def test_filters_are_the_first_convolutions_weights(small, tmp_path):
    found = filters(small)
    assert found.name == "conv1.weight"
    assert torch.equal(found.weights, small.conv1.weight)
    assert not found.dead.any()
    assert torch.equal(filters(small, "conv2").weights, small.conv2.weight)
    assert found.save(tmp_path / "filters.png").stat().st_size > 5_000
    assert found.save(tmp_path / "filters.npz").exists()


def test_a_function_is_searched_by_its_graph(small, x):
    found = filters(lambda z: small.conv2(small.conv1(z)), x=x)
    assert torch.equal(found.weights, small.conv1.weight)


def test_grey_is_zero_and_the_scale_is_shared():
    conv = nn.Conv2d(1, 2, 2, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[[[1.0, -1.0], [0.0, 0.5]]], [[[0.0, 0.0], [0.0, 0.0]]]]))
    found = filters(nn.Sequential(conv))
    assert torch.equal(found.images()[0, 0], torch.tensor([[1.0, 0.0], [0.5, 0.75]]))
    assert found.dead.tolist() == [False, True]
    assert "1 zero" in found.plot().get_suptitle()


def test_what_is_no_convolution_is_refused(small):
    with pytest.raises(LookupFailure, match="conv1"):
        filters(small, "conv3")
    with pytest.raises(ArgumentError, match="no convolution"):
        filters(nn.Sequential(nn.ReLU()))
    with pytest.raises(ArgumentError, match="48 inputs"):
        filters(nn.Sequential(nn.Linear(48, 2)), shape=(3, 5, 5))
    with pytest.raises(ArgumentError, match="input x"):
        filters(lambda x: x)


def test_a_linear_layers_rows_are_images():
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    assert torch.equal(filters(net, shape=(3, 4, 4)).weights, net[1].weight.reshape(5, 3, 4, 4))
    assert filters(nn.Sequential(nn.Linear(64, 2))).weights.shape == (2, 1, 8, 8)
    assert filters(net, x=torch.zeros(2, 3, 4, 4)).plot().axes
