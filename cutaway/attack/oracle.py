"""The one place where attacks meet a model: its logits, and the gradient of a loss with respect to the images."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cutaway.attack.losses import Goal, Logits, Loss, Values
from cutaway.errors import ArgumentError, CaptureError
from cutaway.graph import Graph, capture
from cutaway.graph.held import Held
from cutaway.nets.modes import evaluating
from cutaway.rng import derive


class MaskedGradientWarning(UserWarning):
    """A model's gradient is exactly zero, so that attacks which follow it look weaker than the model is."""


Model = nn.Module | Callable[[Tensor], Tensor]
NEAR = 1e-4  # a lead, relative to the largest logit, within which the model itself is asked: far above rounding
BLACK_BOX = "square, boundary, hop_skip_jump, transfer from another model (or random_noise)"


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
        self.programs: dict[tuple[int, ...], Held] = {}
        self.stand_ins: dict[tuple[int, ...], Held] = {}  # graphs that answer for the model in `look`

    def logits(self, x: Float[Tensor, "n c h w"]) -> Logits:
        """A forward pass of the model itself, without gradients."""
        self.asked["logits"] += len(x)
        return self._told(x)

    def look(self, x: Float[Tensor, "n c h w"]) -> Logits:
        """Logits for a search's own use: those of the optimised graph, once the model has been captured.

        A graph answers for the model when it draws no random numbers, holds for all inputs, and has once given the same
        logits. Images whose two largest logits are nearly equal are shown to the model itself, so that rounding, which
        differs between the two, decides nothing.
        """
        graph = self._stand_in(x)
        if graph is None:
            return self.logits(x)
        self.asked["logits"] += len(x)
        return self.sure(x, _joined([checked(graph(part)[0], part) for part in x.split(self.batch_size)]))

    def sure(self, x: Float[Tensor, "n c h w"], said: Logits) -> Logits:
        """What a graph said, with the model's own logits for the images that are nearly between two classes."""
        near = _lead(said) <= NEAR * said.abs().amax(1)
        if self._stand_in(x) is None or not near.any():
            return said
        return said.index_put((near,), self._told(x[near]))

    def follow(self, x: Float[Tensor, "n c h w"]) -> None:
        """Capture the model so that `look` is cheaper; where that cannot be, `look` goes on asking the model."""
        if self._stand_in(x) is None:
            with suppress(CaptureError):
                self._stand(self._captured(x), x)

    def classes(self, x: Float[Tensor, "n c h w"]) -> int:
        """How many classes there are: as the captured graph says, or else the model of one image."""
        self.follow(x)
        graph = self._stand_in(x)
        shape = () if graph is None else graph.graph["output"].shape or ()
        return int(shape[1]) if len(shape) == 2 and isinstance(shape[1], int) else self.logits(x[:1]).shape[1]

    def ascent(self, x: Float[Tensor, "n c h w"], loss: Loss, goal: Goal) -> Answer:
        """Logits, and value and gradient of a loss to be made larger."""
        if len(x) <= self.batch_size:
            return self._ascent(x, loss, goal)
        answers = []
        for rows in torch.arange(len(x), device=x.device).split(self.batch_size):
            answers.append(self._ascent(x[rows], loss, goal.keep(rows)))
        return Answer(*(torch.cat([getattr(a, name) for a in answers]) for name in ("logits", "value", "gradient")))

    def leads(
        self, x: Float[Tensor, "n c h w"], pivots: Int[Tensor, "n 1"], others: Int[Tensor, "n r"]
    ) -> tuple[Logits, Float[Tensor, "n r c h w"]]:
        """Logits, and the gradients of the other classes' leads over the pivots: one forward pass, R back."""
        width = others.shape[1]
        self._program(x)  # from here on there is a graph, if there can be one
        if width == 1 or self.samples > 1 or self._stand_in(x) is None:
            goal = Goal(pivots.expand_as(others).flatten(), others.flatten())
            answer = self.ascent(x.repeat_interleave(width, 0), _lead_over, goal)  # (N·R, …)
            return answer.logits[::width], answer.gradient.view(-1, width, *x.shape[1:])
        rows = torch.arange(len(x), device=x.device).split(self.batch_size)
        parts = [self._leads(x[each], pivots[each], others[each]) for each in rows]
        return _joined([logits for logits, _ in parts]), _joined([gradients for _, gradients in parts])

    def _leads(self, x: Tensor, pivots: Tensor, others: Tensor) -> tuple[Logits, Tensor]:
        logits, pull = self._program(x).halves(x)
        checked(logits, x)
        self.asked["gradients"] += others.numel()
        away = torch.zeros_like(logits).scatter(1, pivots, -1.0)
        seeds = [away.scatter(1, other[:, None], 1.0) for other in others.T]
        gradients = torch.stack([pull(seed) for seed in seeds], 1)  # (N, R, C, H, W)
        self._inspect(gradients, True)
        return logits, gradients

    def _told(self, x: Tensor) -> Logits:
        with torch.no_grad(), evaluating(self.model), self._own_randomness():
            return _joined([checked(self.model(part), part) for part in x.split(self.batch_size)])

    def _stand_in(self, x: Tensor) -> Held | None:
        return self.stand_ins.get(tuple(x.shape[1:]))

    def _ascent(self, x: Tensor, loss: Loss, goal: Goal) -> Answer:
        values: list[Values] = []
        pulls: list[bool] = []  # whether the loss asked for anything

        def seed(logits: Logits) -> Logits:
            value, made = loss(checked(logits, x), goal)
            values.append(value)
            pulls.append(bool(made.any()))
            return made

        with evaluating(self.model), self._own_randomness():
            program = self._program(x)
            self.asked["gradients"] += len(x) * self.samples
            pulled = [program(x, seed) for _ in range(self.samples)]
        gradient = _mean([adjoint for _, adjoint in pulled])
        self._inspect(gradient, any(pulls))
        return Answer(_mean([logits for logits, _ in pulled]), _mean(values), gradient)

    def _inspect(self, gradient: Tensor, pulled: bool) -> None:
        """Refuse gradients (N, …) that are not finite, and warn of those that are zero though the loss pulled."""
        size = torch.linalg.vector_norm(gradient, 1)  # one look at all entries
        if not torch.isfinite(size) and not torch.isfinite(gradient).all():
            bad = (~torch.isfinite(gradient)).flatten(1).any(1).nonzero()[0].item()
            raise ArgumentError(
                f"the gradient at image {bad} of the batch has NaN or infinite entries, though the logits are finite: "
                "no step can be taken; look for a root, a logarithm or a division at its singular point in the model"
            )
        if pulled and not self.warned and size == 0:
            self.warned = True
            warnings.warn(
                f"the gradient is exactly zero in every pixel of all {len(gradient)} images: something in the model "
                "hides it (rounding, a saturated activation); believe an attack without gradients rather than this one",
                MaskedGradientWarning,
                stacklevel=3,
            )

    def _program(self, x: Tensor) -> Held:
        """The program for the images' gradient; one for all batch sizes where the model allows it."""
        for key in (tuple(x.shape), tuple(x.shape[1:])):
            if key in self.programs:
                return self.programs[key]
        try:
            graph = self._captured(x)
        except CaptureError as error:
            raise no_gradient(self.model, str(error).splitlines()[0]) from error
        if not _connected(graph):
            raise no_gradient(self.model, "no differentiable path leads from the images to the logits")
        program = Held(graph.optimized().gradient())
        self.programs[tuple(x.shape[1:] if graph.dynamic else x.shape)] = program
        self._stand(graph, x)
        return program

    def _stand(self, graph: Graph, x: Tensor) -> None:
        """Let a graph answer for the model, once it has been compared with it."""
        if graph.remembered("answers for its model", lambda: graph.dynamic and _fixed(graph) and self._same(graph, x)):
            self.stand_ins[tuple(x.shape[1:])] = Held(graph.optimized())

    def _same(self, graph: Graph, x: Tensor) -> bool:
        told, said = self._told(x[:4]), graph.optimized()(x[:4])
        return bool(((told - said).abs().amax(1) <= NEAR / 4 * told.abs().amax(1)).all())

    def _captured(self, x: Tensor) -> Graph:
        graph = capture(self.model, torch.cat([x, x])[:2])  # two images serve every batch size, if it is free
        return graph if graph.dynamic else capture(self.model, x)

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


def _fixed(graph: Graph) -> bool:
    """Whether a graph holds for all inputs and draws no random numbers."""
    drawing = torch.Tag.nondeterministic_seeded
    return not graph.specialised and not any(drawing in getattr(node.op, "tags", ()) for node in graph.nodes)


def _lead(logits: Logits) -> Values:
    first, second = logits.topk(2, dim=1).values.unbind(1)
    return first - second


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _mean(samples: list[Tensor]) -> Tensor:
    return samples[0] if len(samples) == 1 else torch.stack(samples).mean(0)


def _lead_over(logits: Logits, goal: Goal) -> tuple[Values, Logits]:
    """By how much the target's logit is larger than the label's."""
    seed = torch.zeros_like(logits).scatter(1, goal.label[:, None], -1.0).scatter(1, goal.pivot[:, None], 1.0)
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
