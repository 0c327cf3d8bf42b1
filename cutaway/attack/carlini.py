"""Carlini and Wagner's attack: the smallest L2 perturbation, by optimisation with a penalty."""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.attack.adam import Adam
from cutaway.attack.norms import lengths_l2, spread
from cutaway.attack.oracle import Model
from cutaway.attack.penalty import Patience, bisect, hinge, through
from cutaway.attack.problem import Problem, measured_in, survey
from cutaway.attack.result import Attack, settle
from cutaway.attack.search import Keeper
from cutaway.attack.walk import at_least
from cutaway.progress import Tick, bar

INSET = 1 - 1e-4  # pixels at exactly 0 or 1 are taken in by this much, else tanh could never move them


def _descend(part: Problem, rows: Tensor, keeper: Keeper, weight: Tensor, how: dict, tick: Tick) -> Tensor:
    """Minimise ‖x′ − x‖² + weight · max(confidence − margin, 0) over w, x′ = (tanh w + 1)/2; say who succeeded."""
    w = torch.atanh((2 * part.x - 1) * INSET)
    adam = Adam(w, how["rate"])
    here = torch.arange(len(rows), device=rows.device)
    done = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    patience, loss = Patience(how["steps"], part.x[:, 0, 0, 0]), hinge(how["confidence"])
    for step in range(how["steps"]):
        if not len(here):
            break
        tanh = w.tanh()
        point = (tanh + 1) / 2
        answer = part.oracle.ascent(point, loss, part.goal)
        distance = lengths_l2(point - part.x)
        ok = through(part.goal, answer.logits, answer.value)
        keeper.offer(rows[here], point, ok, -distance)
        keeper.note(rows[here], distance)
        done[here[ok]] = True
        tick(keeper.words())
        gradient = 2 * (point - part.x) + spread(weight, point) * answer.gradient
        w = w + adam.step(gradient * (1 - tanh.square()) / 2)
        stay = patience.stay(step, (distance.square() + weight * answer.value).to(w.dtype))
        if stay is not None:
            part, w, here, weight = part.keep(stay), w[stay], here[stay], weight[stay]
            adam.keep(stay)
    return done


def carlini_wagner(
    model: Model,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, "n"],
    *,
    norm: str = "l2",
    target: int | Int[Tensor, "n"] | None = None,
    steps: int = 1000,
    searches: int = 9,
    rate: float = 0.01,
    weight: float = 1e-3,
    confidence: float = 0.0,
    seed: int = 0,
    control: bool = True,
    batch_size: int = 256,
    progress: bool = True,
) -> Attack:
    """Find the smallest L2 perturbation: minimise ‖δ‖² + c·max(κ − margin, 0) with Adam, bisecting c.

    Args:
        model: module or function from images (N, C, H, W) to logits (N, K), differentiable.
        x: images (N, C, H, W) in [0, 1].
        y: their labels (N,).
        norm: "l2", the norm of this attack.
        target: the class wanted, one for all or one each; None wants any other class.
        steps: of Adam, for each weight; examples leave when a tenth of the steps brought nothing.
        searches: weights c tried for each example.
        rate: Adam's learning rate, for the variable before tanh.
        weight: the first c; it grows tenfold until the attack succeeds.
        confidence: κ, by how much the wanted logit has to lead.
        seed, control, batch_size, progress: see `pgd`.

    Raises:
        ArgumentError: see `pgd`; also another norm.

    Where the attack fails the image is given back as it was. The trace holds the distance at each step.

    Source: Carlini, Wagner, "Towards evaluating the robustness of neural networks", 2017, sections V and VI-A.

    >>> import torch
    >>> x, y = torch.tensor([[[[0.6, 0.4]]]]), torch.tensor([0])
    >>> found = carlini_wagner(lambda x: x.flatten(1), x, y, steps=200, rate=0.05)
    >>> found.success, round(float(found.distance), 2)  # the boundary is at 0.2/√2 = 0.1414
    (tensor([True]), 0.14)
    """
    at_least(1, steps=steps, searches=searches)
    at_least(0, confidence=confidence, rate=rate, weight=weight)
    measured_in(("l2",), norm)
    problem = survey(model, x, y, eps=None, norm=norm, target=target, seed=seed, batch_size=batch_size)
    how = {"steps": steps, "searches": searches, "rate": rate, "weight": weight, "confidence": confidence}
    with bar("carlini_wagner", steps * searches, progress) as tick:
        keeper = bisect(problem, searches, weight, partial(_descend, how=how, tick=tick))
    return settle(problem, "carlini_wagner", keeper.x, keeper.lines(), how, control, seed, None)
