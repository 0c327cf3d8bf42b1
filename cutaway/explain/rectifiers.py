"""Attributions with another backward rule for rectifiers: guided backprop and the deconvnet.

The rules belong to the graph's operations, not to modules: functional, in-place and reused ReLUs are all served.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from cutaway import graph as G
from cutaway.explain.attribution import Attribution
from cutaway.explain.frame import Found, attribute, explained
from cutaway.explain.objective import Objective, Of, Target


def guided_backprop(
    model: nn.Module | Callable,
    x: Float[Tensor, "n ..."],
    target: Target = None,
    *,
    of: Of = "logit",
    score: bool = True,
    seed: int = 0,
) -> Attribution:
    """Run backprop with rectifiers that pass an adjoint only where it and their input are positive.

    The pictures are crisp, and much the same for a network with random weights: read `.score` and `.warning`.

    Args:
        model, x, target, of, score, seed: as for `gradient`.

    Returns:
        values shaped like x.

    Raises:
        ArgumentError: as for `gradient`.

    Source: J. T. Springenberg, A. Dosovitskiy, T. Brox, M. Riedmiller, Striving for Simplicity, 2015, section 3.4.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> guided_backprop(net, torch.ones(1, 3)).values.shape
    torch.Size([1, 3])
    """
    return attribute("guided_backprop", guided_map, model, x, target, of, settings={}, score=score, seed=seed)


def deconvnet(
    model: nn.Module | Callable,
    x: Float[Tensor, "n ..."],
    target: Target = None,
    *,
    of: Of = "logit",
    score: bool = True,
    seed: int = 0,
) -> Attribution:
    """Run backprop with rectifiers that pass an adjoint wherever it is positive, whatever their input.

    Args:
        model, x, target, of, score, seed: as for `gradient`.

    Returns:
        values shaped like x.

    Raises:
        ArgumentError: as for `gradient`.

    Source: M. D. Zeiler, R. Fergus, Visualizing and Understanding Convolutional Networks, 2014, section 2.1.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> deconvnet(net, torch.ones(1, 3)).values.shape
    torch.Size([1, 3])
    """
    return attribute("deconvnet", deconvnet_map, model, x, target, of, settings={}, score=score, seed=seed)


def guided_map(graph: G.Graph, x: Tensor, goal: Objective) -> Found:
    """Compute guided backprop on a graph."""
    return _ruled(graph, x, goal, G.rules.guided)


def deconvnet_map(graph: G.Graph, x: Tensor, goal: Objective) -> Found:
    """Compute the deconvnet's map on a graph."""
    return _ruled(graph, x, goal, G.rules.deconvnet)


def _ruled(graph: G.Graph, x: Tensor, goal: Objective, rules: dict) -> Found:
    program = graph.optimized().gradient(wrt=[graph.inputs[0].name], rules=rules)
    values, adjoints = program.evaluate(x, seed=goal.adjoint)
    return Found(next(iter(adjoints.values())), explained(goal, values["output"]))
