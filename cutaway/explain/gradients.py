"""Attributions from one gradient with respect to the input."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from cutaway import graph as G
from cutaway.explain.attribution import Attribution
from cutaway.explain.frame import Found, at_node, attribute, explained
from cutaway.explain.objective import Objective, Of, Target


def gradient(
    model: nn.Module | Callable,
    x: Float[Tensor, "n ..."],
    target: Target = None,
    *,
    of: Of = "logit",
    score: bool = True,
    seed: int = 0,
) -> Attribution:
    """Differentiate the target's logit (or log-probability) with respect to the input.

    Args:
        model: a module, or a function of one tensor.
        x: inputs (N, C, H, W) in [0, 1], or any real batch (N, …).
        target: class indices (N,), one index for all, or None for the predicted classes.
        of: "logit", "log_probability", or a function from the outputs (N, …) to one number for each example (N,).
        score: whether to test the map against a copy with random parameters (one more pass).
        seed: fixes that copy.

    Returns:
        values shaped like x.

    Raises:
        ArgumentError: x is no batch of finite real numbers, or the target is no class of the model.

    Source: K. Simonyan, A. Vedaldi, A. Zisserman, Deep Inside Convolutional Networks, 2013, section 3.

    >>> import torch
    >>> gradient(nn.Linear(3, 2), torch.ones(4, 3), target=1).values.shape
    torch.Size([4, 3])
    """
    return attribute("gradient", gradient_map, model, x, target, of, settings={}, score=score, seed=seed)


def gradient_x_input(
    model: nn.Module | Callable,
    x: Float[Tensor, "n ..."],
    target: Target = None,
    *,
    of: Of = "logit",
    score: bool = True,
    seed: int = 0,
) -> Attribution:
    """Multiply the gradient by the input, place by place.

    Args:
        model, x, target, of, score, seed: as for `gradient`.

    Returns:
        values shaped like x; for a model without biases and with ReLUs only, they sum to the logit.

    Source: A. Shrikumar, P. Greenside, A. Shcherbina, A. Kundaje, Not Just a Black Box, 2016, section 2.

    >>> import torch
    >>> net = nn.Linear(3, 2, bias=False)
    >>> x = torch.ones(1, 3)
    >>> bool(torch.isclose(gradient_x_input(net, x, target=0).values.sum(), net(x)[0, 0]))
    True
    """
    return attribute(
        "gradient_x_input", gradient_x_input_map, model, x, target, of, settings={}, score=score, seed=seed
    )


def gradient_map(graph: G.Graph, x: Tensor, goal: Objective) -> Found:
    """Compute the gradient on a graph."""
    _, adjoint, output = at_node(graph, x, goal, graph.inputs[0])
    return Found(adjoint, explained(goal, output))


def gradient_x_input_map(graph: G.Graph, x: Tensor, goal: Objective) -> Found:
    """Compute gradient times input on a graph."""
    found = gradient_map(graph, x, goal)
    return Found(found.values * x, found.target)
