"""Auto-PGD: projected gradient ascent that sets its own step size from the progress it makes."""

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.attack.losses import Goal, Loss
from cutaway.attack.norms import chosen, lengths_l2, spread
from cutaway.attack.oracle import Answer, Model
from cutaway.attack.problem import Problem, survey
from cutaway.attack.result import Attack, settle
from cutaway.attack.search import Keeper
from cutaway.attack.walk import at_least, named_loss
from cutaway.progress import Tick, bar

RISES = 0.75  # share of steps in a window that have to raise the loss
MOMENTUM = 0.75  # share of the new step; the rest repeats the last movement


@dataclass
class State:
    """What a run knows about each example still in the batch (rows of all tensors)."""

    rows: Tensor
    x: Tensor
    old: Tensor
    gradient: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    checked_loss: Tensor  # the best loss at the last check
    halved: Tensor  # whether the last check halved the step
    rises: Tensor
    last: Tensor
    size: Tensor
    sparsity: Tensor  # L1: share of the pixels a step moves
    support: Tensor  # L1: pixels moved at the last check

    def keep(self, stay: Tensor) -> None:
        """Let the others leave."""
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name)[stay])


def windows(steps: int, norm: str) -> list[int]:
    """After which steps progress is checked."""
    length = max(int((0.04 if norm == "l1" else 0.22) * steps), 1)
    shrink, least = (0, length) if norm == "l1" else (max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
    at, found = 0, []
    while at + length <= steps:
        at += length
        found.append(at)
        length = max(length - shrink, least)
    return found


@dataclass(frozen=True)
class Plan:
    """What a run does: the loss, and the goals it looks at (the problem's own goals end the run).

    Attributes:
        aim: labels and targets (N,) for the loss.
        steps: gradient steps.
        restart: number of the random start.
        leave: whether solved examples leave the batch.
    """

    loss: Loss
    aim: Goal
    steps: int
    restart: int = 0
    leave: bool = True


def run(problem: Problem, plan: Plan, tick: Tick, start: Tensor | None = None) -> tuple[Keeper, Tensor]:
    """One run, from a random point of the sphere if no start (N, C, H, W) is given; also the points of largest loss."""
    keeper = Keeper(problem)
    state, part, aim = _begin(problem, keeper, plan, start)
    checks = windows(plan.steps, problem.norm)
    window = 0
    for step in range(plan.steps):
        if not len(state.rows):
            break
        state.x, state.old = _move(part, state, 1.0 if step == 0 else MOMENTUM), state.x
        part, aim, answer = _look(part, aim, state, keeper, plan, tick, step + 1 == plan.steps)
        if answer is None:
            break
        better = answer > state.best_loss
        state.rises += answer > state.last
        state.last = answer
        state.best_loss = torch.where(better, answer, state.best_loss)
        for name, value in (("best", state.x), ("best_gradient", state.gradient)):
            setattr(state, name, chosen(better, value, getattr(state, name)))
        window += 1
        if step + 1 in checks:
            (_check_l1 if part.norm == "l1" else _check)(part, state, window)
            window = 0
    highest = keeper.x.clone()
    highest[state.rows] = state.best
    return keeper, highest


def _begin(problem: Problem, keeper: Keeper, plan: Plan, start: Tensor | None) -> tuple[State, Problem, Goal]:
    rows = keeper.open()
    part, aim = problem.keep(rows), plan.aim.keep(rows)
    x = _sphere(part, plan.restart) if start is None else part.geometry.project(part.x, start[rows], part.radii)
    zero = torch.zeros(len(rows), dtype=x.dtype, device=x.device)
    first = 1.0 if part.norm == "l1" else 2.0
    moved = lengths_entries(x - part.x).to(x.dtype)
    state = State(
        rows, x, x, x, x, x, zero, zero, torch.ones_like(zero), zero.clone(), zero, first * part.radii.to(x.dtype),
        moved / max(x[:1].numel(), 1) / 1.5, moved,
    )  # fmt: skip
    if len(rows):
        part, aim, value = _look(part, aim, state, keeper, plan, lambda _: None)
        if value is not None:
            state.best, state.best_gradient, state.old = state.x, state.gradient, state.x
            state.best_loss = state.checked_loss = value
            # The reference compares the first step's loss with an empty row of its table: with zero.
    return state, part, aim


def _sphere(part: Problem, restart: int) -> Tensor:
    shape = tuple(part.x.shape[1:])
    if part.norm == "linf":
        shift = 2 * part.draws.uniform(shape, "apgd", restart) - 1
        shift = shift / spread(shift.flatten(1).abs().amax(1), shift)
    else:
        shift = part.draws.normal(shape, "apgd", restart)
        if part.norm == "l1":
            return part.geometry.project(part.x, part.x + shift.to(part.x.dtype), part.radii)
        shift = shift / spread(lengths_l2(shift), shift)
    return (part.x + (spread(part.radii, shift) * shift).to(part.x.dtype)).clamp(0, 1)


def _look(
    part: Problem, aim: Goal, state: State, keeper: Keeper, plan: Plan, tick: Tick, last: bool = False
) -> tuple[Problem, Goal, Tensor | None]:
    """Ask for loss and gradient (the last time only for the loss) at the current points; let the solved ones leave."""
    if last and part.oracle.samples == 1:
        logits = part.oracle.look(state.x)
        answer = Answer(logits, plan.loss(logits, aim)[0], state.gradient)
    else:
        answer = part.oracle.ascent(state.x, plan.loss, aim)
    reached = part.goal.reached(answer.logits)
    keeper.offer(state.rows, state.x, reached, answer.value)
    keeper.note(state.rows, answer.value)
    tick(keeper.words())
    state.gradient = answer.gradient
    if not plan.leave or not reached.any():
        return part, aim, answer.value
    stay = (~reached).nonzero()[:, 0]
    state.keep(stay)
    return part.keep(stay), aim.keep(stay), answer.value[stay] if len(stay) else None


def _within(part: Problem, point: Tensor) -> Tensor:
    if part.norm != "l2":
        return part.project(point)
    change = point - part.x
    shrink = (part.radii / lengths_l2(change).clamp(min=1e-12)).clamp(max=1)
    return (part.x + change * spread(shrink, change)).clamp(0, 1)  # the source's projection: ball first, box second


def _move(part: Problem, state: State, share: float) -> Tensor:
    if part.norm == "l1":
        return _within(part, state.x + _sparse_step(state))
    step = _within(part, part.geometry.step(state.x, state.gradient, state.size))
    moved = (step - state.x).mul_(share).add_(state.x)
    return _within(part, moved if share == 1 else moved.add_((state.x - state.old).mul_(1 - share)))


def _sparse_step(state: State) -> Tensor:
    size = state.gradient.flatten(1).abs()
    place = ((1 - state.sparsity) * size.shape[1]).long().clamp(0, size.shape[1] - 1)
    least = size.sort(1).values.gather(1, place[:, None])
    chosen = state.gradient.flatten(1).sign() * (size >= least)
    step = chosen / (chosen.abs().sum(1, keepdim=True) + 1e-10)
    return spread(state.size, state.x) * step.view_as(state.x)


def _check(part: Problem, state: State, window: int) -> None:
    """Halve the step and go back to the best point where the window made too little progress."""
    stuck = (state.halved == 0) & (state.checked_loss >= state.best_loss)
    halve = (state.rises <= RISES * window) | stuck
    state.halved, state.checked_loss = halve.to(state.size.dtype), state.best_loss
    state.size = torch.where(halve, state.size / 2, state.size)
    _return(state, halve)
    state.rises = torch.zeros_like(state.rises)


def _check_l1(part: Problem, state: State, window: int) -> None:
    """Steps follow the sparsity of the best point; the step size starts again when that falls."""
    support = lengths_entries(state.best - part.x).to(state.size.dtype)
    sparser = support / state.support.clamp(min=1) < 0.95
    largest = part.radii.to(state.size.dtype)
    state.sparsity = support / part.x[0].numel() / 1.5
    state.size = torch.where(sparser, largest, (state.size / 1.5).maximum(largest / 10))
    state.support = support
    _return(state, sparser)


def lengths_entries(change: Tensor) -> Tensor:
    """How many entries of each change are not zero."""
    return (change != 0).flatten(1).double().sum(1)


def _return(state: State, back: Tensor) -> None:
    state.x = chosen(back, state.best, state.x)
    state.gradient = chosen(back, state.best_gradient, state.gradient)


def search(problem: Problem, loss: str, steps: int, restarts: int, tick: Tick) -> Keeper:
    """Restart on the examples that are left; in L1 each run tightens the ball from three times its size."""
    total = Keeper(problem)
    for restart in range(restarts):
        rows = total.open()
        if not len(rows):
            break
        part = problem.keep(rows)
        merge(total, rows, narrowed(part, Plan(named_loss(loss), part.goal, steps, restart), tick))
    return total


def merge(total: Keeper, rows: Tensor, found: Keeper) -> None:
    """Take over what a run on some of the examples found, and its trace."""
    total.offer(rows, found.x, found.success, found.score)
    everyone = torch.arange(len(rows), device=rows.device)
    for line in found.trace:
        there = everyone[~line.isnan()]
        total.note(rows[there], line[there])


def narrowed(part: Problem, plan: Plan, tick: Tick) -> Keeper:
    """A run; for L1 three, in balls of 3ε, 2ε and ε, each from where the last was highest."""
    if part.norm != "l1":
        return run(part, plan, tick)[0]
    length = int(0.3 * plan.steps)
    highest: Tensor | None = None
    for factor in (3.0, 2.0):
        wide = replace(part, radii=part.radii * factor)
        highest = run(wide, replace(plan, steps=length, leave=False), tick, highest)[1]
    return run(part, replace(plan, steps=plan.steps - 2 * length), tick, highest)[0]


def apgd(
    model: Model,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, "n"],
    *,
    eps: float,
    norm: str = "linf",
    target: int | Int[Tensor, "n"] | None = None,
    steps: int = 100,
    restarts: int = 1,
    loss: str = "cross_entropy",
    samples: int = 1,
    seed: int = 0,
    control: bool = True,
    batch_size: int = 256,
    progress: bool = True,
) -> Attack:
    """Maximise the loss with Auto-PGD: the step size halves by itself where progress stalls.

    Args:
        model: module or function from images (N, C, H, W) to logits (N, K), differentiable.
        x: images (N, C, H, W) in [0, 1].
        y: their labels (N,).
        eps: bound on the distance in `norm`, in pixel units.
        norm: "linf", "l2" or "l1".
        target: the class wanted, one for all or one each; None wants any other class.
        steps: gradient steps of each run.
        restarts: runs from fresh random points, for the examples that none has solved.
        loss: "cross_entropy", "dlr" or "margin".
        samples: forward passes averaged for a gradient (more than one for models that are random).
        seed, control, batch_size, progress: see `pgd`.

    Raises:
        ArgumentError: see `pgd`.

    Source: Croce, Hein, "Reliable evaluation of adversarial robustness …", 2020, algorithm 1; for L1 Croce, Hein,
    "Mind the box", 2021, algorithm 1.

    >>> import torch
    >>> model = lambda x: x.flatten(1)[:, :2]
    >>> apgd(model, torch.tensor([[[[0.6, 0.5]]]]), torch.tensor([0]), eps=0.1, steps=10).success
    tensor([True])
    """
    at_least(1, steps=steps, restarts=restarts)
    problem = survey(model, x, y, eps=eps, norm=norm, target=target, seed=seed, batch_size=batch_size, samples=samples)
    with bar("apgd", steps * restarts, progress) as tick:
        keeper = search(problem, loss, steps, restarts, tick)
    settings = {"steps": steps, "restarts": restarts, "loss": loss, "samples": samples}
    return settle(problem, "apgd", keeper.x, keeper.lines(), settings, control, seed, eps)
