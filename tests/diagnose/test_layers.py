import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cutaway import graph as G
from cutaway.diagnose.layers import activation_of, bounds, layers, meeting_points

from .subjects import Residual


def found(net, *shape):
    return layers(G.capture(net, torch.rand(2, *shape)))


def test_layers_go_from_the_weights_to_the_activation():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(64, 5))
    conv, linear = found(net, 3, 6, 6)
    assert (conv.name, conv.node.name, conv.activation, conv.channel) == ("0", "2", "relu", 1)
    assert {weight.name for weight in conv.weights} == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert (linear.name, linear.activation, linear.channel) == ("5", "", 1)


def test_residual_blocks_sums_and_trunk():
    rows = [(layer.node.op_name, layer.activation, layer.trunk) for layer in found(Residual(), 3, 5, 5)]
    assert rows == [
        ("relu", "relu", True),  # stem
        ("conv2d", "", False),  # beside the shortcut
        ("relu", "relu", True),  # after the first sum
        (rows[3][0], "relu", False),  # the clamp
        ("add", "", True),  # the second sum
        ("linear", "", True),
    ]


def test_a_reused_module_gives_a_layer_for_each_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.act = nn.Linear(4, 4), nn.Tanh()

        def forward(self, x):
            return self.act(self.fc(self.act(self.fc(x))))

    rows = found(Twice(), 4)
    assert [layer.activation for layer in rows] == ["tanh", "tanh"]
    assert rows[0].weights == rows[1].weights and len({layer.name for layer in rows}) == 2


def test_units_of_tokens_are_features():
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    rows = {layer.name: layer for layer in found(block, 5, 8)}
    assert rows["linear1"].channel == 2 and rows["linear1"].activation == "relu"


@pytest.mark.parametrize(
    ("function", "name", "limits"),
    [
        (torch.relu, "relu", (0, None)),
        (lambda x: x.clamp(min=0), "relu", (0, None)),
        (F.relu6, "relu6", (0, 6)),
        (lambda x: x.clamp(0, 6), "relu6", (0, 6)),
        (F.hardtanh, "hardtanh", (-1, 1)),
        (torch.sigmoid, "sigmoid", (0, 1)),
        (torch.tanh, "tanh", (-1, 1)),
        (lambda x: F.threshold(x, 0.0, 0.0), "relu", (0, None)),
        (F.gelu, "gelu", (None, None)),
        (F.leaky_relu, "leaky_relu", (None, None)),
        (lambda x: x.clamp(-5, 5), "", (-5, 5)),
        (torch.exp, "", (None, None)),
    ],
)
def test_activations_are_recognised_by_what_they_compute(function, name, limits):
    node = G.capture(function, torch.rand(2, 3)).outputs[0]
    assert activation_of(node) == name
    if name:
        assert bounds(node) == limits


def test_meeting_points_are_the_nodes_on_every_path():
    graph = G.capture(lambda x: (x.exp() * x.sin()).tanh() + 1.0, torch.rand(3))
    names = [node.op_name for node in meeting_points(n for n in graph.nodes if n.differentiable and n.op is not None)]
    everything = [node for node in graph.nodes if node.kind != "constant"]
    assert "exp" not in [node.op_name for node in meeting_points(everything)]
    assert [name for name in names if name in ("mul", "tanh", "add")] == ["mul", "tanh", "add"]
