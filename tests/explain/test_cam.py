import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cutaway import explain
from cutaway import graph as G
from cutaway.errors import ArgumentError, LookupFailure
from cutaway.explain.layers import deepest_map, spatial_nodes


class Twice(nn.Module):
    """One convolution called twice, then global average pooling and a linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)

    def stages(self, x):
        first = self.conv(x)
        second = self.conv(first.relu())
        return first, second

    def head(self, second):
        return self.fc(second.relu().mean((2, 3)))

    def forward(self, x):
        return self.head(self.stages(x)[1])


def by_definition(activation, score):
    """Equations 1 and 2 of the paper."""
    gradient = torch.autograd.grad(score.sum(), activation)[0]
    weights = gradient.mean((2, 3), keepdim=True)
    return (weights * activation).sum(1, keepdim=True).relu().detach()


def test_grad_cam_is_its_definition(mixed, x):
    found = explain.grad_cam(mixed, x, [0, 1, 2], layer="norm", score=False)
    net = copy.deepcopy(mixed).eval()
    activation = net.norm(net.conv1(x))
    h = F.relu(activation)
    h = F.relu(net.conv2(h)) + h
    h = F.max_pool2d(F.relu(F.relu(net.conv2(h)) * 1.5 - 0.05), 2)
    score = net.fc2(F.relu(net.fc1(h.flatten(1)))).gather(1, torch.tensor([[0], [1], [2]]))
    expected = by_definition(activation, score)
    assert expected.amax((1, 2, 3)).max() > 0
    torch.testing.assert_close(found.values, expected, rtol=1e-10, atol=1e-14)
    assert found.values.shape == (3, 1, 8, 8)


@pytest.mark.parametrize("call", [0, 1])
def test_each_call_of_a_reused_module_is_a_node_of_its_own(call):
    net, x = Twice().double(), torch.rand(2, 4, 6, 6, dtype=torch.float64)
    graph = G.capture(net, x)
    nodes = [node for node in graph.nodes if node.op_name == "conv2d"]
    found = explain.grad_cam(net, x, [0, 2], layer=nodes[call].name, score=False)
    activations = net.stages(x)
    score = net.head(activations[1]).gather(1, torch.tensor([[0], [2]]))
    torch.testing.assert_close(found.values, by_definition(activations[call], score))
    assert found.layer == nodes[call].name


def test_default_layer_is_the_deepest_map(mixed, x):
    found = explain.grad_cam(mixed, x, score=False)
    assert found.values.shape == (3, 1, 4, 4)
    assert found.layer == deepest_map(G.capture(mixed, x)).name
    assert "max_pool2d" in found.layer


def test_grad_cam_equals_cam_up_to_scale_with_global_average_pooling():
    net, x = Twice().double(), torch.rand(2, 4, 6, 6, dtype=torch.float64)
    relu = spatial_nodes(G.capture(net, x))[-1]
    found = explain.grad_cam(net, x, 1, layer=relu, score=False).values
    maps = net.stages(x)[1].relu()
    cam = (maps * net.fc.weight[1].view(1, 4, 1, 1)).sum(1, keepdim=True).relu()  # Zhou et al. 2016
    torch.testing.assert_close(found, (cam / 36).detach())


def test_guided_grad_cam_is_the_product(mixed, x):
    found = explain.guided_grad_cam(mixed, x, 4, score=False)
    cam = explain.grad_cam(mixed, x, 4, score=False).upsampled((8, 8))
    torch.testing.assert_close(found.values, explain.guided_backprop(mixed, x, 4, score=False).values * cam)


def test_upsampled_is_bilinear():
    values = torch.rand(2, 1, 3, 3)
    found = explain.Attribution(values, "grad_cam", None, "logit").upsampled((7, 5))
    assert torch.equal(found, F.interpolate(values, (7, 5), mode="bilinear", align_corners=False))


def test_spatial_nodes_leave_out_attention_and_know_tokens():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm, self.head = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 2)

        def forward(self, x):
            tokens = self.embed(x).flatten(2).transpose(1, 2)  # (N, 16, 8)
            heads = self.norm(tokens).unflatten(2, (2, 4)).transpose(1, 2)  # (N, 2, 16, 4)
            attention = (heads @ heads.transpose(2, 3)).softmax(-1)  # (N, 2, 16, 16)
            return self.head((attention @ heads).transpose(1, 2).flatten(2).mean(1))

    graph = G.capture(Tokens(), torch.rand(2, 3, 16, 16))
    assert [node.name for node in spatial_nodes(graph)] == ["embed", "norm"]


def test_signals_have_maps_too():
    net = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8, 3))
    assert explain.grad_cam(net, torch.rand(2, 2, 10)).values.shape == (2, 1, 8)


def test_wrong_layers_are_refused(mixed, x):
    with pytest.raises(LookupFailure, match="conv1"):
        explain.grad_cam(mixed, x, layer="conv3")
    with pytest.raises(ArgumentError, match=r"'fc1' holds shape .*max_pool2d"):
        explain.grad_cam(mixed, x, layer="fc1")
    with pytest.raises(ArgumentError, match="no node with a spatial map"):
        explain.grad_cam(nn.Linear(4, 2), torch.rand(2, 4))
