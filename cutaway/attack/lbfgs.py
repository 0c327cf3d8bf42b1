"""The first attack on neural networks: box-constrained L-BFGS on distance and loss."""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.attack.boxed import minimize
from cutaway.attack.losses import log_success
from cutaway.attack.norms import lengths_l2
from cutaway.attack.oracle import Model
from cutaway.attack.penalty import bisect
from cutaway.attack.problem import Problem, measured_in, pose
from cutaway.attack.result import Attack, settle
from cutaway.attack.search import Keeper, firm
from cutaway.attack.walk import at_least
from cutaway.progress import Tick, bar


def _descend(
    part: Problem, rows: Tensor, keeper: Keeper, weight: Tensor, evaluations: int, memory: int, tick: Tick
) -> Tensor:
    """Minimise ‖x′ − x‖² + weight · loss over the box; say whose minimum succeeded."""
    flat, shape = part.x.flatten(1), part.x.shape[1:]
    weight = weight.to(flat.dtype)
    done = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)

    def ask(points: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
        images, goal = points.view(-1, *shape), part.goal.keep(here)
        answer = part.oracle.ascent(images, log_success, goal)
        change = points - flat[here]
        won = firm(goal, answer.logits)
        distance = lengths_l2(change)
        keeper.offer(rows[here], images, won, -distance)
        keeper.note(rows[here], distance)
        done[here[won]] = True
        tick(keeper.words())
        # The log-probability is to rise, so that its negative is the loss.
        value = change.square().sum(1) - weight[here] * answer.value
        return value, 2 * change - weight[here, None] * answer.gradient.flatten(1)

    minimize(ask, flat, evaluations, memory)
    return done


def lbfgs(
    model: Model,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, "n"],
    *,
    norm: str = "l2",
    target: int | Int[Tensor, "n"] | None = None,
    steps: int = 50,
    searches: int = 9,
    weight: float = 1e-2,
    memory: int = 5,
    seed: int = 0,
    control: bool = True,
    batch_size: int = 256,
    progress: bool = True,
) -> Attack:
    """Minimise c·‖δ‖² + loss inside the box by L-BFGS, searching for the largest c that succeeds.

    The loss is −log p(target), or −log(1 − p(label)) without a target. All images are minimised at once, each with
    its own step, curvature and c (a solver for one function at a time would ask the model for one image at a time).

    Args:
        model: module or function from images (N, C, H, W) to logits (N, K), differentiable.
        x: images (N, C, H, W) in [0, 1].
        y: their labels (N,).
        norm: "l2", the norm of this attack.
        target: the class wanted, one for all or one each; None wants any other class.
        steps: gradients for each c at most; images leave earlier when their minimum is reached.
        searches: values of c tried for each image.
        weight: the first 1/c; it grows tenfold until the attack succeeds and is bisected then.
        memory: steps from which the curvature is estimated.
        seed, control, batch_size, progress: see `pgd`.

    Raises:
        ArgumentError: see `pgd`; also another norm.

    Where the attack fails the image is given back as it was. The trace holds the distance at each gradient.

    Source: Szegedy et al., "Intriguing properties of neural networks", 2014, section 4.1.

    >>> import torch
    >>> x, y = torch.tensor([[[[0.6, 0.4]]]]), torch.tensor([0])
    >>> found = lbfgs(lambda x: x.flatten(1), x, y)
    >>> found.success, round(float(found.distance), 2)  # the boundary is at 0.2/√2 = 0.1414
    (tensor([True]), 0.14)
    """
    at_least(1, steps=steps, searches=searches, memory=memory)
    at_least(0, weight=weight)
    measured_in(("l2",), norm)
    problem = pose(model, x, y, eps=None, norm=norm, target=target, seed=seed, batch_size=batch_size)
    with bar("lbfgs", steps * searches, progress) as tick:
        descend = partial(_descend, evaluations=steps, memory=memory, tick=tick)
        keeper = bisect(problem, searches, weight, descend)
    settings = {"steps": steps, "searches": searches, "weight": weight, "memory": memory}
    return settle(problem, "lbfgs", keeper.x, keeper.lines(), settings, control, seed, None)
