"""Every network has the size that its paper, or torchvision's documentation, states."""

import pytest
import torch

from cutaway import nets

IMAGENET, CIFAR = (3, 224, 224), (3, 32, 32)

# name, settings, input, parameters, multiply-adds in millions, what is stated elsewhere in words
SIZES = [
    ("lenet5", {}, (1, 32, 32), 61_706, 0.416520, "usual reading of the 1998 paper"),
    # C3 and H2 run as full convolutions: 90,000 and 19,200 multiply-adds by zero on top of the papers' numbers
    ("lenet5", {"connections": "paper"}, (1, 32, 32), 60_806, 0.416520, ""),
    ("lenet1989", {}, (1, 16, 16), 9_760, 0.063660 + 0.019200, "9,760 parameters, 64,660 connections with biases"),
    ("alexnet", {}, IMAGENET, 61_100_840, 714.188480, "torchvision: 61,100,840; 0.71 G"),
    ("alexnet2012", {}, (3, 227, 227), 60_965_224, 724.406816, "paper: 60 million"),
    ("vgg11", {}, IMAGENET, 132_863_336, 7_609.090048, "paper, A: 133 million"),
    ("vgg13", {}, IMAGENET, 133_047_848, 11_308.466176, "paper, B: 133 million"),
    ("vgg16", {}, IMAGENET, 138_357_544, 15_470.264320, "paper, D: 138 million"),
    ("vgg19", {}, IMAGENET, 143_667_240, 19_632.062464, "paper, E: 144 million; 19.6 G in the ResNet paper"),
    ("vgg11_bn", {}, IMAGENET, 132_868_840, 7_609.090048, "torchvision"),
    ("vgg13_bn", {}, IMAGENET, 133_053_736, 11_308.466176, "torchvision"),
    ("vgg16_bn", {}, IMAGENET, 138_365_992, 15_470.264320, "torchvision"),
    ("vgg19_bn", {}, IMAGENET, 143_678_248, 19_632.062464, "torchvision"),
    ("resnet18", {}, IMAGENET, 11_689_512, 1_814.073344, "paper: 1.8 G"),
    ("resnet34", {}, IMAGENET, 21_797_672, 3_663.761408, "paper: 3.6 G"),
    ("resnet50", {}, IMAGENET, 25_557_032, 4_089.184256, "torchvision: 4.09 G"),
    ("resnet50", {"stride_in": "conv1"}, IMAGENET, 25_557_032, 3_857.973248, "paper: 3.8 G"),
    ("resnet101", {"stride_in": "conv1"}, IMAGENET, 44_549_160, 7_570.194432, "paper: 7.6 G"),
    ("resnet152", {"stride_in": "conv1"}, IMAGENET, 60_192_808, 11_282.415616, "paper: 11.3 G"),
    ("resnet20_cifar", {}, CIFAR, 269_722, 40.551040, "paper: 0.27 million"),
    ("resnet32_cifar", {}, CIFAR, 464_154, 68.862592, "paper: 0.46 million"),
    ("resnet44_cifar", {}, CIFAR, 658_586, 97.174144, "paper: 0.66 million"),
    ("resnet56_cifar", {}, CIFAR, 853_018, 125.485696, "paper: 0.85 million"),
    ("resnet110_cifar", {}, CIFAR, 1_727_962, 252.887680, "paper: 1.7 million"),
    pytest.param("resnet1202_cifar", {}, CIFAR, 19_421_274, 2_829.238912, "paper: 19.4 M", marks=pytest.mark.slow),
    ("plain20_cifar", {}, CIFAR, 269_722, 40.551040, "as the residual one, whose shortcuts are free"),
    ("plain56_cifar", {}, CIFAR, 853_018, 125.485696, ""),
    ("squeezenet1_0", {}, IMAGENET, 1_248_424, 818.924576, "torchvision: 0.82 G; paper: 4.8 MB of float32"),
    ("squeezenet1_1", {}, IMAGENET, 1_235_496, 349.151936, "torchvision: 0.35 G; 2.4 times less than 1.0"),
    ("googlenet", {}, IMAGENET, 6_624_904, 1_498.376192, "torchvision: 1.5 G"),
    ("googlenet", {"kernel": 5}, IMAGENET, 6_998_552 + 7_280, 1_582.671872, "Caffe: 6,998,552 without batch norm"),
    ("mobilenet_v2", {}, IMAGENET, 3_504_872, 300.774272, "paper: 3.4 million, 300 M"),
    ("fast_cifar", {"mirror": False}, CIFAR, 1_089_696, 44.274208, "ours; by hand"),
]


@pytest.mark.parametrize(("name", "settings", "shape", "parameters", "millions", "_stated"), SIZES)
def test_sizes_are_those_of_the_papers(name, settings, shape, parameters, millions, _stated):
    with torch.device("meta"):
        model = nets.make(name, **settings)
    assert nets.parameters(model) == parameters
    assert nets.multiply_adds(model, *shape) == pytest.approx(millions * 1e6, rel=1e-9)
    assert model.training


def test_the_table_names_every_network():
    named = {row.values[0] if hasattr(row, "values") else row[0] for row in SIZES}
    assert set(nets.NAMES) - named == {"mlp", "plain32_cifar", "plain44_cifar", "plain110_cifar"}


SMALL = [
    *[("mlp", (48, 20, 10), {}, (3, 4, 4)), ("mlp", (48, 20, 10), {"norm": "batch", "dropout": 0.5}, (3, 4, 4))],
    *[("lenet1989", (), {}, (1, 16, 16)), ("lenet5", (), {"connections": "paper"}, (1, 32, 32))],
    ("lenet5", (), {"pooling": "subsample", "activation": "scaled_tanh"}, (1, 32, 32)),
    *[("resnet20_cifar", (), {}, CIFAR), ("fast_cifar", (), {"widths": (8, 16, 16)}, CIFAR)],
]
LARGE = [
    *[(name, (), {}, (3, 64, 64)) for name in ("alexnet", "resnet18", "resnet50", "googlenet", "mobilenet_v2")],
    *[(name, (), {}, (3, 64, 64)) for name in ("vgg11_bn", "squeezenet1_0", "squeezenet1_1")],
    *[("mobilenet_v2", (), {"padding": "same"}, (3, 64, 64)), ("alexnet2012", (), {}, (3, 67, 67))],
    ("plain20_cifar", (), {}, CIFAR),
]
LARGE = [pytest.param(*row, marks=pytest.mark.slow) for row in LARGE]


@pytest.mark.parametrize(("name", "sizes", "settings", "shape"), [*SMALL, *LARGE])
def test_networks_can_be_exported_with_a_dynamic_batch(name, sizes, settings, shape):
    model = nets.make(name, *sizes, seed=0, **settings).eval()
    batch = {0: torch.export.Dim("N", min=2)}
    exported = torch.export.export(model, (torch.rand(2, *shape),), dynamic_shapes=(batch,), strict=False)
    x = torch.rand(3, *shape)
    torch.testing.assert_close(exported.module()(x), model(x))
