import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cutaway import diagnose
from cutaway.errors import ArgumentError

X = torch.rand(50, 3, 6, 6)


def planted() -> nn.Module:
    """Channels 1 and 3 of the convolution and units 0 and 5 of the linear layer can never fire."""
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 8), nn.ReLU(inplace=True), nn.Linear(8, 2)
    )
    with torch.no_grad():
        net[0].bias.fill_(3.0)
        net[0].bias[[1, 3]] = -100.0
        net[3].weight.abs_()
        net[3].bias[[0, 5]] = -1000.0
    return net


def test_planted_dead_units_are_found():
    found = diagnose.dead_units(planted(), X)
    assert [(layer.name, layer.dead) for layer in found.layers] == [("0", (1, 3)), ("3", (0, 5))]
    assert found.examples == 50 and found.share == pytest.approx(4 / 13)
    assert found.verdict == "dead ReLUs: 2 of 5 units of layer 0 are zero for all 50 examples."


def test_activity_is_the_share_of_examples_and_places():
    net = planted()
    found = diagnose.dead_units(net, X)
    expected = (net[1](net[0](X)) > 0).double().mean((0, 2, 3))
    torch.testing.assert_close(found.layers[0].active, expected)


@pytest.mark.parametrize(
    "data",
    [
        X.split(7),
        [(X[:20], None), (X[20:], None)],
        (x for x in X.split(13)),
        SimpleNamespace(x=X),
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, torch.zeros(50)), batch_size=16),
    ],
)
def test_data_come_in_many_forms(data):
    net = planted()
    found, whole = diagnose.dead_units(net, data), diagnose.dead_units(net, X)
    assert found.rows() == whole.rows()
    torch.testing.assert_close(found.layers[0].active, whole.layers[0].active)


def test_one_active_example_among_many_is_enough():
    net = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[0].bias.zero_()
    x = torch.full((1000, 1), -1.0)
    assert diagnose.dead_units(net, x, batch_size=64).share == 1.0
    x[777] = 1.0
    found = diagnose.dead_units(net, x, batch_size=64)
    assert found.share == 0.0 and found.layers[0].active.item() == pytest.approx(1e-3)


def test_a_leaky_relu_cannot_die():
    net = planted()
    net[1], net[4] = nn.LeakyReLU(), nn.LeakyReLU()
    found = diagnose.dead_units(net, X)
    assert found.layers == () and "no ReLUs" in found.verdict


def test_results_are_drawn_saved_and_listed(tmp_path):
    found = diagnose.dead_units(planted(), X)
    assert found.save(tmp_path / "dead.png").stat().st_size > 3000
    saved = json.loads(found.save(tmp_path / "dead.json").read_text())
    assert saved["layers"][1] == {"name": "3", "units": 8, "dead": 2, "share": 0.25, "which": [0, 5]}


def test_wrong_data_are_refused():
    with pytest.raises(ArgumentError, match="no example"):
        diagnose.dead_units(planted(), [])
    with pytest.raises(ArgumentError, match="int"):
        diagnose.dead_units(planted(), 5)
    with pytest.raises(ArgumentError, match="str"):
        diagnose.dead_units(planted(), ["photo.jpg"])
