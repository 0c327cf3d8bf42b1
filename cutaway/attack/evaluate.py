"""Evaluate a model honestly: several attacks over several ε, a random control, and checks of the attacks themselves."""

import functools
import inspect
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from cutaway.attack.checks import MOST, run_checks, telling
from cutaway.attack.iterative import pgd
from cutaway.attack.norms import NORMS
from cutaway.attack.oracle import MaskedGradientWarning, Model
from cutaway.attack.problem import ModelModeWarning, Problem, pose
from cutaway.attack.result import Attack
from cutaway.attack.robustness import RobustnessReport
from cutaway.attack.steps import fgsm, random_noise
from cutaway.errors import ArgumentError, nearest
from cutaway.progress import Tick, bar

LADDERS: dict[str, tuple[float, ...]] = {
    "linf": (0, 1 / 255, 2 / 255, 4 / 255, 8 / 255, 16 / 255, 32 / 255),
    "l2": (0, 0.1, 0.25, 0.5, 1, 2, 3),
    "l1": (0, 1, 2, 4, 8, 12, 24),
}
STEPS = (1, 2, 5, 10, 20, 50)  # of the curve that shows whether an attack has converged
Method = Callable[..., Attack]


def evaluate(
    model: Model,
    data: Any,
    *attacks: Method,
    eps: float | Sequence[float] | None = None,
    norm: str = "linf",
    limit: int | None = None,
    checks: bool = True,
    steps: Sequence[int] | None = None,
    surrogate: Model | None = None,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = True,
) -> RobustnessReport:
    """Measure clean and robust accuracy over ε and over steps, and check whether the attacks can be believed.

    Args:
        model: module or function from images (N, C, H, W) to logits (N, K).
        data: images in [0, 1] with labels: a pair (x, y), an object with `.x` and `.y`, or batches of such pairs.
        attacks: functions of (model, x, y), such as `ct.attack.pgd` or `partial(ct.attack.pgd, steps=100)`; FGSM and
            PGD when none is given. Those that look for the smallest perturbation are run once.
        eps: radii, or one radius; zero is added. A usual set for the norm when None.
        norm: "linf", "l2" or "l1".
        limit: how many images of the data are used, from the first; all when None.
        checks: run the checks of the attacks (on at most 100 images), see `RobustnessReport.checks`.
        steps: numbers of steps for the curve over steps: attacks that take `eps` and `steps` are run with each of them
            at the smallest radius that breaks half of the images, on at most 100 images. (1, 2, 5, 10, 20, 50) when
            None, and no curve without checks; () for none.
        surrogate: another model for the same task, to see whether examples made on it are stronger than those made on
            the model itself.
        seed: for attacks and control.
        batch_size: the most images given to the model at once.
        progress: show a bar when stderr is a terminal.

    Raises:
        ArgumentError: the data, labels, radii or steps are out of range, or an attack needs gradients that
            are not there.

    Source: Carlini et al., "On evaluating adversarial robustness", 2019.

    >>> import torch
    >>> x, y = torch.tensor([[[[0.6, 0.5]]], [[[0.9, 0.1]]]]), torch.tensor([0, 0])
    >>> report = evaluate(lambda x: x.flatten(1), (x, y), eps=[0.1, 0.2], checks=False)
    >>> [rate.value for rate in report.robust_accuracy("pgd")]
    [1.0, 0.5, 0.5]
    """
    if norm not in NORMS:
        raise nearest(norm, NORMS, "norm")
    ladder = _ladder(eps, norm)
    x, y = _pairs(data, limit)
    problem = pose(model, x, y, eps=ladder[-1], norm=norm, target=None, seed=seed, batch_size=batch_size)
    methods = _named(attacks or (fgsm, pgd))
    walks = _step_ladder((STEPS if checks else ()) if steps is None else steps)
    climbers = {name: method for name, method in methods.items() if walks and {"eps", "steps"} <= _takes(method)}
    clean = ~problem.solved
    common = {"norm": norm, "seed": seed, "batch_size": batch_size, "progress": False, "control": False}
    broken, seconds = {}, {}
    rounds = (len(methods) + 1) * (len(ladder) - 1) + len(climbers) * len(walks) + checks
    with bar("evaluate", rounds, progress) as tick, _once():
        for name, method in methods.items():
            began = time.perf_counter()
            broken[name] = _under(method, problem, ladder, common, name, tick)
            seconds[name] = time.perf_counter() - began
        control = _under(random_noise, problem, ladder, common, "random noise", tick)
        worth = telling(ladder, broken)
        few = problem.keep(torch.arange(min(MOST, len(x)), device=problem.x.device))
        slow = {name: _longer(method, few, worth, walks, common, name, tick) for name, method in climbers.items()}
        found = run_checks(problem, ladder, broken, control, surrogate) if checks else ()
        tick("checks")
    settings = {"attacks": {name: _described(method) for name, method in methods.items()}, "limit": limit}
    return RobustnessReport(
        norm=norm,
        eps=ladder,
        clean=clean,
        broken={name: rows.cummax(0).values for name, rows in broken.items()},
        control=control,
        checks=found,
        settings=settings,
        seed=seed,
        seconds=seconds,
        steps=(0, *walks) if slow else (),
        steps_eps=worth,
        over_steps=slow,
    )


@contextmanager
def _once() -> Iterator[None]:
    """Say each warning about the model once, not once per attack and ε."""
    with warnings.catch_warnings():
        warnings.simplefilter("once", MaskedGradientWarning)
        warnings.simplefilter("ignore", ModelModeWarning)  # said when the problem was posed
        yield


def _under(method: Method, problem: Problem, ladder: Sequence[float], common: dict, name: str, tick: Tick) -> Tensor:
    """(E, N): which images are broken at each ε; the misclassified ones always are."""
    broken = problem.solved.repeat(len(ladder), 1)
    rows = (~problem.solved).nonzero()[:, 0]
    if not len(rows):
        return broken
    call, given = _on(method, problem, rows), _given(method, common)
    if "eps" not in _takes(method):  # looks for the smallest perturbation
        found = call(**given)
        for row, radius in enumerate(ladder[1:], 1):
            broken[row, rows] |= found.success & (found.distance <= radius)
            tick(name)
        return broken
    for row, radius in enumerate(ladder[1:], 1):
        broken[row, rows] |= call(eps=radius, **given).success
        tick(f"{name}, ε = {radius:.4g}")
    return broken


def _longer(
    method: Method, problem: Problem, eps: float, walks: Sequence[int], common: dict, name: str, tick: Tick
) -> Tensor:
    """(1 + S, M): which images are broken after no step and after each number of steps, each a run of its own."""
    broken = problem.solved.repeat(1 + len(walks), 1)
    rows = (~problem.solved).nonzero()[:, 0]
    call, given = _on(method, problem, rows), _given(method, common)
    for row, count in enumerate(walks, 1):
        if len(rows) and eps > 0:
            broken[row, rows] |= call(eps=eps, steps=count, **given).success
        tick(f"{name}, {count} steps")
    return broken


def _on(method: Method, problem: Problem, rows: Tensor) -> Method:
    return functools.partial(method, problem.oracle.model, problem.x[rows], problem.goal.label[rows])


def _takes(method: Method) -> set[str]:
    return set(inspect.signature(method).parameters)


def _given(method: Method, common: dict) -> dict:
    known = _takes(method)
    return {key: value for key, value in common.items() if key in known}


def _step_ladder(steps: Sequence[int]) -> tuple[int, ...]:
    if not all(isinstance(count, int) and count >= 1 for count in steps):
        raise ArgumentError(
            f"steps={steps!r}: expected numbers of steps, each at least 1, or () for no curve over steps"
        )
    return tuple(sorted(set(steps)))


def _ladder(eps: float | Sequence[float] | None, norm: str) -> tuple[float, ...]:
    given = LADDERS[norm] if eps is None else [eps] if isinstance(eps, int | float) else list(eps)
    if not given or not all(isinstance(radius, int | float) and radius >= 0 for radius in given):
        raise ArgumentError(f"eps={eps!r}: expected radii ≥ 0, one or several")
    return tuple(sorted({0.0, *map(float, given)}))


def _pairs(data: Any, limit: int | None) -> tuple[Tensor, Tensor]:
    if limit is not None and limit < 1:
        raise ArgumentError(f"limit={limit}: expected at least 1 image")
    if hasattr(data, "x") and hasattr(data, "y"):
        x, y = data.x, data.y
    elif isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        x, y = data
    elif isinstance(data, Iterable):
        x, y = _gathered(data, limit)
    else:
        raise ArgumentError(f"data is a {type(data).__name__}; expected (x, y), an object with .x and .y, or batches")
    return x[:limit], y[:limit]


def _gathered(batches: Iterable[Any], limit: int | None) -> tuple[Tensor, Tensor]:
    xs, ys, count = [], [], 0
    for batch in batches:
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            raise ArgumentError(f"data gives {type(batch).__name__}; expected batches (x, y) of images and labels")
        xs.append(batch[0])
        ys.append(batch[1])
        count += len(batch[0])
        if limit is not None and count >= limit:
            break
    if not xs:
        raise ArgumentError("data gives no batches; expected at least one batch (x, y)")
    return torch.cat(xs), torch.cat(ys)


def _named(attacks: Iterable[Method]) -> dict[str, Method]:
    named: dict[str, Method] = {}
    for method in attacks:
        inner = method
        while isinstance(inner, functools.partial):
            inner = inner.func
        name = base = getattr(inner, "__name__", type(inner).__name__)
        number = 2
        while name in named:
            name, number = f"{base} {number}", number + 1
        named[name] = method
    return named


def _described(method: Method) -> dict[str, Any]:
    words = method.keywords if isinstance(method, functools.partial) else {}
    return {
        key: value if isinstance(value, int | float | str | bool | None) else repr(value)
        for key, value in words.items()
    }
