"""Attacks beside those of torchattacks, foolbox and the original AutoAttack: the same answers, and the time they take.

    make bench-env && .bench/bin/python benchmarks/attack.py --data FOLDER [--repeats 5] [--images 500]

Agreement is robust accuracy on the same images with the same settings, and on how many images two codes differ. Times
are process CPU time on 2 threads, the median of interleaved repeats, as a ratio to a loop written by hand that does the
same number of `torch.autograd.grad` calls (or forward passes) on the same batch in the same run. The bound is so small
that hardly any example succeeds: nobody gains by leaving early. Libraries that are not installed are left out.
"""

import argparse
import importlib
import logging
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.coverage_models import define_torchvision
from benchmarks.engine import processor
from cutaway import attack, data, nets

define_torchvision()
PEERS = ("torchattacks", "foolbox", "pyautoattack")  # the last one is the original AutoAttack
SMALL, STEPS = 1e-4, 20
QUIET: dict[str, Any] = {"control": False, "progress": False}


def library(name: str) -> Any:
    """A peer, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def hand_written(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """PGD as one writes it: the measure of everything that follows a gradient."""
    found = x.clone()
    for _ in range(steps):
        free = found.detach().requires_grad_()
        gradient = torch.autograd.grad(F.cross_entropy(model(free), y, reduction="sum"), free)[0]
        found = (x + (free.detach() + SMALL / 4 * gradient.sign() - x).clamp(-SMALL, SMALL)).clamp(0, 1)
    return found


@torch.no_grad()
def forward_only(model: nn.Module, x: Tensor, queries: int) -> None:
    """As many forward passes as a search at random asks for."""
    for _ in range(queries):
        model(x)


def jacobians(model: nn.Module, x: Tensor, steps: int, classes: int) -> None:
    """As many gradients of logits as DeepFool asks for, each of the whole batch."""
    for _ in range(steps):
        free = x.clone().requires_grad_()
        logits = model(free)
        for k in range(classes):
            torch.autograd.grad(logits[:, k].sum(), free, retain_graph=k < classes - 1)


def contenders(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, dict[str, Callable[[], Any]]]:
    """What is timed, by attack: the hand-written loop first."""
    small: dict[str, Any] = {"eps": SMALL, **QUIET}
    found: dict[str, dict[str, Callable[[], Any]]] = {
        "FGSM": {
            "loop": lambda: hand_written(model, x, y, 1),
            "ours": lambda: attack.fgsm(model, x, y, **small),
        },
        "PGD": {
            "loop": lambda: hand_written(model, x, y, STEPS),
            "ours": lambda: attack.pgd(model, x, y, steps=STEPS, early_stop=False, **small),
        },
        "APGD": {
            "loop": lambda: hand_written(model, x, y, STEPS),
            "ours": lambda: attack.apgd(model, x, y, steps=STEPS, **small),
        },
        "C&W": {
            "loop": lambda: hand_written(model, x, y, STEPS),
            "ours": lambda: attack.carlini_wagner(model, x, y, steps=STEPS, searches=1, **QUIET),
        },
        "Square": {
            "loop": lambda: forward_only(model, x, 100),
            "ours": lambda: attack.square(model, x, y, queries=100, **small),
        },
        "DeepFool": {
            "loop": lambda: jacobians(model, x, 3, 10),
            "ours": lambda: attack.deepfool(model, x, y, steps=3, **QUIET),
        },
    }
    add_peers(found, model, x, y)
    return found


def add_peers(found: dict[str, dict[str, Callable[[], Any]]], model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Put the installed peers beside ours."""
    torchattacks, foolbox, original = map(library, PEERS)
    if torchattacks is not None:
        made = {
            "FGSM": torchattacks.FGSM(model, eps=SMALL),
            "PGD": torchattacks.PGD(model, eps=SMALL, alpha=SMALL / 4, steps=STEPS),
            "C&W": torchattacks.CW(model, steps=STEPS),
            "DeepFool": torchattacks.DeepFool(model, steps=3),
            "Square": torchattacks.Square(model, eps=SMALL, n_queries=100),
        }
        for name, one in made.items():
            found[name]["torchattacks"] = lambda one=one: one(x, y)
    if foolbox is not None:
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
        linf = foolbox.attacks.LinfPGD(rel_stepsize=0.25, steps=STEPS)
        found["PGD"]["foolbox"] = lambda: linf(wrapped, x, y, epsilons=SMALL)
        cw = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=1, steps=STEPS)
        found["C&W"]["foolbox"] = lambda: cw(wrapped, x, y, epsilons=None)
        fool = foolbox.attacks.L2DeepFoolAttack(steps=3)
        found["DeepFool"]["foolbox"] = lambda: fool(wrapped, x, y, epsilons=None)
    if original is not None:
        one = original.AutoAttack(model, norm="Linf", eps=SMALL, seed=0)
        one.apgd.n_iter, one.apgd.n_restarts, one.square.n_queries = STEPS, 1, 100
        found["APGD"]["original"] = lambda: one.apgd.perturb(x, y)
        found["Square"]["original"] = lambda: one.square.perturb(x, y)


def speed(repeats: int, cifar: nn.Module, x: Tensor, y: Tensor) -> None:
    """Print times as ratios to the loop written by hand."""
    torch.manual_seed(0)
    large = nets.normalized(nets.make("resnet18", seed=0), 0.45, 0.225).eval()
    photographs = torch.rand(8, 3, 224, 224)
    subjects = {
        "CIFAR ResNet-20, 64 images": (cifar, x[:64], cifar(x[:64]).argmax(1)),
        "ResNet-18, 8 images of 224 pixels": (large, photographs, large(photographs).argmax(1)),
    }
    for title, (model, images, labels) in subjects.items():
        print(title)
        for name, functions in contenders(model, images, labels).items():
            if images.shape[-1] == 224 and name in ("Square", "DeepFool", "C&W"):
                continue
            times: dict[str, list[float]] = {}
            for turn in range(repeats + 1):
                for who, function in functions.items():
                    begin = time.process_time()
                    function()
                    if turn:  # one round to warm up
                        times.setdefault(who, []).append(time.process_time() - begin)
            for who, taken in times.items():
                ratios = [mine / loop for mine, loop in zip(taken, times["loop"], strict=True)]
                spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
                print(f"  {name:<10}{who:<14}{statistics.median(ratios):6.2f} {spread}", flush=True)


def robust(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Which images are still given their label, asked anew."""
    with torch.no_grad():
        return torch.cat([model(part) for part in x.split(250)]).argmax(1) == y


def compare(title: str, model: nn.Module, y: Tensor, ours: Callable[[], Any], theirs: Callable[[], Tensor]) -> None:
    """Print the robust accuracy by both codes, on how many images they differ, and the ratio of CPU times."""
    begin = time.process_time()
    mine = robust(model, ours().x, y)
    middle = time.process_time()
    other = robust(model, theirs(), y)
    end = time.process_time()
    differ = int((mine != other).sum())
    print(
        f"  {title:<46}ours {100 * mine.double().mean():5.1f} %   theirs {100 * other.double().mean():5.1f} %   "
        f"differ {differ} of {len(y)}   time {middle - begin:.0f} s / {end - middle:.0f} s = "
        f"{(middle - begin) / (end - middle):.2f}",
        flush=True,
    )


def agreement(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Print robust accuracies by our code and by the peers' at bounds where they lie between 0 and the clean one."""
    torchattacks, foolbox, original = map(library, PEERS)
    bound, few = 0.5 / 255, attack.Effort(steps=20, targets=3, queries=200)
    part_x, part_y = x[:100], y[:100]  # where nearly half the images stay, each costs all there is
    if original is not None:
        one = original.AutoAttack(model, norm="Linf", eps=8 / 255, seed=0)
        compare(
            "AutoAttack standard, 8/255",
            model,
            y,
            lambda: attack.auto_attack(model, x, y, eps=8 / 255, **QUIET),
            lambda: one.run_standard_evaluation(x, y, batch_size=250)[0],
        )
        short = original.AutoAttack(model, norm="Linf", eps=bound, seed=0)
        for part in (short.apgd, short.apgd_targeted, short.fab):
            part.n_iter = few.steps
        short.apgd_targeted.n_target_classes = short.fab.n_target_classes = few.targets
        short.square.n_queries = few.queries
        compare(
            "AutoAttack, 20 steps, 3 targets, 0.5/255",
            model,
            part_y,
            lambda: attack.auto_attack(model, part_x, part_y, eps=bound, effort=few, **QUIET),
            lambda: short.run_standard_evaluation(part_x, part_y, batch_size=250)[0],
        )
    settings: dict[str, Any] = {"eps": bound, "step_size": bound / 4, "steps": 20, "random_start": False, **QUIET}
    if torchattacks is not None:
        pgd = torchattacks.PGD(model, eps=bound, alpha=bound / 4, steps=20, random_start=False)
        compare(
            "PGD-20, 0.5/255 (torchattacks)", model, y, lambda: attack.pgd(model, x, y, **settings), lambda: pgd(x, y)
        )
    if foolbox is not None:
        linf = foolbox.attacks.LinfPGD(abs_stepsize=bound / 4, steps=20, random_start=False)
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
        compare(
            "PGD-20, 0.5/255 (foolbox)",
            model,
            y,
            lambda: attack.pgd(model, x, y, **settings),
            lambda: linf(wrapped, x, y, epsilons=bound)[1],
        )


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with CIFAR-10 and resnet20_cifar10.safetensors"
    )
    parser.add_argument(
        "--weights", default="resnet20_cifar10.safetensors", help="of a network `--network` in that folder"
    )
    parser.add_argument("--network", default="resnet20_cifar")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--speed", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--agreement", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(2)
    versions = ", ".join(f"{name} {getattr(library(name), '__version__', '–')}" for name in PEERS)
    print(f"{processor()}, 2 threads, torch {torch.__version__}, {versions}, Python {platform.python_version()}")
    model = nets.load(options.network, weights=options.data / options.weights).eval()
    os.environ["CUTAWAY_DATA"] = str(options.data)
    test = data.load("cifar10")[-1]
    x, y = test.x[: options.images], test.y[: options.images]
    if options.agreement:
        print(f"robust accuracy of {options.network} on {len(x)} images of CIFAR-10")
        agreement(model, x, y)
    if options.speed:
        print(f"CPU time relative to a loop written by hand, {options.repeats} interleaved repeats")
        speed(options.repeats, model, x, y)


if __name__ == "__main__":
    main()
