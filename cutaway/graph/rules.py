"""Rule sets: dicts laid over the table, each one a method that changes how adjoints flow.

A key is an operation's name ("relu", "conv2d.default"), an operation, a node's name, or a node; a value is a function
for the first tensor argument, or a dict {argument: function}, see `cutaway.graph.rows`.
"""

from typing import Any

import torch
from torch import Tensor

from cutaway.graph.fused import convolution_row, relu_adjoint, relu_adjoint_
from cutaway.graph.multipliers import deep_lift_rescale
from cutaway.graph.nodes import Node
from cutaway.graph.relevance import (
    LAYERS,
    alpha_beta_rule,
    epsilon_rule,
    flat_rule,
    gamma_rule,
    layer_rule,
    lrp_alpha_beta,
    lrp_composite,
    lrp_epsilon,
)
from cutaway.graph.rows import OVERWRITING, named, names_of, of_operations
from cutaway.rng import generator

__all__ = [
    "alpha_beta_rule",
    "deconvnet",
    "deep_lift_rescale",
    "direct_feedback_alignment",
    "epsilon_rule",
    "feedback_alignment",
    "flat_rule",
    "gamma_rule",
    "guided",
    "layer_rule",
    "lrp_alpha_beta",
    "lrp_composite",
    "lrp_epsilon",
    "sign_symmetric",
    "straight_through",
]


def _guided(grad: Tensor, result: Tensor) -> Tensor:
    """z̄ = ȳ where z > 0 and ȳ > 0."""
    return relu_adjoint(grad, result).relu_()


def _guided_(grad: Tensor, result: Tensor) -> Tensor:
    """The same, written into the adjoint."""
    return relu_adjoint_(grad, result).relu_()


OVERWRITING[_guided] = _guided_


def _guided_clamp(grad: Tensor, self: Tensor, min: float | None, max: float | None) -> Tensor:
    """A clamp at zero from below is a ReLU; any other is left alone."""
    inside = torch.ones_like(self, dtype=torch.bool) if min is None else self > min
    inside = inside if max is None else inside & (self < max)
    return (grad.clamp(min=0) if min == 0 else grad) * inside


guided = of_operations(
    {
        "relu": _guided,
        "relu6": lambda grad, self: grad.clamp(min=0) * ((self > 0) & (self < 6)),
        "clamp": _guided_clamp,
        "clamp_min": lambda grad, self, min: _guided_clamp(grad, self, min, None),
        "hardtanh": lambda grad, self, min_val, max_val: _guided_clamp(grad, self, min_val, max_val),
        "threshold": lambda grad, self, threshold: (grad.clamp(min=0) if threshold == 0 else grad) * (self > threshold),
        "cutaway.convolution": convolution_row(_guided, _guided_),
    }
)
"""Guided backpropagation. Source: Springenberg, Dosovitskiy, Brox, Riedmiller, Striving for Simplicity, 2014,
section 3.4."""

deconvnet = of_operations(
    {
        "relu": lambda grad: grad.clamp(min=0),
        "relu6": lambda grad: grad.clamp(min=0),
        "clamp": lambda grad, self, min, max: grad.clamp(min=0) if min == 0 else _guided_clamp(grad, self, min, max),
        "clamp_min": lambda grad, self, min: grad.clamp(min=0) if min == 0 else grad * (self > min),
        "hardtanh": lambda grad, self, min_val, max_val: (
            grad.clamp(min=0) if min_val == 0 else _guided_clamp(grad, self, min_val, max_val)
        ),
        "threshold": lambda grad, self, threshold: grad.clamp(min=0) if threshold == 0 else grad * (self > threshold),
        "cutaway.convolution": convolution_row(
            lambda grad, result: grad.clamp(min=0), lambda grad, result: grad.relu_()
        ),
    }
)
"""The deconvolutional network's backward pass. Source: Zeiler, Fergus, Visualizing and Understanding Convolutional
Networks, 2014, section 2.1."""


# learning without weight transport: the way back uses other weights than the way there
def _other_weights(choose: Any) -> dict[str, Any]:
    """Rules for layers whose adjoint goes back through `choose(weight, node)` instead of the weight."""
    rules: dict[str, Any] = {}
    for name, (settings, _, pull) in LAYERS.items():

        def serve(grad: Tensor, shape: Any, weight: Tensor, node: Node, *rest: Any, pull: Any = pull) -> Tensor:
            return pull(grad, tuple(shape), choose(weight, node), *rest)

        rules[name] = {"input": named(("grad", "input_shape", "weight", "node", *settings), serve)}
    return of_operations(rules)


def _fixed(seed: int) -> Any:
    """Random weights that stay: N(0, 1/fan-in), a function of the seed, the node's name and the shape."""
    kept: dict[Any, Tensor] = {}

    def choose(weight: Tensor, node: Node, shape: tuple[int, ...] | None = None) -> Tensor:
        shape = tuple(weight.shape) if shape is None else shape
        key = (node.name, shape, weight.dtype, weight.device)
        if key not in kept:
            fan_in = max(1, torch.Size(shape[1:]).numel())
            drawn = torch.randn(shape, generator=generator(seed, "feedback", node.name), dtype=torch.float64)
            kept[key] = (drawn / fan_in**0.5).to(weight.dtype).to(weight.device)
        return kept[key]

    return choose


def feedback_alignment(seed: int = 0) -> dict[str, Any]:
    """Send adjoints back through fixed random weights; only the way back to the input of each layer changes.

    Args:
        seed: of the random weights, which depend on it and on the layer's name alone.

    Source: Lillicrap, Cownden, Tweed, Akerman, Random Synaptic Feedback Weights Support Error Backpropagation for Deep
    Learning, 2016.
    """
    return _other_weights(_fixed(seed))


sign_symmetric = _other_weights(lambda weight, node: weight.sign() * weight.abs().mean())
"""Feedback weights that share only the signs of the weights, all of their mean size. Source: Liao, Leibo, Poggio, How
Important is Weight Symmetry in Backpropagation?, 2016, section 3 (uniform sign-concordant feedback)."""


def direct_feedback_alignment(seed: int = 0) -> dict[str, Any]:
    """Send the error at the last layer straight to every hidden layer, each through a random matrix of its own.

    Args:
        seed: of the random matrices.

    The last layer is the one with weights that no other with weights follows. Its adjoint is the error e; a hidden
    layer's input gets B·e, and what stands before it (a ReLU) multiplies by its own slope as usual.

    Source: Nøkland, Direct Feedback Alignment Provides Learning in Deep Neural Networks, 2016, section 2.
    """
    fixed, errors = _fixed(seed), {}

    def serve(grad: Tensor, shape: Any, weight: Tensor, node: Node) -> Tensor:
        last = last_layer(node)
        if last is node:
            errors[node] = grad.reshape(grad.shape[0], -1)  # (N, outputs)
        error = errors[last]
        size = torch.Size(shape[1:]).numel()
        return (error @ fixed(weight, node, (error.shape[1], size))).reshape(tuple(shape))

    return of_operations({name: {"input": named(("grad", "input_shape", "weight", "node"), serve)} for name in LAYERS})


def last_layer(node: Node) -> Node:
    """The layer with weights that comes last after (or at) a node."""
    found, stack, seen = node, [node], set()
    while stack:
        current = stack.pop()
        for user in current.users:
            if user not in seen:
                seen.add(user)
                stack.append(user)
                if any(name in LAYERS for name in names_of(user)) and user.index > found.index:
                    found = user
    return found


def _pass(grad: Tensor) -> Tensor:
    return grad


straight_through = of_operations(
    {
        **dict.fromkeys(("round", "floor", "ceil", "trunc", "bernoulli", "round.decimals"), _pass),
        **dict.fromkeys(("sign", "sgn", "heaviside"), lambda grad, self: grad * (self.abs() <= 1)),
    }
)
"""Let adjoints through functions of steps: roundings as if they were the identity, signs as if they were clipped at ±1.
Source: Bengio, Léonard, Courville, Estimating or Propagating Gradients Through Stochastic Neurons, 2013, section 4;
Hubara et al., Binarized Neural Networks, 2016, section 1.3."""
