"""Attacks beside those of torchattacks, foolbox and the original AutoAttack: the same answers, and the time they take.

    make bench-env && .bench/bin/python benchmarks/attack.py --data FOLDER [--repeats 2] [--images 500]

Agreement is robust accuracy on the same images with the same settings, and on how many images two codes differ. Times
are process CPU time on 2 threads, the median of interleaved repeats, as a ratio to a loop written by hand that does the
same number of `torch.autograd.grad` calls (or forward passes) on the same batch in the same run. The bound is so small
that hardly any example succeeds: nobody gains by leaving early; Carlini-Wagner and DeepFool have no bound, and examples
leave them. The loop of FGSM does not know whom it fooled; a second one beside it asks. Libraries that are not installed
are left out.
"""

import argparse
import copy
import importlib
import logging
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.coverage_models import define_torchvision
from benchmarks.engine import processor
from cutaway import attack, data, nets
from cutaway.experiments.adversarial_training import mnist_network

define_torchvision()
PEERS = ("torchattacks", "foolbox", "pyautoattack")  # the last one is the original AutoAttack
SMALL = 1e-4
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the CIFAR ResNets' training
COUNTED = "loop, success counted"
QUIET: dict[str, Any] = {"control": False, "progress": False}


@dataclass(frozen=True)
class Subject:
    """A model with images and labels, and how much each attack does.

    Attributes:
        steps: gradients of PGD, APGD and Carlini-Wagner.
        queries: forward passes of Square.
        lines: linearisations of DeepFool, each with the gradients of ten logits.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    steps: int
    queries: int
    lines: int


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


def contenders(one: Subject) -> dict[str, dict[str, Callable[[], Any]]]:
    """What is timed, by attack: the hand-written loop first."""
    model, x, y, steps = one.model, one.x, one.y, one.steps
    small: dict[str, Any] = {"eps": SMALL, **QUIET}
    found: dict[str, dict[str, Callable[[], Any]]] = {
        "FGSM": {
            "loop": lambda: hand_written(model, x, y, 1),
            COUNTED: lambda: robust(model, hand_written(model, x, y, 1), y),
            "ours": lambda: attack.fgsm(model, x, y, **small),
        },
        "PGD": {
            "loop": lambda: hand_written(model, x, y, steps),
            "ours": lambda: attack.pgd(model, x, y, steps=steps, early_stop=False, **small),
        },
        "APGD": {
            "loop": lambda: hand_written(model, x, y, steps),
            "ours": lambda: attack.apgd(model, x, y, steps=steps, **small),
        },
        "C&W": {
            "loop": lambda: hand_written(model, x, y, steps),
            "ours": lambda: attack.carlini_wagner(model, x, y, steps=steps, searches=1, **QUIET),
        },
        "Square": {
            "loop": lambda: forward_only(model, x, one.queries),
            "ours": lambda: attack.square(model, x, y, queries=one.queries, **small),
        },
        "DeepFool": {
            "loop": lambda: jacobians(model, x, one.lines, 10),
            "ours": lambda: attack.deepfool(model, x, y, steps=one.lines, **QUIET),
        },
    }
    return found


def add_peers(found: dict[str, dict[str, Callable[[], Any]]], one: Subject) -> None:
    """Put the installed peers beside ours."""
    model, x, y, steps = one.model, one.x, one.y, one.steps
    torchattacks, foolbox, original = map(library, ("torchattacks", "foolbox", "pyautoattack"))
    if torchattacks is not None:
        made = {
            "FGSM": torchattacks.FGSM(model, eps=SMALL),
            "PGD": torchattacks.PGD(model, eps=SMALL, alpha=SMALL / 4, steps=steps),
            "C&W": torchattacks.CW(model, steps=steps),
            "DeepFool": torchattacks.DeepFool(model, steps=one.lines),
            "Square": torchattacks.Square(model, eps=SMALL, n_queries=one.queries),
        }
        for name, each in made.items():
            found[name]["torchattacks"] = lambda each=each: each(x, y)
    if foolbox is not None:
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
        linf = foolbox.attacks.LinfPGD(rel_stepsize=0.25, steps=steps)
        found["PGD"]["foolbox"] = lambda: linf(wrapped, x, y, epsilons=SMALL)
        cw = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=1, steps=steps)
        found["C&W"]["foolbox"] = lambda: cw(wrapped, x, y, epsilons=None)
        fool = foolbox.attacks.L2DeepFoolAttack(steps=one.lines, candidates=10)
        found["DeepFool"]["foolbox"] = lambda: fool(wrapped, x, y, epsilons=None)
    if original is not None:
        whole = original.AutoAttack(model, norm="Linf", eps=SMALL, seed=0)
        shorten(whole.apgd, steps)
        whole.apgd.n_restarts, whole.square.n_queries = 1, one.queries
        found["APGD"]["original"] = lambda: whole.apgd.perturb(x, y)
        found["Square"]["original"] = lambda: whole.square.perturb(x, y)


def subjects(cifar: nn.Module, x: Tensor) -> dict[str, Subject]:
    """The two networks: few images of many pixels, many of few."""
    torch.manual_seed(0)
    large = nets.normalized(nets.make("resnet18", seed=0), 0.45, 0.225).eval()
    photographs = torch.rand(8, 3, 224, 224)
    with torch.no_grad():
        return {
            "CIFAR ResNet-20, 64 images": Subject(cifar, x[:64], cifar(x[:64]).argmax(1), 20, 60, 3),
            "ResNet-18, 8 images of 224 pixels": Subject(large, photographs, large(photographs).argmax(1), 20, 30, 2),
        }


def speed(repeats: int, peers: bool, chosen: dict[str, Subject], names: list[str] | None) -> None:
    """Print times as ratios to the loop written by hand."""
    for title, one in chosen.items():
        print(f"{title}: {one.steps} steps, {one.queries} queries, {one.lines} linearisations")
        found = contenders(one)
        if peers and one.x.shape[-1] < 100:  # the peers' answers and orders of cost are the same for large images
            add_peers(found, one)
        for function in found["FGSM"].values():  # to warm up: capture, packed weights, chosen kernels
            function()
        for name, functions in found.items():
            if names is not None and name not in names:
                continue
            times: dict[str, list[float]] = {}
            for _ in range(repeats if one.x.shape[-1] < 100 else max(repeats // 2, 1)):
                for who, function in functions.items():
                    begin = time.process_time()
                    function()
                    times.setdefault(who, []).append(time.process_time() - begin)
            for base in ("loop", COUNTED):
                for who, taken in times.items() if base in times else ():
                    ratios = [mine / loop for mine, loop in zip(taken, times[base], strict=True)]
                    spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
                    to = "" if base == "loop" else f" of the {COUNTED}"
                    took = f"{statistics.median(ratios):.2f} {spread}{to}, {statistics.median(taken):.2f} s"
                    print(f"  {name:<9}{who:<23}{took}", flush=True)


def robust(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Which images are still given their label, asked anew."""
    with torch.no_grad():
        return torch.cat([model(part) for part in x.split(250)]).argmax(1) == y


def compare(title: str, model: nn.Module, y: Tensor, ours: Callable[[], Any], theirs: Callable[[], Tensor]) -> Tensor:
    """Print the robust accuracy by both codes, on how many images they differ, and the ratio of CPU times.

    Returns:
        The numbers of the images that ours breaks and theirs does not.
    """
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
    return (other & ~mine).nonzero()[:, 0]


def shorten(part: Any, steps: int) -> None:
    """Give an attack of the original fewer steps; its checkpoints are set when it is made, for 100."""
    part.n_iter = part.n_iter_orig = steps
    for name, share in (("n_iter_2", 0.22), ("n_iter_min", 0.06), ("size_decr", 0.03)):
        setattr(part, name, max(int(share * steps), 1))


def agreement(model: nn.Module, x: Tensor, y: Tensor, bound: float, large: float | None = None) -> None:
    """Print robust accuracies by our code and by the peers'.

    Args:
        model, x, y: the network, images and labels.
        bound: of the short attacks, where robust accuracy lies between 0 and the clean one.
        large: bound of AutoAttack's standard version; left out when None.
    """
    original = library("pyautoattack")
    few = attack.Effort(steps=20, targets=3, queries=200)
    words = f"{bound:.2f}" if bound > 0.1 else f"{255 * bound:.3g}/255"
    if original is not None and large is not None:
        one = original.AutoAttack(model, norm="Linf", eps=large, seed=0)
        compare(
            f"AutoAttack standard, {255 * large:.3g}/255",
            model,
            y,
            lambda: attack.auto_attack(model, x, y, eps=large, **QUIET),
            lambda: one.run_standard_evaluation(x, y, batch_size=250)[0],
        )
    if original is not None:
        short = original.AutoAttack(model, norm="Linf", eps=bound, seed=0)
        for part in (short.apgd, short.apgd_targeted, short.fab):
            shorten(part, few.steps)
        short.apgd_targeted.n_target_classes = short.fab.n_target_classes = few.targets
        short.square.n_queries = few.queries
        compare(
            f"AutoAttack, 20 steps, 3 targets, {words}",
            model,
            y,
            lambda: attack.auto_attack(model, x, y, eps=bound, effort=few, **QUIET),
            lambda: short.run_standard_evaluation(x, y, batch_size=250)[0],
        )
    follow(model, x, y, bound, words)


def follow(model: nn.Module, x: Tensor, y: Tensor, bound: float, words: str) -> None:
    """Compare PGD with 20 steps; where ours alone breaks an image, ask whether theirs does so in float64.

    Where a network is sure, 1 − p(label) vanishes in float32 and with it the largest part of the peers' gradient.
    """
    torchattacks, foolbox, _ = map(library, PEERS)
    settings: dict[str, Any] = {"eps": bound, "step_size": bound / 4, "steps": 20, "random_start": False, **QUIET}
    same: dict[str, Any] = {"steps": 20, "random_start": False}
    peers: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {}
    if torchattacks is not None:
        peers["torchattacks"] = lambda model, x, y: torchattacks.PGD(model, eps=bound, alpha=bound / 4, **same)(x, y)
    if foolbox is not None:
        linf = foolbox.attacks.LinfPGD(abs_stepsize=bound / 4, **same)
        bounds = (0, 1)
        peers["foolbox"] = lambda model, x, y: linf(foolbox.PyTorchModel(model, bounds), x, y, epsilons=bound)[1]
    for name, theirs in peers.items():
        title = f"PGD-20, {words} ({name})"
        ours = partial(attack.pgd, model, x, y, **settings)
        rest = compare(title, model, y, ours, partial(theirs, model, x, y))
        if len(rest):
            exact, some, known = copy.deepcopy(model).double(), x[rest].double(), y[rest]
            also = ~robust(exact, theirs(exact, some, known), known)
            print(f"    {len(rest)} are broken by ours alone; {name} in float64 breaks {int(also.sum())} of them")


def cifar(folder: Path, name: str) -> nn.Module:
    """A CIFAR ResNet with its weights from the data folder, behind the normalisation they were trained with."""
    network = nets.load(name, weights=folder / f"{name.removesuffix('_cifar')}_cifar10.safetensors")
    return nets.normalized(network, MEAN, STD).eval()


def hardened(weights: Path) -> nn.Module:
    """The network that `cutaway experiment adversarial_training --full` trains on MNIST."""
    model = mnist_network(widths=(32, 64, 200))
    model.load_state_dict(load_file(weights))
    return model.eval()


def options() -> argparse.Namespace:
    """What was asked at the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with CIFAR-10 and weights of CIFAR ResNets")
    parser.add_argument("--networks", nargs="*", default=["resnet20_cifar"], help="to compare answers on")
    eps = "bounds of the short attacks and of AutoAttack's standard version (0: without), in 255ths"
    parser.add_argument("--eps", nargs=2, type=float, default=[1, 8], metavar=("SHORT", "STANDARD"), help=eps)
    parser.add_argument("--hardened", type=Path, help="model.safetensors of a network trained on attacked MNIST digits")
    parser.add_argument("--repeats", type=int, default=2, help="on small images; large ones half as often")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--speed", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True, help="time them as well")
    parser.add_argument("--only", nargs="*", help="time only these attacks")
    parser.add_argument("--on", default="", metavar="WORD", help="time only networks with this word in their title")
    parser.add_argument("--agreement", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


def main() -> None:
    """Print all tables."""
    asked = options()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(asked.threads)
    versions = ", ".join(f"{name} {getattr(library(name), '__version__', '–')}" for name in PEERS)
    place = f"{processor()}, {asked.threads} threads, torch {torch.__version__}"
    print(f"{place}, {versions}, Python {platform.python_version()}")
    os.environ["CUTAWAY_DATA"] = str(asked.data)
    images = data.load("cifar10")[-1][: asked.images]
    if asked.agreement:
        for name in asked.networks:
            print(f"robust accuracy of {name} on {len(images)} images of CIFAR-10", flush=True)
            short, standard = (bound / 255 for bound in asked.eps)
            agreement(cifar(asked.data, name), images.x, images.y, short, standard or None)
    if asked.hardened is not None:
        digits = data.load("mnist")[-1][: asked.images]
        print(f"robust accuracy of {asked.hardened} on {len(digits)} images of MNIST", flush=True)
        agreement(hardened(asked.hardened), digits.x, digits.y, 0.3)
    if asked.speed:
        print(f"CPU time relative to a loop written by hand, {asked.repeats} interleaved repeats")
        every = subjects(cifar(asked.data, "resnet20_cifar"), images.x)
        chosen = {title: one for title, one in every.items() if asked.on in title}
        speed(asked.repeats, asked.peers, chosen, asked.only)


if __name__ == "__main__":
    main()
