"""Agreement with other libraries where they are right: chains of modules. Run where they are installed."""

import pytest
import torch
from torch import nn

from cutaway import explain

TARGET = torch.tensor([1, 0, 2])


@pytest.fixture
def chain():
    torch.manual_seed(0)
    return nn.Sequential(
        *[nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU()],
        *[nn.Flatten(), nn.Linear(32, 10), nn.ReLU(), nn.Linear(10, 4)],
    ).double()


def agree(ours, theirs, tolerance=1e-5):
    largest = theirs.abs().max()
    assert largest > 0
    assert (ours - theirs).abs().max() < tolerance * largest


CAPTUM = {
    "gradient": lambda attr, net, x: attr.Saliency(net).attribute(x, target=TARGET, abs=False),
    "gradient_x_input": lambda attr, net, x: attr.InputXGradient(net).attribute(x, target=TARGET),
    "integrated_gradients": lambda attr, net, x: attr.IntegratedGradients(net).attribute(x, target=TARGET, n_steps=20),
    "guided_backprop": lambda attr, net, x: attr.GuidedBackprop(net).attribute(x, target=TARGET),
    "deconvnet": lambda attr, net, x: attr.Deconvolution(net).attribute(x, target=TARGET),
    "deep_lift": lambda attr, net, x: attr.DeepLift(net).attribute(x, torch.zeros_like(x), target=TARGET),
    "grad_cam": lambda attr, net, x: attr.LayerGradCam(net, net[4]).attribute(x, TARGET, relu_attributions=True),
    "guided_grad_cam": lambda attr, net, x: attr.GuidedGradCam(net, net[4]).attribute(
        x, TARGET, interpolate_mode="bilinear"
    ),
    "occlusion": lambda attr, net, x: attr.Occlusion(net).attribute(
        x, sliding_window_shapes=(3, 3, 3), strides=(3, 2, 2), target=TARGET, baselines=0.5
    )[:, :1],
    "layer_attribution": lambda attr, net, x: attr.LayerGradientXActivation(net, net[4]).attribute(x, TARGET),
    "neuron_attribution": lambda attr, net, x: attr.NeuronGradient(net, net[6]).attribute(x, 3),
}
SETTINGS = {
    "occlusion": {"window": 3, "stride": 2, "fill": 0.5},
    "grad_cam": {"layer": "4"},
    "guided_grad_cam": {"layer": "4"},
    "layer_attribution": {"layer": "4"},
    "neuron_attribution": {"layer": "6", "unit": 3},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CAPTUM)
def test_as_captum_on_a_chain_of_modules(name, chain):
    attr = pytest.importorskip("captum.attr")
    if name == "deep_lift":  # both are complete, but share a maximum out in different ways
        chain[2] = nn.AvgPool2d(2)
    x = torch.rand(3, 3, 8, 8, dtype=torch.float64)
    ours = explain.METHODS[name](chain, x, TARGET, score=False, **SETTINGS.get(name, {})).values
    agree(ours, CAPTUM[name](attr, chain, x.clone().requires_grad_()).detach())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rule", ["epsilon", "composite"])
def test_as_zennit_on_a_chain_of_modules(rule, chain):
    attribution = pytest.importorskip("zennit.attribution")
    composites = pytest.importorskip("zennit.composites")
    x = torch.rand(3, 3, 8, 8, dtype=torch.float64)
    if rule == "composite":  # zennit's z⁺ rule keeps biases in the positive part, Kohlbrenner et al. leave them out
        for module in (chain[0], chain[3]):
            module.bias.data.zero_()
        made = composites.EpsilonPlusFlat(epsilon=1e-6)
    else:
        rules = pytest.importorskip("zennit.rules")
        types = pytest.importorskip("zennit.types")
        made = composites.LayerMapComposite([(types.Linear, rules.Epsilon(1e-6)), (types.Activation, rules.Pass())])
    with attribution.Gradient(chain, made) as attributor:
        _, theirs = attributor(x, lambda z: torch.zeros_like(z).scatter(1, TARGET[:, None], 1.0) * z.detach())
    ours = explain.lrp(chain, x, TARGET, rule=rule, score=False).values
    agree(ours, theirs.detach(), 1e-4)
