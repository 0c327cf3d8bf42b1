"""Explanations beside those of captum and zennit: agreement where they are right, completeness elsewhere, and speed.

    make bench-env && .bench/bin/python benchmarks/explain.py [--repeats 5]

Agreement is the largest difference relative to the largest value, in float64. Times are process CPU time, the median of
interleaved repeats, as a ratio to one `torch.autograd.grad` input gradient of ResNet-18 with frozen parameters in the
same run. Libraries that are not installed are left out.
"""

import argparse
import importlib
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.coverage_models import define_torchvision
from cutaway import explain, nets

define_torchvision()

TARGET = torch.tensor([1, 0, 2])


def library(name: str) -> Any:
    """A peer, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def chain() -> nn.Sequential:
    """A chain of modules with ReLUs of their own: what methods with hooks are made for."""
    torch.manual_seed(0)
    return nn.Sequential(
        *[nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU()],
        *[nn.Flatten(), nn.Linear(32, 10), nn.ReLU(), nn.Linear(10, 4)],
    ).double()


class Written(nn.Module):
    """The same layers with ReLUs written another way, a residual sum and a layer used twice."""

    def __init__(self, relu: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.relu = relu
        self.stem, self.block = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        x = self.relu(self.block(x)) + x
        return self.head((self.relu(self.block(x)) + x).mean((2, 3)))


RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "F.relu": F.relu,
    "x.relu()": lambda x: x.relu(),
    "x.clamp(min=0)": lambda x: x.clamp(min=0),
    "made in forward": lambda x: nn.ReLU()(x),
    "one module reused": nn.ReLU(),
    "nn.ReLU6": nn.ReLU6(),
}


class GuidedRelu(torch.autograd.Function):
    """The definition: z̄ = ȳ where z > 0 and ȳ > 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].clamp(min=0) * (ctx.saved_tensors[0] > 0)


def relative(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((ours - theirs.detach()).abs().max() / theirs.detach().abs().max())


def agreement() -> None:
    """Print how far our maps and captum's differ on a chain of modules."""
    captum = library("captum.attr")
    if captum is None:
        print("captum is not installed")
        return
    net, x = chain(), torch.rand(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    free, given = x.clone().requires_grad_(), {"target": TARGET}
    pairs = {
        "gradient": ({}, captum.Saliency(net).attribute(free, abs=False, **given)),
        "gradient_x_input": ({}, captum.InputXGradient(net).attribute(free, **given)),
        "integrated_gradients": ({}, captum.IntegratedGradients(net).attribute(free, n_steps=20, **given)),
        "guided_backprop": ({}, captum.GuidedBackprop(net).attribute(free, **given)),
        "deconvnet": ({}, captum.Deconvolution(net).attribute(free, **given)),
        "deep_lift": ({}, captum.DeepLift(net).attribute(free, torch.zeros_like(x), **given)),
        "grad_cam": ({"layer": "4"}, captum.LayerGradCam(net, net[4]).attribute(free, TARGET, relu_attributions=True)),
        "layer_attribution": ({"layer": "4"}, captum.LayerGradientXActivation(net, net[4]).attribute(free, TARGET)),
        "occlusion": (
            {"window": 3, "stride": 2, "fill": 0.5},
            captum.Occlusion(net).attribute(free, (3, 3, 3), strides=(3, 2, 2), baselines=0.5, **given)[:, :1],
        ),
    }
    for name, (settings, theirs) in pairs.items():
        ours = explain.METHODS[name](net, x, TARGET, score=False, **settings).values
        print(f"  {name:<24}{relative(ours, theirs):.1e}")


def rectifiers() -> None:
    """Print how far guided backprop is from its definition, for each way to write a ReLU."""
    captum = library("captum.attr")
    x = torch.rand(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for name, relu in RELUS.items():
        net, free = Written(relu).double(), x.clone().requires_grad_()
        output = Written(GuidedRelu.apply).double()(free)[[0, 1, 2], TARGET].sum()  # no value reaches 6
        truth = torch.autograd.grad(output, free)[0]
        line = f"  {name:<20}ours {relative(explain.guided_backprop(net, x, TARGET, score=False).values, truth):.1e}"
        if captum is not None:
            try:
                theirs = captum.GuidedBackprop(net).attribute(free, target=TARGET)
                line += f"   captum {relative(theirs, truth):.1e}"
            except Exception as reason:
                line += f"   captum fails: {type(reason).__name__}"
        print(line)


NETWORKS = (
    *("alexnet", "vgg11_bn", "resnet18", "squeezenet1_0", "densenet121", "googlenet", "inception_v3"),
    *("mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x1_0", "mnasnet1_0", "efficientnet_b0", "regnet_y_400mf"),
)


def completeness() -> None:
    """Print by how much DeepLIFT misses its sum: residual sums, reused layers, functional ReLUs, SiLU, hard swish."""
    captum, models = library("captum.attr"), library("torchvision.models")
    names = NETWORKS if models is not None else ()
    subjects: dict[str, Callable[[], nn.Module]] = {"residual sums, F.relu": lambda: Written(F.relu)}
    for name in names:
        settings = {"init_weights": True, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
        subjects[name] = partial(vars(models)["get_model"], name, weights=None, **settings)
    for name, make in subjects.items():
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(1)
        net = biased(make().double(), generator)
        side = 8 if isinstance(net, Written) else 96
        calibrate(net, torch.rand(8, 3, side, side, dtype=torch.float64, generator=generator))
        x = torch.rand(1, 3, side, side, dtype=torch.float64, generator=generator)
        baseline = torch.full_like(x, 0.3)
        change = (net(x) - net(baseline))[0].detach()
        target = int(change.abs().argmax())
        found = explain.deep_lift(net, x, target, baseline=0.3, score=False)
        line = f"  {name:<24}ours {missed(found.values, change[target]):.1e}"
        if captum is not None:
            try:
                theirs = captum.DeepLift(net).attribute(x.clone().requires_grad_(), baseline, target=target)
                line += f"   captum {missed(theirs, change[target]):.1e}"
            except Exception as reason:
                line += f"   captum fails: {type(reason).__name__}"
        print(line, flush=True)


def biased(net: nn.Module, generator: torch.Generator) -> nn.Module:
    """The same network with random biases: without them ReLU networks are homogeneous, and any gradient adds up."""
    with torch.no_grad():
        for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
            if name.endswith(("bias", "running_mean")):
                tensor.add_(0.1 * torch.randn(tensor.shape, dtype=tensor.dtype, generator=generator))
    return net


@torch.no_grad()
def calibrate(net: nn.Module, x: Tensor) -> None:
    """Give batch norms the statistics of a batch: without them signals die out, and rounding is all that changes."""
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
    net.train()(x)
    net.eval()


def missed(values: Tensor, change: Tensor) -> float:
    """The completeness error, relative to the change."""
    return float((values.detach().sum() - change).abs() / change.abs())


METHODS = (
    *("gradient", "guided_backprop", "grad_cam", "guided_grad_cam", "integrated_gradients", "smooth_grad", "lrp"),
    *("deep_lift", "occlusion"),
)


def contenders(net: nn.Module, x: Tensor, methods: Sequence[str]) -> dict[str, Callable[[], object]]:
    """What is timed."""
    target, free = 3, x.clone().requires_grad_()
    seed = torch.zeros(len(x), 1000)
    seed[:, target] = 1
    found: dict[str, Callable[[], object]] = {"autograd": lambda: torch.autograd.grad(net(free), free, seed)[0]}
    for name in methods:
        settings = {"progress": False} if name == "occlusion" else {}
        found[name] = partial(explain.METHODS[name], net, x, target, score=False, **settings)
    captum = library("captum.attr")
    if captum is not None:
        found["captum gradient"] = lambda: captum.Saliency(net).attribute(free, target=target)
        found["captum DeepLIFT"] = lambda: captum.DeepLift(net).attribute(free, free * 0, target=target)
        found["captum Grad-CAM"] = lambda: captum.LayerGradCam(net, net.layer4).attribute(free, target)  # type: ignore[attr-defined]
    return found


def speed(repeats: int, batches: list[int], methods: Sequence[str]) -> None:
    """Print times as ratios to one input gradient."""
    net = nets.make("resnet18", seed=0).eval().requires_grad_(False)
    for batch in batches:
        x = torch.rand(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        functions, times = contenders(net, x, methods), {}
        for turn in range(repeats + 1):
            for name, function in functions.items():
                begin = time.process_time()
                function()
                if turn:  # one round to warm up
                    times.setdefault(name, []).append(time.process_time() - begin)
        print(f"batch {batch}: autograd {statistics.median(times['autograd']) * 1e3:.0f} ms")
        for name, taken in times.items():
            ratios = [mine / theirs for mine, theirs in zip(taken, times["autograd"], strict=True)]
            print(f"  {name:<24}{statistics.median(ratios):6.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--speed", action=argparse.BooleanOptionalAction, default=True, help="measure times too")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS, help="whose times are measured")
    parser.add_argument("--tables", action=argparse.BooleanOptionalAction, default=True, help="print agreement too")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, Python {platform.python_version()}")
    if options.tables:
        print("largest relative difference from captum on a chain of modules")
        agreement()
        print("guided backprop against its definition")
        rectifiers()
        print("DeepLIFT: relative completeness gap")
        completeness()
    if options.speed:
        speed(options.repeats, options.batches, options.methods)


if __name__ == "__main__":
    main()
