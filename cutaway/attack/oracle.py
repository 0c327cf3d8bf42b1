"""The one place where attacks meet a model: its logits, and the gradient of a loss with respect to the images."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.attack.losses import Goal, Logits, Loss, Values
from cutaway.errors import ArgumentError, CaptureError
from cutaway.graph import Graph, Program, capture
from cutaway.rng import derive


class MaskedGradientWarning(UserWarning):
    """A model's gradient is exactly zero, so that attacks which follow it look weaker than the model is."""


Model = nn.Module | Callable[[Tensor], Tensor]
BLACK_BOX = "square, boundary, hop_skip_jump, transfer from another model (or random_noise)"


@contextmanager
def evaluation(model: Model) -> Iterator[None]:
    """Run a module in evaluation mode; every submodule gets its own flag back."""
    flags = [(part, part.training) for part in model.modules()] if isinstance(model, nn.Module) else []
    changed = [part for part, training in flags if training]
    for part in changed:
        part.training = False
    try:
        yield
    finally:
        for part in changed:
            part.training = True


@dataclass(frozen=True)
class Answer:
    """Logits (N, K), values (N,) of a loss and its gradient (N, C, H, W) at some images."""

    logits: Logits
    value: Values
    gradient: Float[Tensor, "n c h w"]


class Oracle:
    """What an attack may ask of a model; model, flags and global generators are as before after each answer.

    Attributes:
        model: a module, or any function from images (N, C, H, W) to logits (N, K).
        batch_size: the most images given to the model at once.
        samples: forward passes averaged for one gradient; more than one is expectation over a random model.
        seed: what a model that draws random numbers draws them from.
        asked: images whose logits, and images whose gradients, have been asked for.
    """

    def __init__(self, model: Model, batch_size: int = 256, samples: int = 1, seed: int = 0) -> None:
        self.model, self.batch_size, self.samples, self.seed = model, batch_size, samples, seed
        self.asked = {"logits": 0, "gradients": 0}
        self.warned = False
        self.programs: dict[tuple[int, ...], Program] = {}

    def logits(self, x: Float[Tensor, "n c h w"]) -> Logits:
        """A forward pass of the model itself, without gradients."""
        with torch.no_grad(), evaluation(self.model), self._own_randomness():
            self.asked["logits"] += len(x)
            return torch.cat([checked(self.model(part), part) for part in x.split(self.batch_size)])

    def ascent(self, x: Float[Tensor, "n c h w"], loss: Loss, goal: Goal) -> Answer:
        """Logits, and value and gradient of a loss to be made larger."""
        answers = []
        for rows in torch.arange(len(x), device=x.device).split(self.batch_size):
            answers.append(self._ascent(x[rows], loss, goal.keep(rows)))
        return Answer(*(torch.cat([getattr(a, name) for a in answers]) for name in ("logits", "value", "gradient")))

    def jacobian(self, x: Float[Tensor, "n c h w"], classes: Tensor) -> tuple[Logits, Float[Tensor, "n m c h w"]]:
        """Logits, and the gradients of the chosen classes' (N, M) logits."""
        width = classes.shape[1]
        answer = self.ascent(x.repeat_interleave(width, 0), _own_logit, Goal(classes.flatten()))  # (N·M, …)
        return answer.logits[::width], answer.gradient.view(-1, width, *x.shape[1:])

    def _ascent(self, x: Tensor, loss: Loss, goal: Goal) -> Answer:
        values: list[Values] = []
        pulls: list[bool] = []  # whether the loss asked for anything

        def seed(logits: Logits) -> Logits:
            value, made = loss(checked(logits, x), goal)
            values.append(value)
            pulls.append(bool(made.any()))
            return made

        with evaluation(self.model), self._own_randomness():
            program = self._program(x)
            self.asked["gradients"] += len(x) * self.samples
            pulled = [program.evaluate(x, seed=seed) for _ in range(self.samples)]
        logits = torch.stack([found["output"] for found, _ in pulled]).mean(0)
        gradient = torch.stack([adjoint for _, found in pulled for adjoint in found.values()]).mean(0)
        if not torch.isfinite(gradient).all():
            bad = (~torch.isfinite(gradient)).flatten(1).any(1).nonzero()[0].item()
            raise ArgumentError(
                f"the gradient at image {bad} of the batch has NaN or infinite entries, though the logits are finite: "
                "no step can be taken; look for a root, a logarithm or a division at its singular point in the model"
            )
        if any(pulls) and not gradient.any() and not self.warned:
            self.warned = True
            warnings.warn(
                f"the gradient is exactly zero in every pixel of all {len(x)} images: something in the model hides it "
                "(rounding, a saturated activation); believe an attack without gradients rather than this one",
                MaskedGradientWarning,
                stacklevel=2,
            )
        return Answer(logits, torch.stack(values).mean(0), gradient)

    def _program(self, x: Tensor) -> Program:
        """The program for the images' gradient; one for all batch sizes where the model allows it."""
        for key in (tuple(x.shape), tuple(x.shape[1:])):
            if key in self.programs:
                return self.programs[key]
        try:
            graph = capture(self.model, torch.cat([x, x])[:2])  # two images serve every batch size, if it is free
            if not graph.dynamic:
                graph = capture(self.model, x)
        except CaptureError as error:
            raise no_gradient(self.model, str(error).splitlines()[0]) from error
        if not _connected(graph):
            raise no_gradient(self.model, "no differentiable path leads from the images to the logits")
        program = graph.optimized().gradient()
        self.programs[tuple(x.shape[1:] if graph.dynamic else x.shape)] = program
        return program

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        before = torch.get_rng_state()
        torch.default_generator.manual_seed(derive(self.seed, "model", *self.asked.values()))
        try:
            yield
        finally:
            torch.set_rng_state(before)


CUTS = ("detach", "detach_")  # what torch.Tensor.detach is captured as


def _connected(graph: Graph) -> bool:
    reached, queue = set(), [graph["output"]]
    while queue:
        node = queue.pop()
        if node in reached or not node.differentiable or getattr(node.op, "_opname", "") in CUTS:
            continue
        reached.add(node)
        queue.extend(node.inputs)
    return graph.inputs[0] in reached


def _own_logit(logits: Logits, goal: Goal) -> tuple[Values, Logits]:
    seed = torch.zeros_like(logits).scatter(1, goal.label[:, None], 1.0)
    return (seed * logits).sum(1), seed


def no_gradient(model: Model, why: str) -> ArgumentError:
    """The error for an attack that follows gradients on something that gives none."""
    name = getattr(model, "__name__", type(model).__name__)
    return ArgumentError(
        f"{name} gives no gradient of its logits with respect to the images, so an attack that follows gradients "
        f"cannot run on it ({why}); use an attack that only asks for logits: {BLACK_BOX}"
    )


def checked(logits: object, x: Tensor) -> Logits:
    """Logits of the right shape and finite, or an error that says what came instead."""
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ArgumentError(f"the model gave {got} for {len(x)} images; expected logits of shape ({len(x)}, classes)")
    if not torch.isfinite(logits).all():
        bad = (~torch.isfinite(logits)).any(1).nonzero()[:5, 0].tolist()
        raise ArgumentError(
            f"the model gives NaN or infinite logits, first at images {bad} of the batch of {len(x)}: "
            "its predictions there mean nothing; check its weights and its normalisation"
        )
    return logits
