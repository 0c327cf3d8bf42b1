"""Attacks that walk up the loss in many steps: PGD, BIM and momentum."""

from jaxtyping import Float, Int
from torch import Tensor

from cutaway.attack.oracle import Model
from cutaway.attack.problem import survey
from cutaway.attack.result import Attack
from cutaway.attack.walk import Walk, at_least, named_loss, run


def pgd(
    model: Model,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, "n"],
    *,
    eps: float,
    norm: str = "linf",
    target: int | Int[Tensor, "n"] | None = None,
    steps: int = 40,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    loss: str = "cross_entropy",
    early_stop: bool = True,
    samples: int = 1,
    seed: int = 0,
    control: bool = True,
    batch_size: int = 256,
    progress: bool = True,
) -> Attack:
    """Maximise the loss over ‖δ‖ ≤ ε by projected gradient ascent from a random point of the ball.

    Args:
        model: module or function from images (N, C, H, W) to logits (N, K), differentiable.
        x: images (N, C, H, W) in [0, 1].
        y: their labels (N,).
        eps: bound on the distance in `norm`, in pixel units (8/255, say, for L∞).
        norm: "linf", "l2" or "l1".
        target: the class wanted, one for all or one each; None wants any other class.
        steps: gradient steps of each walk.
        step_size: length of a step in `norm`; 2.5·eps/steps when None.
        restarts: walks from fresh random points, for the examples that none has solved.
        random_start: begin at a random point (False: at the image).
        loss: "cross_entropy", "margin" or "dlr".
        early_stop: examples leave the batch when they succeed (False: the loss is maximised to the end).
        samples: forward passes averaged for a gradient (more than one for models that are random).
        seed: what image i draws depends on the seed and on i only.
        control: measure random noise of the same distance beside it.
        batch_size: the most images given to the model at once.
        progress: show a bar when stderr is a terminal.

    Raises:
        ArgumentError: images outside [0, 1], labels or targets that are no classes, eps out of range, a model
            without gradients, logits with NaN.

    Source: Madry et al., "Towards deep learning models resistant to adversarial attacks", 2018, section 2.

    >>> import torch
    >>> model = lambda x: x.flatten(1)[:, :2]
    >>> found = pgd(model, torch.tensor([[[[0.6, 0.5]]]]), torch.tensor([0]), eps=0.1, steps=5)
    >>> found.success, bool(found.distance <= 0.1 + 1e-6)
    (tensor([True]), True)
    """
    at_least(1, steps=steps)
    problem = survey(model, x, y, eps=eps, norm=norm, target=target, seed=seed, batch_size=batch_size, samples=samples)
    size = 2.5 * eps / steps if step_size is None else step_size
    how = Walk(named_loss(loss), steps, size, restarts, random_start, 0.0, early_stop)
    return run(problem, "pgd", how, control, seed, eps, progress)


def bim(
    model: Model,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, "n"],
    *,
    eps: float,
    norm: str = "linf",
    target: int | Int[Tensor, "n"] | None = None,
    steps: int = 10,
    step_size: float | None = None,
    loss: str = "cross_entropy",
    early_stop: bool = True,
    samples: int = 1,
    seed: int = 0,
    control: bool = True,
    batch_size: int = 256,
    progress: bool = True,
) -> Attack:
    """Repeat small FGSM steps from the image itself, clipped to the ball and to valid pixels after each.

    Args:
        model: module or function from images (N, C, H, W) to logits (N, K), differentiable.
        x: images (N, C, H, W) in [0, 1].
        y: their labels (N,).
        eps: bound on the distance in `norm`, in pixel units.
        norm: "linf", "l2" or "l1".
        target: the class wanted; the least likely class gives the source's "least-likely class" method.
        steps: how many.
        step_size: length of a step in `norm`; eps/steps when None.
        loss, early_stop, samples, seed, control, batch_size, progress: see `pgd`.

    Raises:
        ArgumentError: see `pgd`.

    Source: Kurakin, Goodfellow, Bengio, "Adversarial examples in the physical world", 2017, section 2.

    >>> import torch
    >>> model = lambda x: x.flatten(1)[:, :2]
    >>> bim(model, torch.tensor([[[[0.6, 0.5]]]]), torch.tensor([0]), eps=0.1).success
    tensor([True])
    """
    at_least(1, steps=steps)
    problem = survey(model, x, y, eps=eps, norm=norm, target=target, seed=seed, batch_size=batch_size, samples=samples)
    size = eps / steps if step_size is None else step_size
    how = Walk(named_loss(loss), steps, size, early_stop=early_stop)
    return run(problem, "bim", how, control, seed, eps, progress)


def momentum(
    model: Model,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, "n"],
    *,
    eps: float,
    norm: str = "linf",
    target: int | Int[Tensor, "n"] | None = None,
    steps: int = 10,
    step_size: float | None = None,
    decay: float = 1.0,
    loss: str = "cross_entropy",
    early_stop: bool = True,
    samples: int = 1,
    seed: int = 0,
    control: bool = True,
    batch_size: int = 256,
    progress: bool = True,
) -> Attack:
    """Iterate along the decaying sum of the gradients so far (MI-FGSM), whose examples transfer better.

    Args:
        model: module or function from images (N, C, H, W) to logits (N, K), differentiable.
        x: images (N, C, H, W) in [0, 1].
        y: their labels (N,).
        eps: bound on the distance in `norm`, in pixel units.
        norm: "linf", "l2" or "l1".
        target: the class wanted, one for all or one each; None wants any other class.
        steps: how many.
        step_size: length of a step in `norm`; eps/steps when None.
        decay: weight of the sum of earlier gradients, each scaled to mean absolute value 1.
        loss, early_stop, samples, seed, control, batch_size, progress: see `pgd`. To transfer the result to another
            network give early_stop=False.

    Raises:
        ArgumentError: see `pgd`.

    Source: Dong et al., "Boosting adversarial attacks with momentum", 2018, algorithm 1.

    >>> import torch
    >>> model = lambda x: x.flatten(1)[:, :2]
    >>> momentum(model, torch.tensor([[[[0.6, 0.5]]]]), torch.tensor([0]), eps=0.1).success
    tensor([True])
    """
    at_least(1, steps=steps)
    problem = survey(model, x, y, eps=eps, norm=norm, target=target, seed=seed, batch_size=batch_size, samples=samples)
    size = eps / steps if step_size is None else step_size
    how = Walk(named_loss(loss), steps, size, decay=decay, early_stop=early_stop)
    return run(problem, "momentum", how, control, seed, eps, progress)
