"""An adversarial texture: an object that is taken for something else from wherever it is seen."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.attack.adam import Adam
from cutaway.attack.draws import Draws
from cutaway.attack.losses import log_success
from cutaway.attack.mesh import Mesh
from cutaway.attack.norms import NORMS
from cutaway.attack.oracle import Model
from cutaway.attack.panel import grid, pixels, radius
from cutaway.attack.problem import Problem, pose
from cutaway.attack.render import Scene, Views
from cutaway.attack.result import store
from cutaway.attack.universal import word
from cutaway.attack.walk import at_least
from cutaway.errors import ArgumentError
from cutaway.progress import Tick, bar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("original", "adversarial", "random")
SHOWN = 4


@dataclass(frozen=True)
class Textured:
    """A texture made for one class, and what is seen of the object before and after.

    Attributes:
        texture, original, random: (3, T, U) in [0, 1]: the adversarial texture, the one it was made from, and that with
            random noise of the same size.
        mesh, views: the object and where it is seen from.
        target: the class wanted; eps: the largest change of a texel.
        seen: by texture ("original", "adversarial", "random"), what it is taken for (M,) in M views that were not used
            in making it, the same ones for each.
        shown: a few of these pictures (3, K, 3, H, W), in the order of `seen`; confidence (3, K): of its class.
        trace: (steps,) the mean log-probability of the target.
        settings, seed: how it was made.
    """

    texture: Float[Tensor, "3 t u"]
    original: Float[Tensor, "3 t u"]
    random: Float[Tensor, "3 t u"]
    mesh: Mesh
    views: Views
    target: int
    eps: float
    seen: dict[str, Int[Tensor, "m"]]
    shown: Float[Tensor, "3 k 3 h w"]
    confidence: Float[Tensor, "3 k"]
    trace: Float[Tensor, "steps"]
    settings: dict[str, Any]
    seed: int

    @property
    def rates(self) -> dict[str, float]:
        """The share of held-out views in which the target is seen, by texture."""
        return {kind: (classes == self.target).double().mean().item() for kind, classes in self.seen.items()}

    def plot(self, names: list[str] | None = None) -> "Figure":
        """Draw the three textures, each with the object in the same few held-out views.

        Args:
            names: the classes' names.
        """
        wanted, textures = word(self.target, names), (self.original, self.texture, self.random)
        images, texts = [], []
        for number, (kind, texture) in enumerate(zip(KINDS, textures, strict=True)):
            classes = self.seen[kind]
            images += [pixels(texture), *(pixels(picture) for picture in self.shown[number])]
            texts.append(f"{kind}: {wanted}\nin {int((classes == self.target).sum())} of {len(classes)} views")
            for k in range(self.shown.shape[1]):
                texts.append(f"{word(int(classes[k]), names)}\n{100 * float(self.confidence[number, k]):.0f} %")
        heads = ["texture", *(f"view {k + 1}" for k in range(self.shown.shape[1]))]
        return grid(images, texts, heads, f"texture for {wanted}, ε = {radius(self.eps)}, views it was not made from")

    def save(self, path: str | Path) -> Path:
        """Write textures and classes seen to a .safetensors file, or the plot to a picture (.png, .svg, .pdf, .jpg)."""
        tensors = {"texture": self.texture, "original": self.original, "random": self.random, "trace": self.trace}
        tensors |= {f"seen {kind}": classes for kind, classes in self.seen.items()}
        words = {"rates": self.rates, "target": self.target, "eps": self.eps, "views": vars(self.views)}
        return store(path, self.plot, tensors, "texture", words | {"settings": self.settings, "seed": self.seed})


def _scenes(views: Views, mesh: Mesh, count: int, at_once: int, seed: int) -> Iterator[Scene]:
    """The held-out views."""
    for start in range(0, count, at_once):
        yield views.draw(mesh, min(at_once, count - start), seed, "held out", start)


def _climb(
    problem: Problem, mesh: Mesh, views: Views, original: Tensor, eps: float, how: dict[str, Any], tick: Tick
) -> tuple[Tensor, Tensor]:
    """Adam on the expectation over views, fresh ones in every step."""
    texture, losses = original, []
    adam, ball = Adam(texture, how["rate"]), torch.full((1,), eps, dtype=torch.float64, device=original.device)
    goal = problem.goal.keep(torch.zeros(how["per_step"], dtype=torch.long, device=original.device))
    for step in range(how["steps"]):
        scene = views.draw(mesh, how["per_step"], problem.draws.seed, "step", step)
        with torch.enable_grad():
            leaf = texture.detach().requires_grad_()
            pictures = scene.picture(leaf)
        answer = problem.oracle.ascent(pictures.detach(), log_success, goal)
        (pull,) = torch.autograd.grad(pictures, leaf, answer.gradient / len(pictures))
        moved = texture + adam.step(-pull)
        texture = NORMS["linf"].project(original[None], moved[None], ball)[0]
        losses.append(answer.value.mean().item())
        tick(f"log-probability {losses[-1]:.3g}")
    return texture, torch.tensor(losses)


def texture(
    model: Model,
    mesh: Mesh,
    texture: Float[Tensor, "3 t u"],
    target: int,
    *,
    eps: float = 32 / 255,
    views: Views | None = None,
    steps: int = 100,
    per_step: int = 6,
    rate: float | None = None,
    held_out: int = 60,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = True,
) -> Textured:
    """Change an object's texture so that it is taken for the target from any side, in any light, on any background.

    The expected log-probability of the target is raised by Adam over random views; the texture stays within ε of the
    original, texel by texel.

    Args:
        model: module or function from images (N, 3, H, W) to logits (N, K), differentiable.
        mesh: the object, such as `lathe()` or `sphere()`.
        texture: its texture (3, T, U) in [0, 1].
        target: the class wanted.
        eps: the largest change of a texel, in (0, 1].
        views: cameras, light and background; `Views()` when None.
        steps: of Adam.
        per_step: views of a step, fresh ones each time.
        rate: Adam's learning rate; 10·eps/steps when None, at most 0.05.
        held_out: views that success is measured in, not used in making it.
        seed: of views and control.
        batch_size: the most pictures given to the model at once.
        progress: show a bar when stderr is a terminal.

    Returns:
        the texture with what is seen in the held-out views, beside the original and random noise of the same size.

    Raises:
        ArgumentError: a texture outside [0, 1] or of another shape, a target that is no class, eps out of range, a
            model without gradients, a camera too near.

    Source: Athalye, Engstrom, Ilyas, Kwok, "Synthesizing robust adversarial examples", 2018, sections 2 and 3.3.

    >>> from cutaway.attack.mesh import sphere
    >>> red = lambda x: torch.stack([-x.mean((2, 3))[:, 0], x.mean((2, 3))[:, 0] - x.mean((1, 2, 3))], 1)
    >>> found = texture(red, sphere(8, 16), torch.full((3, 8, 16), 0.5), 0, views=Views(side=16), steps=5, held_out=6)
    >>> bool(found.texture[0].mean() < 0.45), bool((found.texture - 0.5).abs().max() <= 32 / 255 + 1e-6)
    (True, True)
    """
    at_least(1, steps=steps, per_step=per_step, held_out=held_out)
    if not 0 < eps <= 1:
        raise ArgumentError(f"eps={eps!r}: expected the largest change of a texel, in (0, 1], such as 32/255")
    if not isinstance(texture, Tensor) or texture.dim() != 3 or texture.shape[0] != 3:
        got = tuple(texture.shape) if isinstance(texture, Tensor) else type(texture).__name__
        raise ArgumentError(f"texture is {got}; expected (3, T, U), red, green and blue in [0, 1]")
    views = views or Views()
    rate = min(10 * eps / steps, 0.05) if rate is None else rate
    at_least(0, rate=rate)
    original = texture.detach()
    pose(model, original[None], torch.tensor([0]), eps=eps, norm="linf", target=None, seed=seed, batch_size=batch_size)
    first = next(_scenes(views, mesh, min(held_out, per_step), per_step, seed)).picture(original)
    other = torch.full((len(first),), int(target == 0), device=first.device)  # any class but the target
    problem = pose(model, first, other, eps=eps, norm="linf", target=target, seed=seed, batch_size=batch_size)
    how = {"steps": steps, "per_step": per_step, "rate": rate}
    with bar("texture", steps + -(-held_out // per_step), progress) as tick:
        made, losses = _climb(problem, mesh, views, original, eps, how, tick)
        draws = Draws(seed, torch.arange(1, device=original.device))
        ball = torch.full((1,), eps, dtype=torch.float64, device=original.device)
        random = NORMS["linf"].noise(original[None], ball, draws, "random")[0]
        shown: list[Tensor] = []
        answers: list[list[Tensor]] = [[], [], []]
        for scene in _scenes(views, mesh, held_out, per_step, seed):
            pictures = [scene.picture(one) for one in (original, made, random)]
            for logits, part in zip(answers, pictures, strict=True):
                logits.append(problem.oracle.logits(part))
            shown = shown or [part[:SHOWN] for part in pictures]
            tick("held-out views")
    logits = torch.stack([torch.cat(part) for part in answers])  # (3, M, K)
    sure, seen = logits.softmax(2).max(2)
    return Textured(
        texture=made,
        original=original,
        random=random,
        mesh=mesh,
        views=views,
        target=target,
        eps=eps,
        seen=dict(zip(KINDS, seen, strict=True)),
        shown=torch.stack(shown),
        confidence=sure[:, : len(shown[0])],
        trace=losses,
        settings=how | {"held_out": held_out},
        seed=seed,
    )
