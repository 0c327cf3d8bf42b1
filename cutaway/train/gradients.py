"""One training step's loss, outputs and gradients, computed by the project's own engine or by autograd."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cutaway import graph as engine
from cutaway.errors import ArgumentError, CaptureError
from cutaway.train import foreach
from cutaway.train.losses import Loss
from cutaway.train.metrics import per_example
from cutaway.train.state import random_state, set_random_state

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, list[Tensor]]]
Scaled = Callable[[Tensor], Tensor]

_NARROW = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def mean_loss(loss: Loss, outputs: Any, targets: Tensor) -> Tensor:
    """Average a loss over the examples.

    >>> mean_loss(lambda outputs, targets: outputs - targets, torch.tensor([1.0, 3.0]), torch.zeros(2))
    tensor(2.)
    """
    values = loss(outputs, targets)
    return values if values.dim() == 0 else per_example(values, values.shape[0]).mean()


def forward_under(precision: str, device: torch.device) -> torch.autocast:
    """The context of a forward pass: autocast for "bfloat16" and "float16", the model's own precision otherwise.

    >>> with forward_under("float16", torch.device("cpu")): torch.ones(1, 1).mm(torch.ones(1, 1)).dtype
    torch.float16
    """
    dtype = _NARROW.get(precision)
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def autograd_step(
    model: Callable[[Tensor], Any],
    loss: Loss,
    parameters: Mapping[str, Tensor],
    precision: str = "float32",
    objective: "Objective | None" = None,
    slope: bool = False,
    scaled: Scaled | None = None,
) -> Step:
    """Make the step with `torch.autograd.grad`.

    Args:
        model: from inputs to outputs.
        loss: from outputs and targets to one value per example.
        parameters: what to differentiate by, by name.
        precision: "float32" leaves the model's own; "bfloat16" and "float16" compute the forward pass under autocast.
        objective: makes of model and loss the function `(x, y) -> (loss, outputs)`; `WithLoss` when None.
        slope: give the gradient of the inputs as well, as the last one.
        scaled: makes the loss larger before it is differentiated, so that small gradients do not vanish in float16;
            the gradients are then larger by the same factor.

    Returns:
        A function `(x, y) -> (loss, outputs, gradients)`; the gradients are in the order of `parameters`.

    >>> net = nn.Linear(1, 1, bias=False)
    >>> step = autograd_step(net, lambda z, t: (z - t).square().sum(1), dict(net.named_parameters()))
    >>> value, outputs, (gradient,) = step(torch.ones(1, 1), torch.zeros(1, 1))
    >>> bool(torch.isclose(gradient, 2 * net.weight).all())
    True
    """
    weights = list(parameters.values())
    whole = (objective or WithLoss)(model, loss)  # type: ignore[arg-type]

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        leaves = weights
        if slope:
            x = x.detach().requires_grad_(True)
            leaves = [*weights, x]
        with forward_under(precision, x.device):
            value, outputs = whole.forward(x, y)
        found = torch.autograd.grad(value if scaled is None else scaled(value), leaves, allow_unused=True)
        gradients = [torch.zeros_like(w) if g is None else g for w, g in zip(leaves, found, strict=True)]
        return value.detach(), outputs.detach(), gradients

    return step


def in_pieces(step: Step, pieces: int) -> Step:
    """Compute a batch's gradient in several smaller batches, for less memory and the same result.

    >>> net = nn.Linear(2, 1)
    >>> whole = autograd_step(net, lambda z, t: z.square().sum(1), dict(net.named_parameters()))
    >>> x, y = torch.randn(6, 2), torch.zeros(6)
    >>> a, b = whole(x, y)[2][0], in_pieces(whole, 4)(x, y)[2][0]
    >>> bool(torch.allclose(a, b, atol=1e-6))
    True
    """
    if pieces == 1:
        return step

    def pieced(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        total, kept, summed = torch.zeros((), device=x.device), [], None
        for part_x, part_y in zip(x.chunk(pieces), y.chunk(pieces), strict=True):
            share = len(part_x) / len(x)
            value, outputs, gradients = step(part_x, part_y)
            total = total + share * value
            kept.append(outputs)
            foreach.mul_(gradients, share)
            summed = gradients if summed is None else foreach.add(summed, gradients)
        return total, torch.cat(kept), list(summed or ())

    return pieced


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that are to be trained, by name.

    >>> list(trainable(nn.Linear(1, 1)))
    ['weight', 'bias']
    """
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


class WithLoss(nn.Module):
    """A network followed by its mean loss, so that both are one computation graph.

    >>> WithLoss(nn.Identity(), lambda outputs, targets: outputs)(torch.tensor([1.0, 3.0]), torch.zeros(2))
    (tensor(2.), tensor([1., 3.]))
    """

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Give the mean loss and the outputs."""
        outputs = self.model(x)
        return mean_loss(self.loss, outputs, y), outputs


Objective = Callable[[nn.Module, Loss], WithLoss]


def engine_step(
    model: nn.Module,
    loss: Loss,
    parameters: Mapping[str, Tensor],
    rules: Mapping[Any, Any] | None = None,
    objective: Objective = WithLoss,
    slope: bool = False,
) -> Step:
    """Make the step with Cutaway's own reverse pass over the captured graph of network and loss.

    The graph is captured with the first batch, in each module's own mode; running statistics that the network
    would have changed are changed by the step.

    Args:
        model: from inputs to outputs.
        loss: from outputs and targets to one value per example.
        parameters: what to differentiate by, by name.
        rules: a rule set other than backpropagation.
        objective: makes of model and loss the module `(x, y) -> (loss, outputs)` that holds the model as `model`.
        slope: give the gradient of the inputs as well, as the last one.

    Returns:
        A function `(x, y) -> (loss, outputs, gradients)`.

    Raises:
        CaptureError: by the step, when the network cannot be captured.

    >>> net = nn.Linear(1, 1, bias=False)
    >>> step = engine_step(net, lambda z, t: (z - t).square().sum(1), dict(net.named_parameters()))
    >>> value, outputs, (gradient,) = step(torch.ones(2, 1), torch.zeros(2, 1))
    >>> bool(torch.isclose(gradient, 2 * net.weight).all())
    True
    """
    whole = objective(model, loss)
    found: dict[tuple[Any, ...], Step] = {}

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        key = (x.shape[1:], x.dtype, y.shape[1:], y.dtype)
        chosen = found.get(key) or found.get((*key, len(x)))
        if chosen is None:
            whole.training = model.training
            before = random_state(x.device)
            graph = engine.capture(whole, x, y, train=None)
            chosen = _program_step(graph, list(parameters), rules, slope)
            set_random_state(before, x.device)  # when a graph is captured must not change what dropout draws
            found[key if graph.dynamic else (*key, len(x))] = chosen
        return chosen(x, y)

    return step


def _program_step(graph: engine.Graph, names: list[str], rules: Mapping[Any, Any] | None, slope: bool) -> Step:
    """The step for inputs of one shape."""
    loss, outputs = graph.outputs
    buffers = dict(graph.module.named_buffers())
    updates = [(buffers[name], node) for name, node in graph.updates.items()]
    used = {node.target for node in graph.parameters}
    wanted = [f"model.{name}" for name in names if f"model.{name}" in used]
    inputs = [graph.inputs[0].name] if slope else []
    program = graph.gradient(loss, wanted + inputs, rules=rules, values=[outputs, *(node for _, node in updates)])
    weights = dict(graph.module.named_parameters())

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        values, adjoints = program.evaluate(x, y)
        with torch.no_grad():
            for buffer, node in updates:
                buffer.copy_(values[node])
        gradients = [
            adjoints[f"model.{n}"] if f"model.{n}" in adjoints else torch.zeros_like(weights[f"model.{n}"])
            for n in names
        ]
        gradients += [adjoints[name] for name in inputs]
        return values[loss], values[outputs], gradients

    return step


def make_step(
    model: nn.Module,
    loss: Loss,
    parameters: Mapping[str, Tensor],
    precision: str = "float32",
    rules: Mapping[Any, Any] | None = None,
    objective: Objective = WithLoss,
    slope: bool = False,
    scaled: Scaled | None = None,
) -> Step:
    """Make the gradient step: the project's own engine, or autograd for a network that cannot be captured.

    Args:
        model: from inputs to outputs.
        loss: from outputs and targets to one value per example.
        parameters: what to differentiate by, by name.
        precision: "bfloat16" and "float16" compute under autocast, which is autograd's.
        rules: a rule set other than backpropagation; needs the engine.
        objective, slope: see `engine_step`.
        scaled: see `autograd_step`; needs another precision than "float32".

    Returns:
        A function `(x, y) -> (loss, outputs, gradients)`.

    Raises:
        ArgumentError: rules were given together with a precision that the engine does not compute in.
        CaptureError: rules were given for a network that cannot be captured.

    >>> net = nn.Linear(2, 2)
    >>> step = make_step(net, lambda z, t: z.square().sum(1), dict(net.named_parameters()))
    >>> len(step(torch.ones(3, 2), torch.zeros(3))[2])
    2
    """
    plain = autograd_step(model, loss, parameters, precision, objective, slope, scaled)
    if precision != "float32":
        if rules is not None:
            raise ArgumentError(f"rules= need precision='float32', not {precision!r}")
        return plain
    own: list[Step] = [engine_step(model, loss, parameters, rules, objective, slope)]

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        try:
            return own[0](x, y)
        except CaptureError as reason:
            if rules is not None:
                raise
            warnings.warn(f"this network cannot be captured; autograd computes the gradients: {reason}", stacklevel=2)
            own[0] = plain
            return plain(x, y)

    return step
