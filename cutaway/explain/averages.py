"""Attributions from a gradient averaged over many inputs: around the input, or on the way to it."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway import graph as G
from cutaway import rng
from cutaway.errors import ArgumentError
from cutaway.explain.attribution import Attribution
from cutaway.explain.frame import Found, attribute, missed, outputs, repeated, repeats, settled
from cutaway.explain.objective import Objective, Of, Target

Baseline = float | Tensor | None


def smooth_grad(
    model: nn.Module | Callable,
    x: Float[Tensor, "n ..."],
    target: Target = None,
    *,
    of: Of = "logit",
    samples: int = 20,
    noise: float = 0.15,
    score: bool = True,
    seed: int = 0,
) -> Attribution:
    """Average the gradient over copies of the input with Gaussian noise.

    Args:
        model, x, target, of, score: as for `gradient`; the predicted class is that of the input without noise.
        samples: how many noisy copies.
        noise: standard deviation as a share of each input's range (largest minus smallest value); 0.1 to 0.2 in the
            paper.
        seed: fixes the noise, and the randomised copy.

    Returns:
        values shaped like x.

    Raises:
        ArgumentError: samples < 1 or noise < 0, and as for `gradient`.

    Source: D. Smilkov et al., SmoothGrad: Removing Noise by Adding Noise, 2017, section 2.

    >>> import torch
    >>> smooth_grad(nn.Linear(3, 2), torch.rand(1, 3), target=1, samples=4).values.shape
    torch.Size([1, 3])
    """
    if samples < 1 or noise < 0:
        raise ArgumentError(f"smooth_grad needs samples >= 1 and noise >= 0, got samples={samples}, noise={noise}")
    settings = {"samples": samples, "noise": noise, "noise_seed": seed}
    return attribute("smooth_grad", smooth_grad_map, model, x, target, of, settings=settings, score=score, seed=seed)


def var_grad(
    model: nn.Module | Callable,
    x: Float[Tensor, "n ..."],
    target: Target = None,
    *,
    of: Of = "logit",
    samples: int = 20,
    noise: float = 0.15,
    score: bool = True,
    seed: int = 0,
) -> Attribution:
    """Take the variance of the gradient over copies of the input with Gaussian noise.

    Args:
        model, x, target, of, samples, noise, score, seed: as for `smooth_grad`.

    Returns:
        values shaped like x, nowhere negative.

    Raises:
        ArgumentError: samples < 2 or noise < 0, and as for `gradient`.

    Source: J. Adebayo, J. Gilmer, I. Goodfellow, B. Kim, Local Explanation Methods for Deep Neural Networks Lack
    Sensitivity to Parameter Values, 2018, section 2 (VarGrad).

    >>> import torch
    >>> bool((var_grad(nn.Linear(3, 2), torch.rand(1, 3), target=1, samples=4).values == 0).all())
    True
    """
    if samples < 2 or noise < 0:
        raise ArgumentError(f"var_grad needs samples >= 2 and noise >= 0, got samples={samples}, noise={noise}")
    settings = {"samples": samples, "noise": noise, "noise_seed": seed}
    return attribute("var_grad", var_grad_map, model, x, target, of, settings=settings, score=score, seed=seed)


def integrated_gradients(
    model: nn.Module | Callable,
    x: Float[Tensor, "n ..."],
    target: Target = None,
    *,
    of: Of = "logit",
    baseline: Baseline = None,
    steps: int = 20,
    tolerance: float | None = None,
    score: bool = True,
    seed: int = 0,
) -> Attribution:
    """Integrate the gradient along the straight line from a baseline to the input, times their difference.

    The integral is computed by Gauss–Legendre quadrature on panels of at most 20 steps, exact where the gradient is a
    polynomial of degree up to 2·steps − 1 along the line (39 from 20 steps on).

    Args:
        model, x, target, of, score, seed: as for `gradient`.
        baseline: where the line starts: a number, a tensor that broadcasts to x, or None for 0 (black).
        steps: how many points of the line are evaluated.
        tolerance: if given, steps are doubled (to 1280 or a little more) until the completeness error of every example
            is at most this, relative to the change of the explained number.

    Returns:
        values shaped like x that sum to f(x) − f(baseline); `.gap` holds the relative error of that sum.

    Raises:
        ArgumentError: steps < 1, tolerance <= 0, a baseline that does not broadcast, and as for `gradient`.

    Source: M. Sundararajan, A. Taly, Q. Yan, Axiomatic Attribution for Deep Networks, 2017, eq. 1 and proposition 1.

    >>> import torch
    >>> cube = lambda x: (x**3).sum(1, keepdim=True)
    >>> integrated_gradients(cube, torch.ones(1, 1), target=0, steps=2).values
    tensor([[1.]])
    """
    if steps < 1 or (tolerance is not None and tolerance <= 0):
        raise ArgumentError(f"integrated_gradients needs steps >= 1 and tolerance > 0, got {steps=}, {tolerance=}")
    settings = {"baseline": baseline, "steps": steps, "tolerance": tolerance}
    return attribute(
        "integrated_gradients",
        integrated_gradients_map,
        model,
        x,
        target,
        of,
        settings=settings,
        score=score,
        seed=seed,
    )


def smooth_grad_map(
    graph: G.Graph, x: Tensor, goal: Objective, samples: int = 20, noise: float = 0.15, noise_seed: int = 0
) -> Found:
    """Compute SmoothGrad on a graph; the noise is the same for every example and every way to cut passes."""
    goal = settled(graph, x, goal)
    total = torch.zeros_like(x)
    for adjoints in _noisy_gradients(graph, x, goal, samples, noise, noise_seed):
        total += adjoints.sum(0)
    return Found(total / samples, goal.target)


def var_grad_map(
    graph: G.Graph, x: Tensor, goal: Objective, samples: int = 20, noise: float = 0.15, noise_seed: int = 0
) -> Found:
    """Compute VarGrad on a graph: the mean square about the first sample, less the square of the mean about it."""
    goal = settled(graph, x, goal)
    first, total, squares = None, torch.zeros_like(x), torch.zeros_like(x)
    for adjoints in _noisy_gradients(graph, x, goal, samples, noise, noise_seed):
        first = adjoints[0] if first is None else first
        total += (adjoints - first).sum(0)
        squares += (adjoints - first).square().sum(0)
    return Found(((squares - total.square() / samples) / (samples - 1)).clamp(min=0), goal.target)


def _noisy_gradients(
    graph: G.Graph, x: Tensor, goal: Objective, samples: int, noise: float, seed: int
) -> Iterator[Float[Tensor, "s n ..."]]:
    """Gradients at noisy copies of the inputs, some samples at a time."""
    flat = x.flatten(1)
    spread = noise * (flat.amax(1) - flat.amin(1)).view(-1, *[1] * (x.dim() - 1))  # (N, 1, …)
    generator = rng.generator(seed, "smooth_grad")
    program = graph.optimized().gradient()
    for chunk in repeats(graph, x, samples):
        drawn = [torch.randn(x[:1].shape, generator=generator, dtype=x.dtype).to(x.device) for _ in chunk]
        noisy = [x + spread * each for each in drawn]
        adjoint = program(torch.cat(noisy), seed=repeated(goal, len(chunk)).adjoint)  # (samples · N, …)
        yield adjoint.unflatten(0, (len(chunk), len(x)))


def integrated_gradients_map(
    graph: G.Graph,
    x: Tensor,
    goal: Objective,
    baseline: Baseline = None,
    steps: int = 20,
    tolerance: float | None = None,
) -> Found:
    """Compute integrated gradients on a graph, with the completeness error."""
    goal, start = settled(graph, x, goal), reference(x, baseline)
    fast = graph.optimized()
    promised = goal.value(outputs(fast, x)) - goal.value(outputs(fast, start))
    while True:
        values = (x - start) * _mean_gradient(graph, x, start, goal, steps)
        gap = missed(values, promised)
        if tolerance is None or float(gap.max()) <= tolerance or steps >= 1280:
            return Found(values, goal.target, gap=gap, chosen={"steps": steps, "tolerance": None})
        steps *= 2


def _mean_gradient(graph: G.Graph, x: Tensor, start: Tensor, goal: Objective, steps: int) -> Tensor:
    """The gradient's mean along the line from start to x."""
    places, weights = quadrature(steps)
    program, total = graph.optimized().gradient(), torch.zeros_like(x)
    for chunk in repeats(graph, x, steps):
        points = torch.cat([start + (x - start) * float(places[k]) for k in chunk])
        adjoint = program(points, seed=repeated(goal, len(chunk)).adjoint).unflatten(0, (len(chunk), len(x)))
        share = torch.as_tensor(weights[chunk.start : chunk.stop], dtype=x.dtype, device=x.device)
        total += torch.tensordot(share, adjoint, 1)
    return total


def quadrature(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Places in [0, 1] and weights of the Gauss–Legendre rule, on panels of at most 20 places each.

    >>> places, weights = quadrature(2)
    >>> bool(abs(weights @ places**3 - 1 / 4) < 1e-12)
    True
    """
    panels, places, weights = -(-steps // 20), [], []
    for panel in range(panels):
        count = steps // panels + (panel < steps % panels)
        roots, shares = np.polynomial.legendre.leggauss(count)  # on [−1, 1]
        places.append((panel + (roots + 1) / 2) / panels)
        weights.append(shares / 2 / panels)
    return np.concatenate(places), np.concatenate(weights)


def reference(x: Tensor, baseline: Baseline) -> Tensor:
    """What inputs are compared with, shaped like them.

    Raises:
        ArgumentError: the baseline does not broadcast to x.
    """
    start = torch.as_tensor(0.0 if baseline is None else baseline, dtype=x.dtype, device=x.device)
    try:
        return start.expand_as(x)
    except RuntimeError:
        raise ArgumentError(
            f"a baseline of shape {tuple(start.shape)} does not broadcast to inputs of shape {tuple(x.shape)}"
        ) from None
