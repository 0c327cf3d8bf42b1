"""Attacks of one step: the fast gradient sign method, and random noise, the control."""

from jaxtyping import Float, Int
from torch import Tensor

from cutaway.attack.losses import LOSSES
from cutaway.attack.oracle import Model
from cutaway.attack.problem import pose
from cutaway.attack.result import Attack, settle
from cutaway.attack.search import Keeper
from cutaway.attack.walk import at_least, named_loss
from cutaway.progress import bar


def random_noise(
    model: Model,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, "n"],
    *,
    eps: float,
    norm: str = "linf",
    target: int | Int[Tensor, "n"] | None = None,
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = True,
) -> Attack:
    """Add random noise of size `eps`: the control that every attack has to beat.

    Args:
        model: module or function from images (N, C, H, W) to logits (N, K).
        x: images (N, C, H, W) in [0, 1].
        y: their labels (N,).
        eps: distance of the noise in `norm`, in pixel units.
        norm: "linf" (each pixel ± eps), "l2" (Gaussian direction) or "l1" (whole pixels to their other end).
        target: the class wanted, one for all or one each; None wants any other class.
        restarts: draws per image; the first that succeeds is kept.
        seed: what image i draws depends on the seed and on i only.
        batch_size: the most images given to the model at once.
        progress: show a bar when stderr is a terminal.

    Raises:
        ArgumentError: images outside [0, 1], labels or targets that are no classes, eps out of range, logits with NaN.

    Source: Fawzi, Fawzi, Frossard, "Analysis of classifiers' robustness to adversarial perturbations", 2015.

    >>> import torch
    >>> model = lambda x: x.flatten(1)[:, :2]
    >>> random_noise(model, torch.full((1, 1, 2, 2), 0.5), torch.tensor([0]), eps=0.1).distance
    tensor([0.1000], dtype=torch.float64)
    """
    at_least(1, restarts=restarts)
    problem = pose(model, x, y, eps=eps, norm=norm, target=target, seed=seed, batch_size=batch_size)
    keeper = Keeper(problem)
    keeper.success[:] = False  # every image gets its noise, whether or not it is already misclassified
    with bar("random noise", restarts, progress) as tick:
        for restart in range(restarts):
            rows = keeper.open()
            part = problem.keep(rows)
            noisy = problem.geometry.noise(part.x, part.radii, part.draws, "noise", restart)
            logits = problem.oracle.logits(noisy) if len(rows) else part.clean
            value = LOSSES["cross_entropy"](logits, part.goal)[0]
            keeper.offer(rows, noisy, part.goal.reached(logits), value)
            keeper.note(rows, value)
            tick(keeper.words())
    return settle(problem, "random_noise", keeper.x, keeper.lines(), {"restarts": restarts}, False, seed, eps)


def fgsm(
    model: Model,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, "n"],
    *,
    eps: float,
    norm: str = "linf",
    target: int | Int[Tensor, "n"] | None = None,
    loss: str = "cross_entropy",
    samples: int = 1,
    seed: int = 0,
    control: bool = True,
    batch_size: int = 256,
    progress: bool = True,
) -> Attack:
    """Take one step of size `eps` up the loss: x + ε·sign(∇J) for L∞, clipped to valid pixels.

    For L2 and L1 the step is the point of ball and box that raises the linearised loss most.

    Args:
        model: module or function from images (N, C, H, W) to logits (N, K), differentiable.
        x: images (N, C, H, W) in [0, 1].
        y: their labels (N,).
        eps: bound on the distance in `norm`, in pixel units (8/255, say, for L∞).
        norm: "linf", "l2" or "l1".
        target: the class wanted, one for all or one each; None wants any other class.
        loss: "cross_entropy", "margin" or "dlr".
        samples: forward passes averaged for a gradient (more than one for models that are random).
        seed: for the control.
        control: measure random noise of the same distance beside it.
        batch_size: the most images given to the model at once.
        progress: accepted by every attack; one step shows no bar.

    Raises:
        ArgumentError: images outside [0, 1], labels or targets that are no classes, eps out of range, a model
            without gradients, logits with NaN.

    Source: Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial examples", 2015, section 4.

    >>> import torch
    >>> model = lambda x: x.flatten(1)[:, :2]
    >>> fgsm(model, torch.full((1, 1, 1, 2), 0.5), torch.tensor([0]), eps=0.1).x
    tensor([[[[0.4000, 0.6000]]]])
    """
    problem = pose(
        model,
        x,
        y,
        eps=eps,
        norm=norm,
        target=target,
        seed=seed,
        batch_size=batch_size,
        samples=samples,
        loss=named_loss(loss),
    )
    first = problem.start()
    found = problem.geometry.ascend(problem.x, first.gradient, problem.radii)
    settings = {"loss": loss, "samples": samples}
    return settle(problem, "fgsm", found, first.value[None], settings, control, seed, eps)
