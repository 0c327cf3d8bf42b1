"""The elastic-net attack: few pixels changed, by shrinking small changes to nothing."""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.attack.norms import lengths_l1, lengths_l2, spread
from cutaway.attack.oracle import Model
from cutaway.attack.penalty import Patience, bisect, hinge, through
from cutaway.attack.problem import Problem, measured_in, survey
from cutaway.attack.result import Attack, settle
from cutaway.attack.search import Keeper
from cutaway.attack.walk import at_least
from cutaway.errors import nearest
from cutaway.progress import Tick, bar

RULES = ("l1", "elastic_net")


def shrink(x: Tensor, point: Tensor, by: float) -> Tensor:
    """Draw each pixel towards the clean image by `by`, onto it when it is nearer, and into the box."""
    change = point - x
    return (x + change.sign() * (change.abs() - by).clamp(min=0)).clamp(0, 1)


def _descend(part: Problem, rows: Tensor, keeper: Keeper, weight: Tensor, how: dict, tick: Tick) -> Tensor:
    """Minimise weight · hinge + ‖δ‖² + β‖δ‖₁ by gradient steps on the smooth part and shrinking; say who succeeded."""
    here = torch.arange(len(rows), device=rows.device)
    done = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    loss, beta = hinge(how["confidence"]), how["beta"]
    patience = Patience(how["steps"], part.x[:, 0, 0, 0])
    point = ahead = part.x
    for step in range(how["steps"]):
        if not len(here):
            break
        answer = part.oracle.ascent(ahead, loss, part.goal)
        slope = 2 * (ahead - part.x) + spread(weight, ahead) * answer.gradient
        rate = how["rate"] * (1 - step / how["steps"]) ** 0.5
        fresh = shrink(part.x, ahead - rate * slope, beta)
        push = step / (step + 3) if how["accelerate"] else 0.0
        ahead, point = (fresh + push * (fresh - point)).clamp(0, 1), fresh
        logits = part.oracle.look(point)
        left = loss(logits, part.goal)[0]
        ok = through(part.goal, logits, left)
        l1, squares = lengths_l1(point - part.x), lengths_l2(point - part.x).square()
        keeper.offer(rows[here], point, ok, -(l1 if how["rule"] == "l1" else beta * l1 + squares))
        keeper.note(rows[here], l1)
        done[here[ok]] = True
        tick(keeper.words())
        stay = patience.stay(step, (weight * left + squares + beta * l1).to(point.dtype))
        if stay is not None:
            part, here, weight, point, ahead = part.keep(stay), here[stay], weight[stay], point[stay], ahead[stay]
    return done


def elastic_net(
    model: Model,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, "n"],
    *,
    norm: str = "l1",
    target: int | Int[Tensor, "n"] | None = None,
    steps: int = 1000,
    searches: int = 9,
    rate: float = 0.01,
    weight: float = 1e-3,
    beta: float = 1e-3,
    confidence: float = 0.0,
    rule: str = "l1",
    accelerate: bool = True,
    seed: int = 0,
    control: bool = True,
    batch_size: int = 256,
    progress: bool = True,
) -> Attack:
    """Find a small L1 perturbation (EAD): minimise c·max(κ − margin, 0) + ‖δ‖² + β‖δ‖₁ by iterative shrinking.

    Args:
        model: module or function from images (N, C, H, W) to logits (N, K), differentiable.
        x: images (N, C, H, W) in [0, 1].
        y: their labels (N,).
        norm: "l1", the norm of this attack.
        target: the class wanted, one for all or one each; None wants any other class.
        steps: gradients for each c; images leave when a tenth of the steps brought nothing.
        searches: values of c tried for each image.
        rate: length of the first step; it falls with the root of the steps left.
        weight: the first c; it grows tenfold until the attack succeeds.
        beta: β, what each step takes off every pixel's change: larger leaves fewer pixels changed.
        confidence: κ, by how much the wanted logit has to lead.
        rule: which of the successful images is kept, that of the least "l1" distance or of the least "elastic_net"
            (β‖δ‖₁ + ‖δ‖²).
        accelerate: repeat a growing share of the last movement (FISTA); False for plain ISTA.
        seed, control, batch_size, progress: see `pgd`.

    Raises:
        ArgumentError: see `pgd`; also another norm.
        LookupFailure: an unknown rule.

    Where the attack fails the image is given back as it was. The trace holds the L1 distance at each step.

    Source: Chen et al., "EAD: Elastic-net attacks to deep neural networks via adversarial examples", 2018, algorithm 1.

    >>> import torch
    >>> x, y = torch.tensor([[[[0.6, 0.4, 0.5]]]]), torch.tensor([0])
    >>> found = elastic_net(lambda x: x.flatten(1) * torch.tensor([3.0, 1, 0]), x, y, steps=200, weight=0.1, beta=0.02)
    >>> change = found.perturbation.flatten()
    >>> found.success, bool(change[0] < -0.4), change[1:]  # the first pixel does most for its size
    (tensor([True]), True, tensor([0., 0.]))
    """
    at_least(1, steps=steps, searches=searches)
    at_least(0, confidence=confidence, rate=rate, weight=weight, beta=beta)
    measured_in(("l1",), norm)
    if rule not in RULES:
        raise nearest(rule, RULES, "rule")
    problem = survey(model, x, y, eps=None, norm=norm, target=target, seed=seed, batch_size=batch_size)
    how = {
        "steps": steps,
        "rate": rate,
        "beta": beta,
        "confidence": confidence,
        "rule": rule,
        "accelerate": accelerate,
    }
    with bar("elastic_net", steps * searches, progress) as tick:
        keeper = bisect(problem, searches, weight, partial(_descend, how=how, tick=tick))
    settings = how | {"searches": searches, "weight": weight}
    return settle(problem, "elastic_net", keeper.x, keeper.lines(), settings, control, seed, None)
