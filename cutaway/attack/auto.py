"""AutoAttack: four attacks without settings to choose, each on what the ones before it left."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from cutaway.attack.apgd import Plan, merge, narrowed
from cutaway.attack.fab import search as fab_search
from cutaway.attack.losses import Goal, Loss, cross_entropy, dlr
from cutaway.attack.oracle import Model
from cutaway.attack.problem import Problem, survey
from cutaway.attack.result import Attack, settle
from cutaway.attack.search import Keeper, contenders
from cutaway.attack.square import search as square_search
from cutaway.errors import ArgumentError, RunFolderError, nearest
from cutaway.progress import Tick, bar


@dataclass(frozen=True)
class Effort:
    """How much each part may do; the defaults are those of the source."""

    steps: int = 100
    targets: int = 9
    queries: int = 5000


def _apgd(loss: Loss) -> Callable[[Problem, Effort, Tick], Keeper]:
    def part(problem: Problem, effort: Effort, tick: Tick) -> Keeper:
        total = Keeper(problem)
        for restart in range(5 if problem.norm == "l1" and loss is cross_entropy else 1):
            rows = total.open()
            if len(rows):
                left = problem.keep(rows)
                merge(total, rows, narrowed(left, Plan(loss, left.goal, effort.steps, restart), tick))
        return total

    return part


def _each_target(problem: Problem, effort: Effort, attack: Callable[[Problem, Tensor, int], Keeper]) -> Keeper:
    total = Keeper(problem)
    for number, target in enumerate(contenders(problem, 5 if problem.norm == "l1" else effort.targets).T):
        rows = total.open()
        if len(rows):
            merge(total, rows, attack(problem.keep(rows), target[rows], number))
    return total


def _apgd_targeted(problem: Problem, effort: Effort, tick: Tick) -> Keeper:
    """The targeted loss, one class after the other; any other class than the label ends it."""

    def attack(left: Problem, target: Tensor, number: int) -> Keeper:
        aim = Goal(left.goal.label, target)
        return narrowed(left, Plan(dlr, aim, effort.steps, number), tick)

    return _each_target(problem, effort, attack)


def _fab_targeted(problem: Problem, effort: Effort, tick: Tick) -> Keeper:
    def attack(left: Problem, target: Tensor, number: int) -> Keeper:
        return fab_search(left, target[:, None], effort.steps, tick, bounded=True)

    return _each_target(problem, effort, attack)


def _square(problem: Problem, effort: Effort, tick: Tick) -> Keeper:
    return square_search(problem, effort.queries, 0.8, 1.0, "margin", tick)


PARTS: dict[str, Callable[[Problem, Effort, Tick], Keeper]] = {
    "apgd-ce": _apgd(cross_entropy),
    "apgd-dlr": _apgd(dlr),
    "apgd-t": _apgd_targeted,
    "fab-t": _fab_targeted,
    "square": _square,
}
VERSIONS: dict[str, tuple[str, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
RANDOM_SAMPLES = 20


def auto_attack(
    model: Model,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, "n"],
    *,
    eps: float,
    norm: str = "linf",
    version: str = "standard",
    effort: Effort | None = None,
    state: str | Path | None = None,
    seed: int = 0,
    control: bool = True,
    batch_size: int = 256,
    progress: bool = True,
) -> Attack:
    """Run AutoAttack: APGD on cross-entropy, targeted APGD, targeted FAB and Square, each on the survivors.

    Args:
        model: module or function from images (N, C, H, W) to logits (N, K), differentiable.
        x: images (N, C, H, W) in [0, 1].
        y: their labels (N,).
        eps: bound on the distance in `norm`, in pixel units.
        norm: "linf", "l2" or "l1".
        version: "standard", or "rand" for models that are random (APGD with 20 passes averaged for each gradient).
        effort: other numbers of steps, targets and queries than the source's.
        state: a .safetensors file to note progress in after each part; a run that was killed goes on from it.
        seed, control, batch_size, progress: see `pgd`.

    Raises:
        ArgumentError: see `pgd`.
        RunFolderError: the state file belongs to other images, settings or versions.

    Attack.settings["survivors"] holds how many images each part left, the clean model first.

    Source: Croce, Hein, "Reliable evaluation of adversarial robustness …", 2020, section 5; its L1 settings from
    Croce, Hein, "Mind the box", 2021.

    >>> import torch
    >>> few = Effort(steps=5, targets=1, queries=5)
    >>> x, y = torch.tensor([[[[0.6, 0.5]]]]), torch.tensor([0])
    >>> found = auto_attack(lambda x: x.flatten(1), x, y, eps=0.1, effort=few)
    >>> found.success, found.settings["survivors"]["apgd-ce"]
    (tensor([True]), 0)
    """
    if version not in VERSIONS:
        raise nearest(version, VERSIONS, "version")
    chosen, samples = effort or Effort(), RANDOM_SAMPLES if version == "rand" else 1
    problem = survey(model, x, y, eps=eps, norm=norm, target=None, seed=seed, batch_size=batch_size, samples=samples)
    keeper = Keeper(problem)
    survivors = {"clean": int((~problem.solved).sum())}
    settings = {"version": version, **vars(chosen), "survivors": survivors}
    key = json.dumps([version, vars(chosen), eps, norm, seed, len(x), float(x.double().sum()), y.tolist()])
    file = _restore(state, key, keeper, survivors)
    total = chosen.steps * (1 + 2 * chosen.targets) + chosen.queries
    with bar(f"AutoAttack {version}", total, progress) as tick:
        for name in VERSIONS[version]:
            rows = keeper.open()
            if name in survivors or not len(rows):
                survivors.setdefault(name, len(rows))
                continue
            part = problem.keep(rows)
            merge(keeper, rows, PARTS[name](part, chosen, _prefixed(tick, name)))
            survivors[name] = len(keeper.open())
            _note(file, key, keeper, survivors)
    return settle(problem, "auto_attack", keeper.x, keeper.lines(), settings, control, seed, eps)


def _prefixed(tick: Tick, name: str) -> Tick:
    return lambda words: tick(f"{name}: {words}")


def _restore(state: str | Path | None, key: str, keeper: Keeper, survivors: dict[str, int]) -> Path | None:
    if state is None:
        return None
    file = Path(state)
    if file.suffix != ".safetensors":
        raise ArgumentError(f"state={str(state)!r}: expected a name ending in .safetensors")
    if not file.exists():
        return file
    with safe_open(file, framework="pt") as opened:
        words = opened.metadata() or {}
    if words.get("key") != key:
        raise RunFolderError(f"{file} notes an attack on other images or with other settings; give another file")
    saved = load_file(file)
    keeper.x, keeper.success, keeper.score = saved["x"].to(keeper.x), saved["success"], saved["score"]
    survivors |= json.loads(words["survivors"])
    return file


def _note(file: Path | None, key: str, keeper: Keeper, survivors: dict[str, int]) -> None:
    if file is not None:
        fresh = file.with_suffix(".new")
        tensors = {"x": keeper.x, "success": keeper.success, "score": keeper.score}
        save_file(tensors, fresh, metadata={"key": key, "survivors": json.dumps(survivors)})
        fresh.replace(file)  # a kill leaves the old state or the new one
