"""Expectation over transformation: examples that stay adversarial when they are printed and photographed."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.attack.channel import Channel
from cutaway.attack.losses import log_success
from cutaway.attack.norms import NORMS
from cutaway.attack.oracle import Model
from cutaway.attack.panel import grid, pixels, radius
from cutaway.attack.problem import Problem, measured_in, pose
from cutaway.attack.result import Attack, settle, store
from cutaway.attack.universal import word
from cutaway.attack.walk import Walk, at_least, walk
from cutaway.errors import ArgumentError
from cutaway.progress import Tick, bar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("image", "pgd", "physical", "random noise")


@dataclass(frozen=True)
class Physical:
    """Physical adversarial examples, beside plain ones of the same size, and what M photographs of each are taken for.

    Attributes:
        attack: the examples made through the channel; its control is random noise of the same distance.
        plain: PGD's examples of the same size, made without the channel.
        through: whether the goal is reached (M, N) in each of M photographs of each image, by what was photographed:
            "image", "pgd", "physical", "random noise".
        channel: print, camera and file.
        shown, predicted, confidence: one photograph (4, N, C, H, W) of each, in the order of `through`, and what it is
            taken for (4, N).
        settings, seed: how it was made.
    """

    attack: Attack
    plain: Attack
    through: dict[str, Bool[Tensor, "m n"]]
    channel: Channel
    shown: Float[Tensor, "4 n c h w"]
    predicted: Int[Tensor, "4 n"]
    confidence: Float[Tensor, "4 n"]
    settings: dict[str, Any]
    seed: int

    @property
    def rates(self) -> dict[str, float]:
        """The share of photographs in which the goal is reached, by what was photographed."""
        return {kind: rows.double().mean().item() for kind, rows in self.through.items()}

    def destruction(self, kind: str = "physical") -> float | None:
        """The share of adversarial images that their photograph no longer is, of those made from images seen right.

        None when there is none to be destroyed.

        Args:
            kind: "physical" or "pgd".

        Raises:
            ArgumentError: another kind.

        Source: Kurakin, Goodfellow, Bengio, "Adversarial examples in the physical world", 2017, equation 1.
        """
        made = {"physical": self.attack, "pgd": self.plain}.get(kind)
        if made is None:
            raise ArgumentError(f"kind={kind!r}: expected 'physical' or 'pgd'")
        whole = (made.before == made.label) & made.success
        return (~self.through[kind])[:, whole].double().mean().item() if whole.any() else None

    def plot(self, row: int = 0, names: list[str] | None = None) -> "Figure":
        """Draw one image, PGD's example, the physical one and random noise, and below a photograph of each.

        Args:
            row: which image.
            names: the classes' names.
        """
        made, plain, noise = self.attack, self.plain, self.attack.control
        files = [(made.original, made.before, made.confidence_before), (plain.x, plain.after, plain.confidence_after)]
        files += [(one.x, one.after, one.confidence_after) for one in (made, noise) if one is not None]
        images = [pixels(part[0][row]) for part in files] + [pixels(one[row]) for one in self.shown]
        texts = [f"{word(int(k[row]), names)}\n{100 * float(p[row]):.1f} %" for _, k, p in files]
        for number, kind in enumerate(KINDS):
            hits, sure = self.through[kind][:, row], 100 * float(self.confidence[number, row])
            name = word(int(self.predicted[number, row]), names)
            texts.append(f"{name} {sure:.1f} %\nsuccess in {int(hits.sum())} of {len(hits)}")
        target = "another class" if made.target is None else word(int(made.target[row]), names)
        size = radius(made.eps or 0.0, made.norm)
        title = f"files above, photographs of them below; wanted {target}, ε = {size}"
        return grid(images, texts, ["image", "PGD", "made through the channel", "random noise"], title)

    def save(self, path: str | Path) -> Path:
        """Write images and rates to a .safetensors file, or the plot to a picture (.png, .svg, .pdf, .jpg)."""
        tensors = {"x": self.attack.x, "original": self.attack.original, "plain": self.plain.x}
        tensors |= {f"through {kind}": rows for kind, rows in self.through.items()}
        destroyed = {kind: self.destruction(kind) for kind in ("physical", "pgd")}
        words = {"rates": self.rates, "destruction": destroyed, "channel": vars(self.channel)}
        words |= {"settings": self.settings, "seed": self.seed}
        return store(path, self.plot, tensors, "physical", words)


def _climb(problem: Problem, channel: Channel, how: dict[str, Any], tick: Tick) -> tuple[Tensor, Tensor]:
    """Steps along the mean gradient over photographs; the examples, and the mean log-probability of each step."""
    geometry, x, lines = problem.geometry, problem.x, []
    size = torch.full_like(problem.radii, how["step_size"])
    for step in range(how["steps"]):
        total, values = torch.zeros_like(x), torch.zeros(len(x), device=x.device)
        for sample in range(how["samples"]):
            drawn = channel.draw(x, problem.draws, "step", step, sample)
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                seen = channel.apply(leaf, *drawn)
            answer = problem.oracle.ascent(seen.detach(), log_success, problem.goal)
            total += torch.autograd.grad(seen, leaf, answer.gradient)[0]
            values += answer.value / how["samples"]
        x = geometry.project(problem.x, geometry.step(x, total, size), problem.radii)
        lines.append(values)
        tick(f"log-probability {values.mean().item():.3g}")
    return x, torch.stack(lines)


def _photographed(problem: Problem, channel: Channel, x: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """One photograph of each image, the same print, camera and light for whatever is photographed, and its logits."""
    with torch.no_grad():
        seen = channel.apply(x, *channel.draw(x, problem.draws, "trial", number))
    return seen, problem.oracle.logits(seen)


def physical(
    model: Model,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, "n"],
    *,
    eps: float,
    norm: str = "linf",
    channel: Channel | None = None,
    target: int | Int[Tensor, "n"] | None = None,
    samples: int = 8,
    steps: int = 40,
    step_size: float | None = None,
    trials: int = 20,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = True,
) -> Physical:
    """Maximise the expected log-probability of success over photographs of a print, inside ‖δ‖ ≤ ε.

    Beside the result stand PGD's example of the same size, the image itself and random noise, all photographed in the
    same ways.

    Args:
        model: module or function from images (N, C, H, W) to logits (N, K), differentiable.
        x: images (N, C, H, W) in [0, 1].
        y: their labels (N,).
        eps: bound on the distance in `norm`, in pixel units.
        norm: "linf", "l2" or "l1".
        channel: print, camera and file; `Channel()` when None.
        target: the class wanted, one for all or one each; None wants any other class.
        samples: photographs that a gradient is averaged over, other ones in every step.
        steps: gradient steps.
        step_size: length of a step in `norm`; 2.5·eps/steps when None.
        trials: fresh photographs of each image that success is measured on.
        seed: of the photographs and the control; what happens to image i depends on the seed and on i.
        batch_size: the most images given to the model at once.
        progress: show a bar when stderr is a terminal.

    Raises:
        ArgumentError: see `pgd`.

    Source: Athalye, Engstrom, Ilyas, Kwok, "Synthesizing robust adversarial examples", 2018, section 2 (with a ball in
    place of the penalty).

    >>> import torch
    >>> x, y = torch.full((1, 1, 8, 8), 0.5), torch.tensor([0])
    >>> brighter = lambda x: torch.stack([0.55 - x.mean((1, 2, 3)), x.mean((1, 2, 3)) - 0.55], 1)
    >>> camera = Channel(gain=(0.95, 1.05), gamma=None, offset=None, gamut=None)
    >>> found = physical(brighter, x, y, eps=0.2, steps=5, samples=2, channel=camera)
    >>> found.rates["image"], found.rates["physical"], found.destruction()
    (0.0, 1.0, 0.0)
    """
    at_least(1, samples=samples, steps=steps, trials=trials)
    measured_in(tuple(NORMS), norm)
    channel = channel or Channel()
    problem = pose(model, x, y, eps=eps, norm=norm, target=target, seed=seed, batch_size=batch_size)
    size = 2.5 * eps / steps if step_size is None else step_size
    at_least(0, step_size=size)
    how = {"steps": steps, "samples": samples, "step_size": size}
    plainly = Walk(log_success, steps, size, random_start=True, early_stop=False)
    with bar("physical", 2 * steps + trials, progress) as tick:
        found, trace = _climb(problem, channel, how, tick)
        plain = walk(problem, plainly, tick).x
        made = settle(problem, "physical", found, trace, how | {"trials": trials}, True, seed, eps)
        beside = settle(problem, "pgd", plain, trace[:0], {"steps": steps, "step_size": size}, False, seed, eps)
        noise = made.x if made.control is None else made.control.x
        images = dict(zip(KINDS, (problem.x, beside.x, made.x, noise), strict=True))
        hits: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
        first = []
        for number in range(trials):
            for kind, one in images.items():
                seen, logits = _photographed(problem, channel, one, number)
                hits[kind].append(problem.goal.reached(logits))
                if number == 0:
                    first.append((seen, *logits.softmax(1).max(1)))
            tick("photographs")
    seen, sure, predicted = (torch.stack(part) for part in zip(*first, strict=True))
    through = {kind: torch.stack(rows) for kind, rows in hits.items()}
    return Physical(made, beside, through, channel, seen, predicted, sure, how | {"trials": trials}, seed)
