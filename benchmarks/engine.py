"""Time and memory of the engine against `torch.autograd.grad`, on the same models in the same run.

    make bench-env && .bench/bin/python benchmarks/engine.py [--repeats 9] [--save docs/engine.csv]

Every row is the median over interleaved repeats on 2 threads; the ratio is taken, repeat by repeat, against autograd's
time for the same request on the same model: the input's gradient with the parameters frozen, so that autograd too
computes no more; or, for the trace that goes everywhere, the gradients of the input and of every parameter.
"""

import argparse
import copy
import csv
import gc
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cutaway as ct
from benchmarks.coverage_models import define_torchvision

define_torchvision()
import timm  # noqa: E402 - it needs operators that torchvision lacks beside a CPU build

MODELS = {
    "resnet18": "resnet18",
    "densenet121": "densenet121",
    "mobilenetv3_small": "mobilenetv3_small_100",
    "vit_tiny": "vit_tiny_patch16_224",
    "convnext_atto": "convnext_atto",
}
BATCH = 8


def subject(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """A model with random weights and a batch of images."""
    torch.manual_seed(0)
    model = timm.create_model(MODELS[name], pretrained=False).eval().requires_grad_(False)
    return model, torch.randn(BATCH, 3, 224, 224)


def contenders(name: str) -> dict[str, Callable[[], object]]:
    """What is timed: each computes the gradient of one logit with respect to the input, or what its name says."""
    model, x = subject(name)
    free = x.clone().requires_grad_()
    trained = copy.deepcopy(model).requires_grad_()
    wanted = [free, *trained.parameters()]
    seed = torch.zeros(BATCH, 1000)
    seed[:, 3] = 1
    graph = ct.capture(model, x)
    passed = graph.optimized()
    plain, fast = graph.gradient(), passed.gradient()
    middle = [node for node in graph.nodes if node.op is not None and node.shape and len(node.shape) >= 3]
    halfway = cut_value(graph, middle[len(middle) // 2])
    found: dict[str, Callable[[], object]] = {
        "autograd": lambda: torch.autograd.grad(model(free), free, seed)[0],
        "ours": lambda: plain(x, seed=seed),
        "ours, passes": lambda: fast(x, seed=seed),
        "every value and adjoint to the input": lambda: graph.run(x).backward("output", seed, wrt="input"),
        "activation halfway": halfway(x),
        "autograd, parameters too": lambda: torch.autograd.grad(trained(free), wanted, seed, allow_unused=True),
        "every value and adjoint": lambda: graph.run(x).backward("output", seed),
    }
    if name == "resnet18":
        cam, quick = graph.gradient(wrt="layer4", values=["layer4"]), passed.gradient(wrt="layer4", values=["layer4"])
        found["layer4 and its adjoint"] = lambda: cam.evaluate(x, seed=seed)
        found["layer4 and its adjoint, passes"] = lambda: quick.evaluate(x, seed=seed)
    return found


def cut_value(graph: ct.Graph, node: ct.Node) -> Callable[[torch.Tensor], Callable[[], object]]:
    """The forward pass up to a node only."""
    shallow = ct.graph.cut(graph, node)
    return lambda x: lambda: shallow(x)


def interleaved(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Times of each function, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(repeats + 2):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            if turn > 1:  # two rounds to warm up
                times[name].append(time.perf_counter() - begin)
    return times


def against(what: str) -> str:
    """The row a contender is measured against."""
    return "autograd, parameters too" if what in ("autograd, parameters too", "every value and adjoint") else "autograd"


def peak(name: str, contender: str) -> float:
    """The resident memory one run of a contender adds at its peak, in MiB, in a process of its own (on Linux)."""
    code = f"import benchmarks.engine as b; b.report_peak({name!r}, {contender!r})"
    returned = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc gives every freed tensor back at once
    done = subprocess.run([sys.executable, "-c", code], env=returned, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def report_peak(name: str, contender: str) -> None:
    """Print by how much resident memory grows at its peak while a contender runs."""
    torch.set_num_threads(2)
    function = contenders(name)[contender]
    function()  # prepared weights and workspaces stay; they are counted with the model
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the kernel starts its record of the peak anew
    before = resident("VmRSS")
    function()
    print(resident("VmHWM") - before)


def resident(what: str) -> float:
    """A number of the kernel's about this process's memory, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(what))


def capture_times(name: str) -> tuple[float, float]:
    """Seconds of the first capture and of the second, in this process."""
    model, x = subject(name)
    times = []
    for _ in range(2):
        begin = time.perf_counter()
        ct.capture(model, x)
        times.append(time.perf_counter() - begin)
    return times[0], times[1]


def main() -> None:
    """Print the table, and write it as CSV if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--memory", action="store_true", help="measure peak memory too, in processes of their own")
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(2)
    versions = f"torch {torch.__version__}, timm {timm.__version__}, Python {platform.python_version()}"
    print(f"{processor()}, 2 threads, {versions}, batch {BATCH}, {options.repeats} interleaved repeats")
    rows = []
    for name in options.models:
        first, again = capture_times(name)
        print(f"\n{name}: first capture {first:.2f} s, again {again * 1e3:.2f} ms")
        rows.append({"model": name, "what": "first capture", "median": first})
        rows.append({"model": name, "what": "second capture", "median": again})
        times = interleaved(contenders(name), options.repeats)
        for what, taken in times.items():
            middle = statistics.median(taken)
            ratios = [mine / theirs for mine, theirs in zip(taken, times[against(what)], strict=True)]
            row = {
                "model": name,
                "what": what,
                "median": middle,
                "low": min(taken),
                "high": max(taken),
                "ratio": statistics.median(ratios),
                "ratio_low": min(ratios),
                "ratio_high": max(ratios),
            }
            if options.memory and what in ("autograd", "ours", "ours, passes"):
                row["peak_mib"] = peak(name, what)
            rows.append(row)
            memory = f"   peak {row['peak_mib']:.0f} MiB" if "peak_mib" in row else ""
            spread = f"{row['ratio_low']:.2f} to {row['ratio_high']:.2f}"
            print(f"  {what:<38}{middle * 1e3:8.1f} ms   ratio {row['ratio']:.2f} ({spread}){memory}", flush=True)
    if options.save:
        with options.save.open("w", newline="") as file:
            names = ["model", "what", "median", "low", "high", "ratio", "ratio_low", "ratio_high", "peak_mib"]
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
