"""The cost of one step of feature visualisation beside lucent: GoogLeNet, one channel of inception4a.

    make bench-env && .bench/bin/python benchmarks/visualize.py [--repeats 9]

Both optimise Fourier coefficients with Adam under lucent's standard transformations. lucent brings every image below
224 pixels to 224 before the network sees it, so that it is measured with images of 200 pixels (224 with its border of
12) against ours of 224, and with 128 against 128. A step's time is the process CPU time of nine steps less that of one,
over eight; the median of interleaved repeats, of both and of their ratio in each repeat. Memory is the largest resident
set of a process of its own while it makes twelve steps (ours captures the network in the first), in all and above what
it held with the network in place, after one step of 16 pixels on a network of one convolution: so that the libraries
that each of the two loads when it is first used are there.
"""

import argparse
import gc
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from coverage_models import define_torchvision

import cutaway as ct
from cutaway import nets
from cutaway import visualize as V

LAYER = "inception4a"
Run = Callable[[int], object]  # so many steps


def network(inner: nn.Module | None = None) -> nn.Module:
    """GoogLeNet with random weights (or another network), for images in [0, 1]."""
    inner = nets.make("googlenet", seed=0) if inner is None else inner
    return nets.normalized(inner, nets.IMAGENET["mean"], nets.IMAGENET["std"]).eval()


def tiny() -> nn.Module:
    """A network of one convolution, called like the layer."""
    return nn.Sequential(OrderedDict([(LAYER, nn.Conv2d(3, 4, 3))])).eval()


def excited() -> int:
    """The channel that random images excite most: none that is dead, whose gradient would be zero."""
    model, x = network(), torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    values = ct.capture(model, x).run(x)[f"model.{LAYER}"].value
    return int(values.mean((0, 2, 3)).argmax())


def ours(size: int, channel: int, inner: nn.Module | None = None) -> Run:
    """Our `optimize` with its defaults."""
    model, goal = network(inner), V.channel(f"model.{LAYER}", channel)
    return lambda steps: V.optimize(model, goal, size=size, steps=steps, progress=False)


def lucents(size: int, channel: int, inner: nn.Module | None = None) -> Run:
    """lucent's `render_vis` with its defaults, on torchvision's network with the same weights."""
    define_torchvision()
    torchvision = importlib.import_module("torchvision")
    param, render = (importlib.import_module(f"lucent.optvis.{name}") for name in ("param", "render"))
    model = inner
    if model is None:
        model = torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=False).eval()
        model.load_state_dict(network().model.state_dict())  # type: ignore[union-attr]

    def run(steps: int) -> None:
        """Its hooks stay, and keep what they saw: they are removed after each run."""
        options: dict[str, Any] = {"thresholds": (steps,), "progress": False, "show_image": False}
        render.render_vis(model, f"{LAYER}:{channel}", lambda: param.image(size), **options)
        for module in model.modules():
            module._forward_hooks.clear()
        model.zero_grad()

    return run


CONTENDERS: dict[str, tuple[Callable[..., Run], int]] = {
    "ours, 224 px": (ours, 224),
    "lucent, 200 px (network sees 224)": (lucents, 200),
    "ours, 128 px": (ours, 128),
    "lucent, 128 px (network sees 224)": (lucents, 128),
}
PAIRS = [tuple(CONTENDERS)[:2], tuple(CONTENDERS)[2:]]


def spent(run: Run, steps: int) -> float:
    """The process CPU time of so many steps, in seconds."""
    begin = time.process_time()
    run(steps)
    return time.process_time() - begin


def speed(repeats: int) -> None:
    """Print each contender's time for a step, and the ratios."""
    channel = excited()
    runs = {name: make(size, channel) for name, (make, size) in CONTENDERS.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            taken = (spent(run, 9) - spent(run, 1)) / 8
            if turn:  # one round to warm up
                times[name].append(taken)
    for name, taken in times.items():
        low, middle, high = min(taken) * 1e3, statistics.median(taken) * 1e3, max(taken) * 1e3
        print(f"  {name:<36}{middle:7.0f} ms a step ({low:.0f} to {high:.0f}, n = {repeats})", flush=True)
    for mine, theirs in PAIRS:
        ratios = [b / a for a, b in zip(times[mine], times[theirs], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"  {theirs} / {mine}: {statistics.median(ratios):.2f} ({spread}, n = {repeats})", flush=True)


def resident(peak: bool) -> float:
    """The resident set of this process, now or at its peak, in MiB; Linux only."""
    word = "VmHWM:" if peak else "VmRSS:"
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(word)) / 1024


def memory(name: str, channel: int) -> None:
    """Print the peak of one contender in this process."""
    make, size = CONTENDERS[name]
    make(16, 0, tiny())(1)  # loads libraries
    run = make(size, channel)
    gc.collect()
    before = resident(peak=False)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    run(12)
    peak = resident(peak=True)
    print(f"  {name:<36}{peak:7.0f} MiB in all, {peak - before:.0f} above {before:.0f}", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory-of", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--channel", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    if options.memory_of:
        memory(options.memory_of, options.channel)
        return
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "torchvision", "torch-lucent")
    )
    print(f"{versions}, Python {platform.python_version()}")
    print(f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {_processor()}")
    print("CPU time of a step")
    speed(options.repeats)
    print("peak memory of twelve steps, each in a process of its own")
    channel = str(excited())
    for name in CONTENDERS:
        told = ["--memory-of", name, "--channel", channel, "--threads", str(options.threads)]
        subprocess.run([sys.executable, __file__, *told], check=True)


def _processor() -> str:
    """The processor's name, where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor"
    )


if __name__ == "__main__":
    main()
