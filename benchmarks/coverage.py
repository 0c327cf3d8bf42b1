"""What can be captured, and is its gradient right? One architecture of every family of timm, transformers and torch.nn.

    python benchmarks/coverage.py [--only WORD] [--train] [--csv docs/coverage.csv]

For each network: whether it is captured, whether the graph's output is the model's, the relative error of the gradient
with respect to inputs and every parameter against autograd, and how many nodes of the backward pass are served by a row
of the table, by the local vjp instead. Each network runs in a process of its own, so that memory is freed.

An error is max |a − b| over a tensor divided by max |b|, or by a floor relative to the largest gradient of the
network for tensors that are structurally zero: 1e-3 of it in float32, 1e-6 in float64.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import coverage_models
from benchmarks.coverage_models import Subject
from cutaway import graph as G

TOLERANCE, EXACT = 1e-5, 1e-9
FLOOR = {torch.float32: 1e-3, torch.float64: 1e-6}


@dataclass
class Outcome:
    """One network's line of the table."""

    name: str
    parameters: float = 0.0  # millions
    captured: bool = False
    dynamic: bool = False
    specialised: bool = False
    output: float = float("nan")  # relative error of the graph's output against the model's
    gradient: float = float("nan")  # relative error against autograd, float32
    gradient64: float = float("nan")  # the same in float64
    worst: str = ""  # the tensor with the largest error
    nodes: int = 0  # nodes of the backward pass
    fallback: int = 0  # of these, served by the local vjp
    fallback_operations: str = ""
    capture_seconds: float = float("nan")
    autograd_seconds: float = float("nan")
    program_seconds: float = float("nan")
    problem: str = ""
    operations: dict[str, int] = field(default_factory=dict)

    @property
    def right(self) -> bool:
        """Captured, the same output, and the same gradient: in float32, or where rounding is the reason, in float64."""
        same = self.gradient <= TOLERANCE or self.gradient64 <= EXACT
        return self.captured and self.output <= TOLERANCE and same


def floats(tree: Any) -> list[torch.Tensor]:
    """The real tensors of a nested structure."""
    return [t for t in pytree.tree_leaves(tree) if isinstance(t, torch.Tensor) and t.is_floating_point()]


def relative(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor], names: Sequence[str]) -> tuple[float, str]:
    """The largest relative error over all tensors, and whose it is."""
    floor = FLOOR[theirs[0].dtype] * max(float(b.abs().max()) for b in theirs if b.numel())
    worst, whose = 0.0, ""
    for a, b, name in zip(ours, theirs, names, strict=True):
        error = float((a - b).abs().max() / max(float(b.abs().max()), floor)) if b.numel() else 0.0
        if a.shape != b.shape or not error <= worst:  # also true of NaN
            worst, whose = (error if a.shape == b.shape else float("inf")), name
    return worst, whose


def measure(subject: Subject, outcome: Outcome, train: bool = False) -> None:
    """Capture, compare output and gradients with autograd, and count who served the nodes."""
    model, inputs, keywords = subject.model, subject.inputs, dict(subject.keywords)
    began = time.perf_counter()
    graph = G.capture(model, *inputs, train=train, specialise=True, **keywords)
    if train and torch.float64 not in {p.dtype for p in model.parameters()}:
        model.train()
    outcome.capture_seconds = time.perf_counter() - began
    outcome.captured, outcome.dynamic = True, graph.dynamic
    outcome.specialised = bool(getattr(graph, "specialised", False))
    outcome.operations = dict(Counter(str(node.op) for node in graph.nodes if node.op is not None))

    leaves = floats((inputs, keywords))
    parameters = dict(model.named_parameters())
    for tensor in (*leaves, *parameters.values()):
        tensor.requires_grad_(True)
    began = time.perf_counter()
    torch.manual_seed(1)
    outputs = [t for t in floats(model(*inputs, **keywords)) if t.requires_grad]
    seeds = [torch.randn_like(t) for t in outputs]
    theirs = torch.autograd.grad(outputs, [*leaves, *parameters.values()], seeds, allow_unused=True)
    outcome.autograd_seconds = time.perf_counter() - began
    theirs = [torch.zeros_like(t) if g is None else g for g, t in zip(theirs, [*leaves, *parameters.values()])]

    for tensor in (*leaves, *parameters.values()):
        tensor.requires_grad_(False)
    of = [node for node in graph.outputs if node.differentiable]
    wrt_inputs = [node for node in graph.inputs if node.differentiable]
    by_target = {node.target: node for node in graph.parameters}
    wrt = [*wrt_inputs, *(by_target[name] for name in parameters)]
    names = [node.name for node in wrt]
    if len(of) > len(outputs):  # outputs that depend on nothing differentiable
        of = of[: len(outputs)]
    program = graph.gradient(of=of, wrt=wrt)
    torch.manual_seed(1)
    program.evaluate(*inputs, seed=seeds, **keywords)
    torch.manual_seed(1)
    began = time.perf_counter()
    values, adjoints = program.evaluate(*inputs, seed=seeds, **keywords)
    outcome.program_seconds = time.perf_counter() - began
    error, _ = relative(list(values.values()), [t.detach() for t in outputs], [n.name for n in of])
    gradient, worst = relative(list(adjoints.values()), theirs, names)
    if (leaves and leaves[0].dtype == torch.float64) or next(iter(parameters.values())).dtype == torch.float64:
        outcome.gradient64 = gradient
        outcome.worst = worst
        return
    outcome.output, outcome.gradient, outcome.worst = error, gradient, worst
    origins = Counter(program.origins.values())
    outcome.nodes, outcome.fallback = sum(origins.values()), origins["fallback"]
    fallen = Counter(graph[name].op_name for name, origin in program.origins.items() if origin == "fallback")
    outcome.fallback_operations = ", ".join(f"{name} ×{count}" for name, count in sorted(fallen.items()))


def run_one(name: str, train: bool, exact: bool) -> Outcome:
    """Measure one network in this process."""
    torch.set_num_threads(1)
    outcome = Outcome(name)
    try:
        subject = coverage_models.make(name)
        outcome.parameters = sum(p.numel() for p in subject.model.parameters()) / 1e6
        measure(subject, outcome, train)
        if exact or not outcome.gradient <= TOLERANCE:
            double = pytree.tree_map_only(
                torch.Tensor, lambda t: t.double() if t.is_floating_point() else t, (subject.inputs, subject.keywords)
            )
            exact = Outcome(name)
            measure(Subject(subject.model.double(), *double), exact, train)
            outcome.gradient64, outcome.worst = exact.gradient64, exact.worst
    except Exception as error:
        outcome.problem = f"{type(error).__name__}: {error}"[:2000]
    return outcome


def run_apart(name: str, train: bool, exact: bool, timeout: float, keep: Path | None) -> Outcome:
    """Measure one network in a process of its own; or read what an earlier run kept of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = (keep or Path(folder)) / f"{name.replace(' ', '_')}.json"
        if path.exists():
            return Outcome(**json.loads(path.read_text()))
        command = [
            sys.executable,
            __file__,
            "--one",
            name,
            "--json",
            str(path),
            *["--train"] * train,
            *["--exact"] * exact,
        ]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                command, timeout=timeout, env=environment, capture_output=True, text=True, check=False
            )
        except subprocess.TimeoutExpired:
            return Outcome(name, problem=f"took longer than {timeout:.0f} s")
        if not path.exists():
            return Outcome(name, problem=f"the process ended with {done.returncode}: {done.stderr[-500:]}")
        return Outcome(**json.loads(path.read_text()))


def line(outcome: Outcome) -> str:
    """One line of the printed table."""
    word = "right" if outcome.right else "WRONG" if outcome.captured else "not captured"
    return (
        f"{outcome.name:34} {outcome.parameters:6.1f}M {word:12} out {outcome.output:7.1e} grad {outcome.gradient:7.1e}"
        f"  float64 {outcome.gradient64:7.1e}  fallback {outcome.fallback:3d}/{outcome.nodes:<5d}"
        f" {outcome.capture_seconds:5.1f} s capture, {outcome.autograd_seconds:5.2f} s autograd,"
        f" {outcome.program_seconds:5.2f} s program  {outcome.fallback_operations}"
        + (f"\n    {outcome.problem[:400]}" if outcome.problem else "")
    )


def summary(outcomes: Sequence[Outcome]) -> str:
    """What the run showed, in words."""
    captured, right = sum(o.captured for o in outcomes), sum(o.right for o in outcomes)
    nodes, fallback = sum(o.nodes for o in outcomes), sum(o.fallback for o in outcomes)
    return (
        f"{len(outcomes)} networks: {captured} captured, {right} right ({100 * right / max(len(outcomes), 1):.1f} %); "
        f"{nodes} nodes on the way back, {fallback} by fallback; torch {torch.__version__}"
    )


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="*", default=[], help="measure the networks whose name holds one of these words"
    )
    parser.add_argument("--train", action="store_true", help="in training mode")
    parser.add_argument("--exact", action="store_true", help="in float64 too, also where float32 agrees")
    parser.add_argument("--csv", type=Path, help="write the table here")
    parser.add_argument("--operations", type=Path, help="write how often each operation occurs here")
    parser.add_argument("--keep", type=Path, help="keep each outcome in this folder, and take those that are there")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one network")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        options.json.write_text(json.dumps(asdict(run_one(options.one, options.train, options.exact))))
        return
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for name in coverage_models.names():
        if not options.only or any(word in name for word in options.only):
            outcomes.append(run_apart(name, options.train, options.exact, options.timeout, options.keep))
            print(line(outcomes[-1]), flush=True)
    print(summary(outcomes))
    if options.csv:
        columns = [f.name for f in fields(Outcome) if f.name != "operations"]
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows([_cell(getattr(o, name)) for name in columns] for o in outcomes)
    if options.operations:
        total: Counter[str] = Counter()
        for outcome in outcomes:
            total.update(outcome.operations)
        options.operations.write_text("".join(f"{count}\t{name}\n" for name, count in total.most_common()))


def _cell(value: Any) -> Any:
    return (
        f"{value:.3g}"
        if isinstance(value, float)
        else str(value).splitlines()[0]
        if isinstance(value, str) and value
        else value
    )


if __name__ == "__main__":
    main()
