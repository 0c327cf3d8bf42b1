"""On every network of `nets`: outputs equal, gradients as autograd's in float64 to 1e-10, all served by table rows."""

import pytest
import torch

import cutaway as ct
from tests.graph.test_backward import TOLERANCE, autograd, relative

CIFAR, PHOTO = (3, 32, 32), (3, 64, 64)
FAST = {
    "mlp": (3, 4, 4),
    "lenet1989": (1, 16, 16),
    "lenet5": (1, 32, 32),
    "resnet20_cifar": CIFAR,
    "fast_cifar": CIFAR,
    "squeezenet1_1": PHOTO,
}
SLOW = {
    "plain20_cifar": CIFAR,
    "mobilenet_v2": PHOTO,
    "resnet18": PHOTO,
    **dict.fromkeys(["plain32_cifar", "plain44_cifar", "plain56_cifar", "plain110_cifar", "resnet32_cifar"], CIFAR),
    **dict.fromkeys(["resnet44_cifar", "resnet56_cifar", "resnet110_cifar"], CIFAR),
    **dict.fromkeys(["alexnet", "googlenet", "resnet34", "resnet50", "resnet101", "resnet152"], PHOTO),
    **dict.fromkeys(["squeezenet1_0", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn"], PHOTO),
    **dict.fromkeys(["vgg19", "vgg19_bn"], PHOTO),
    "alexnet2012": (3, 67, 67),
    "resnet1202_cifar": CIFAR,
}
CASES = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def test_every_network_is_here() -> None:
    assert set(FAST) | set(SLOW) == set(ct.nets.NAMES)


@pytest.mark.parametrize("name", CASES)
def test_gradients_agree_with_autograd(name: str) -> None:
    sizes = (48, 20, 10) if name == "mlp" else ()
    model = ct.nets.make(name, *sizes, seed=0).double().eval()
    x = torch.rand(2, *(FAST | SLOW)[name], dtype=torch.float64)
    graph = ct.capture(model, x)
    assert torch.allclose(graph(x), model(x), rtol=1e-12, atol=1e-14)
    names = [name for name, _ in model.named_parameters()]
    program = graph.gradient(wrt=["x", *names])
    assert set(program.origins.values()) == {"rule"}
    seed = torch.randn_like(graph(x))
    for which, mine, theirs in zip(["x", *names], program(x, seed=seed), autograd(model, x, seed), strict=True):
        assert relative(mine, theirs) < TOLERANCE, which
