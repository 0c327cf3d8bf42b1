"""State dicts of torchvision and timm go into our networks as they are, and give the same outputs.

Runs where torchvision and timm are installed, as in the environment of the benchmarks.
"""

import importlib
import importlib.util
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import coverage_models
from cutaway import nets

HERE = {name: importlib.util.find_spec(name) is not None for name in ("timm", "torchvision")}
needs_torchvision = pytest.mark.skipif(not HERE["torchvision"], reason="torchvision is not installed")
needs_timm = pytest.mark.skipif(not (HERE["timm"] and HERE["torchvision"]), reason="timm is not installed")

# our name, torchvision's class of weights
TORCHVISION = [
    ("alexnet", "AlexNet"),
    *((f"vgg{depth}{bn}", f"VGG{depth}{bn.upper()}") for depth in (11, 13, 16, 19) for bn in ("", "_bn")),
    *((f"resnet{depth}", f"ResNet{depth}") for depth in (18, 34, 50, 101, 152)),
    ("squeezenet1_0", "SqueezeNet1_0"),
    ("squeezenet1_1", "SqueezeNet1_1"),
    ("googlenet", "GoogLeNet"),
    ("mobilenet_v2", "MobileNet_V2"),
]
TIMM = [
    *((f"vgg{depth}{bn}", f"vgg{depth}{bn}") for depth in (11, 13, 16, 19) for bn in ("", "_bn")),
    *((f"resnet{depth}", f"resnet{depth}") for depth in (18, 34, 50, 101, 152)),
    ("mobilenet_v2", "mobilenetv2_100"),
]
LARGE = ("vgg", "alexnet", "resnet101", "resnet152")


def rows(table: list[tuple[str, str]]) -> list[Any]:
    return [pytest.param(*row, marks=[pytest.mark.slow] if row[0].startswith(LARGE) else []) for row in table]


def peer(package: str) -> Any:
    coverage_models.define_torchvision()
    return importlib.import_module(package)


@torch.no_grad()
def stirred(model: nn.Module, side: int) -> nn.Module:
    """Random numbers in every parameter that starts as a constant, and statistics from noise: a swap would be seen."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.add_(0.2 * torch.randn_like(parameter))
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    for part in norms:
        part.momentum = 1.0
    if norms:
        model.train()(torch.randn(4, 3, side, side))
    return model.eval()


def check(name: str, theirs: nn.Module, folder: Any, side: int) -> None:
    """The file of their state dict, loaded by name, answers as they do."""
    torch.save(theirs.state_dict(), folder / "weights.pth")
    ours = nets.load(name, folder / "weights.pth")
    x = torch.rand(2, 3, side, side)
    with torch.no_grad():
        expected, found = theirs(x), ours(x)
    assert expected.shape == (2, 1000) and expected.std() > 0
    spread = float(expected.std())
    assert (expected[0] - expected[1]).abs().max() > 1e-3 * spread  # the images make a difference
    torch.testing.assert_close(found / spread, expected / spread, rtol=0, atol=1e-4)


@needs_torchvision
@pytest.mark.parametrize(("name", "weights"), rows(TORCHVISION))
def test_torchvisions_state_dicts_give_torchvisions_outputs(tmp_path, name, weights):
    models = peer("torchvision.models")
    options = {"aux_logits": True, "init_weights": True} if name == "googlenet" else {}
    check(name, stirred(models.get_model(name, weights=None, **options), 96), tmp_path, 96)


@needs_timm
@pytest.mark.parametrize(("name", "architecture"), rows(TIMM))
def test_timms_state_dicts_give_timms_outputs(tmp_path, name, architecture):
    side = 224 if name.startswith("vgg") else 96
    model = peer("timm").create_model(architecture, pretrained=False)
    check(name, stirred(model, side), tmp_path, side)


@needs_torchvision
@pytest.mark.parametrize(("name", "weights"), rows(TORCHVISION))
def test_sizes_are_those_that_torchvision_states(name, weights):
    stated = getattr(peer("torchvision.models"), f"{weights}_Weights").IMAGENET1K_V1.meta
    with torch.device("meta"):
        model = nets.make(name)
    assert nets.parameters(model) == stated["num_params"]
    billions = nets.multiply_adds(model, 3, 224, 224) / 1e9
    assert abs(billions - stated["_ops"]) <= 0.0005 + 1e-9  # stated to three decimals
