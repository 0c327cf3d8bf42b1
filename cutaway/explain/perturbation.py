"""Attributions that need no gradient: cover parts of the input and see how the explained number moves."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from cutaway import graph as G
from cutaway import rng
from cutaway.errors import ArgumentError
from cutaway.explain.attribution import INTERPOLATION, Attribution
from cutaway.explain.curves import Fill, filling
from cutaway.explain.frame import Found, attribute, numbers, repeats, settled
from cutaway.explain.objective import Objective, Of, Target
from cutaway.progress import track

Sizes = int | Sequence[int] | None


def occlusion(
    model: nn.Module | Callable,
    x: Float[Tensor, "n ..."],
    target: Target = None,
    *,
    of: Of = "logit",
    window: Sizes = None,
    stride: Sizes = None,
    fill: Fill = "mean",
    progress: bool = True,
    score: bool = True,
    seed: int = 0,
) -> Attribution:
    """Cover one window of the input after the other, and see by how much the explained number falls.

    Args:
        model, x, target, of, score, seed: as for `gradient`.
        window: the window's size in pixels, one number or one for each of (H, W); None for a seventh of each side.
        stride: from one window to the next, in pixels; None for the window's size, so that none overlap.
        fill: what a covered place holds: "mean" of the image's channel, "blur", "zero", a number or a tensor.
        progress: whether to show a progress bar on a terminal.

    Returns:
        values (N, 1, H, W), or (N, F) for tables: the mean fall over all windows that cover a place.

    Raises:
        ArgumentError: window or stride is below 1 or does not fit the input, the stride is larger than the window, and
            as for `gradient`.

    Source: M. D. Zeiler, R. Fergus, Visualizing and Understanding Convolutional Networks, 2014, section 4.2.

    >>> import torch
    >>> net = nn.Linear(3, 1, bias=False)
    >>> net.weight.data = torch.tensor([[1.0, 2.0, -4.0]])
    >>> occlusion(net, torch.ones(1, 3), target=0, window=1, fill=0.0).values
    tensor([[ 1.,  2., -4.]])
    """
    settings = {"window": window, "stride": stride, "fill": fill, "progress": progress}
    return attribute("occlusion", occlusion_map, model, x, target, of, settings=settings, score=score, seed=seed)


def rise(
    model: nn.Module | Callable,
    x: Float[Tensor, "n ..."],
    target: Target = None,
    *,
    of: Of = "logit",
    samples: int = 1000,
    cells: int = 7,
    keep: float = 0.5,
    fill: Fill = "zero",
    progress: bool = True,
    score: bool = True,
    seed: int = 0,
) -> Attribution:
    """Cover random parts of the input many times; a place counts by what the number was on average when it was seen.

    Args:
        model, x, target, of, score: as for `gradient`.
        samples: how many masks; 4000 and 8000 in the paper.
        cells: a mask is a grid of so many cells along each side, enlarged smoothly and shifted at random.
        keep: the probability that a cell is seen.
        fill: what covered places hold, as for `occlusion`.
        progress: whether to show a progress bar on a terminal.
        seed: fixes the masks, and the randomised copy.

    Returns:
        values (N, 1, H, W), or (N, F) for tables: the paper's map less the mean of the number over all masks, so that
        a place that makes no difference has 0.

    Raises:
        ArgumentError: samples or cells is below 1, keep is not between 0 and 1, and as for `gradient`.

    Source: V. Petsiuk, A. Das, K. Saenko, RISE: Randomized Input Sampling for Explanation of Black-box Models, 2018,
    eq. 6 and section 3.2.

    >>> import torch
    >>> net = nn.Linear(8, 2)
    >>> rise(net, torch.rand(1, 8), target=1, samples=20).values.shape
    torch.Size([1, 8])
    """
    if samples < 1 or cells < 1 or not 0 < keep < 1:
        raise ArgumentError(f"rise needs samples >= 1, cells >= 1 and 0 < keep < 1, got {samples=}, {cells=}, {keep=}")
    settings = {"samples": samples, "cells": cells, "keep": keep, "fill": fill, "mask_seed": seed, "progress": progress}
    return attribute("rise", rise_map, model, x, target, of, settings=settings, score=score, seed=seed)


def occlusion_map(
    graph: G.Graph,
    x: Tensor,
    goal: Objective,
    window: Sizes = None,
    stride: Sizes = None,
    fill: Fill = "mean",
    progress: bool = True,
) -> Found:
    """Compute occlusion on a graph."""
    goal, filled = settled(graph, x, goal), filling(x, fill)
    whole = numbers(graph, x, goal, 1)  # (1, N)
    masks = windows(_places(x), window, stride, x.device)
    total, covered = x.new_zeros(len(x), *_places(x)), torch.zeros(_places(x), device=x.device)
    for chunk in track(list(repeats(graph, x, len(masks))), "occluding", progress):
        mask = masks[chunk.start : chunk.stop]  # (k, H, W)
        shown = torch.where(_lifted(mask, x)[:, None], filled, x)  # (k, N, C, H, W)
        falls = whole - numbers(graph, shown.flatten(0, 1), goal, len(chunk))  # (k, N)
        total += torch.tensordot(falls.T, mask.to(x.dtype), 1)
        covered += mask.sum(0)
    return Found(_as_map(total / covered, x), goal.target)


def rise_map(
    graph: G.Graph,
    x: Tensor,
    goal: Objective,
    samples: int = 1000,
    cells: int = 7,
    keep: float = 0.5,
    fill: Fill = "zero",
    mask_seed: int = 0,
    progress: bool = True,
) -> Found:
    """Compute RISE on a graph; the masks are the same for every example."""
    goal, filled = settled(graph, x, goal), filling(x, fill)
    drawn = masks(_places(x), samples, cells, keep, mask_seed)
    total, seen, sums = x.new_zeros(len(x), *_places(x)), x.new_zeros(_places(x)), x.new_zeros(len(x))
    for chunk in track(list(repeats(graph, x, samples)), "masking", progress):
        mask = torch.stack([next(drawn) for _ in chunk]).to(x)  # (k, H, W)
        lifted = _lifted(mask, x)[:, None]
        found = numbers(graph, (filled + lifted * (x - filled)).flatten(0, 1), goal, len(chunk))  # (k, N)
        total += torch.tensordot(found.T, mask, 1)
        seen, sums = seen + mask.sum(0), sums + found.sum(0)
    mean = (sums / samples).view(-1, *[1] * len(_places(x)))
    return Found(_as_map((total - mean * seen) / (samples * keep), x), goal.target)


def windows(sizes: Sequence[int], window: Sizes, stride: Sizes, device: torch.device) -> Bool[Tensor, "k ..."]:
    """Masks of the places each window covers; the last windows of a row end where the input ends.

    >>> windows((5,), 2, 2, torch.device("cpu")).int().tolist()
    [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]
    """
    lengths = _sizes("window", window, sizes, tuple(-(-size // 7) for size in sizes))
    steps = _sizes("stride", stride, sizes, lengths)
    if any(step > length for step, length in zip(steps, lengths, strict=True)):
        raise ArgumentError(
            f"stride={stride} goes past windows of size {lengths}, so that places between them are never covered; "
            "take a stride of at most the window's size"
        )
    starts = [
        [step * k for k in range(math.ceil((size - length) / step) + 1)]
        for size, length, step in zip(sizes, lengths, steps, strict=True)
    ]
    made = torch.zeros(math.prod(map(len, starts)), *sizes, dtype=torch.bool, device=device)
    for mask, corner in zip(made, product(*starts), strict=True):
        mask[tuple(slice(start, start + length) for start, length in zip(corner, lengths, strict=True))] = True
    return made


def masks(sizes: Sequence[int], samples: int, cells: int, keep: float, seed: int) -> Iterator[Float[Tensor, "..."]]:
    """Random masks in [0, 1]: a coarse grid of zeros and ones, enlarged linearly and cut out at a random place."""
    generator = rng.generator(seed, "rise")
    steps = [math.ceil(size / min(cells, size)) for size in sizes]
    grid = [min(cells, size) for size in sizes]
    for _ in range(samples):
        coarse = (torch.rand(1, 1, *grid, generator=generator) < keep).float()
        offsets = [int(torch.randint(step, (), generator=generator)) for step in steps]
        enlarged = [(cell + 1) * step for cell, step in zip(grid, steps, strict=True)]
        if enlarged == [cell + 1 for cell in grid]:  # one cell a place: nothing to enlarge
            yield coarse[0, 0]
            continue
        fine = F.interpolate(coarse, enlarged, mode=INTERPOLATION[len(sizes) + 2], align_corners=False)[0, 0]
        yield fine.clamp(0, 1)[tuple(slice(start, start + size) for start, size in zip(offsets, sizes, strict=True))]


def _sizes(name: str, given: Sizes, sizes: Sequence[int], default: tuple[int, ...]) -> tuple[int, ...]:
    found = default if given is None else (given,) * len(sizes) if isinstance(given, int) else tuple(given)
    if len(found) != len(sizes) or any(not 1 <= each <= size for each, size in zip(found, sizes)):
        raise ArgumentError(f"{name}={given} does not fit inputs of size {tuple(sizes)}: one number from 1 up for each")
    return found


def _places(x: Tensor) -> tuple[int, ...]:
    """The sizes of what is covered: (H, W) of images, (L,) of signals, (F,) of tables."""
    return tuple(x.shape[2:]) if x.dim() > 2 else (x.shape[1],)


def _lifted(mask: Float[Tensor, "k ..."], x: Tensor) -> Float[Tensor, "k ..."]:
    """A mask that broadcasts over the channels of one example."""
    return mask[:, None] if x.dim() > 2 else mask


def _as_map(values: Float[Tensor, "n ..."], x: Tensor) -> Float[Tensor, "n ..."]:
    return values[:, None] if x.dim() > 2 else values
