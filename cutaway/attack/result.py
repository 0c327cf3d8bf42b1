"""What an attack found: checked against its bound, verified by a fresh forward pass, with its random control."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cutaway.attack import panel
from cutaway.attack.norms import LENGTHS, NOISES, NORMS, spread
from cutaway.attack.problem import Problem
from cutaway.errors import ArgumentError, CutawayError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BRIEF = 30  # passes for each image, up to which a search is brief
TOLERANCE = 1e-6  # by how much rounding may carry a result beyond its bound
PICTURES = (".png", ".svg", ".pdf", ".jpg")


@dataclass(frozen=True)
class Attack:
    """Adversarial images and what they do.

    Attributes:
        x: adversarial images (N, C, H, W) in [0, 1]; where the attack failed, the best it had.
        original: the clean images (N, C, H, W).
        label: classes (N,) as given; target: wanted classes (N,), or None.
        success: (N,) whether a fresh forward pass of `x` gives a class other than the label, or the target.
        distance: (N,) size of `x − original` in `norm`, in pixel units.
        norm, eps: the norm, and the bound on the distance (None: the attack looked for the smallest distance).
        before, after: predicted classes (N,) of `original` and `x`; confidence_before, confidence_after: their
            probabilities (N,).
        trace: the loss (steps, N) that was made larger, NaN once an example had left the batch.
        method, settings, seed: how it was made.
        asked: images given to the model by the search: {"logits": …, "gradients": …}.
        control: random noise of the same distance, example by example (None when it was not asked for).
    """

    x: Float[Tensor, "n c h w"]
    original: Float[Tensor, "n c h w"]
    label: Int[Tensor, "n"]
    target: Int[Tensor, "n"] | None
    success: Bool[Tensor, "n"]
    distance: Float[Tensor, "n"]
    norm: str
    eps: float | None
    before: Int[Tensor, "n"]
    after: Int[Tensor, "n"]
    confidence_before: Float[Tensor, "n"]
    confidence_after: Float[Tensor, "n"]
    trace: Float[Tensor, "steps n"]
    method: str
    settings: dict[str, Any]
    seed: int
    asked: dict[str, int]
    control: "Attack | None" = field(default=None, repr=False)

    @property
    def perturbation(self) -> Float[Tensor, "n c h w"]:
        """What was added to the clean images."""
        return self.x - self.original

    @property
    def accuracy(self) -> float:
        """The share of images that are still given their label."""
        return (self.after == self.label).double().mean().item()

    @property
    def success_rate(self) -> float:
        """The share of images on which the attack did what it was to do, those solved without it included."""
        return self.success.double().mean().item()

    def plot(self, rows: int | list[int] = 4, names: list[str] | None = None) -> "Figure":
        """Draw image, perturbation × 10 and sign, adversarial image and random control, with labels and confidences.

        Args:
            rows: which examples: a list of indices, or how many (successful ones first).
            names: the classes' names.
        """
        return panel.draw(self, rows, names)

    def save(self, path: str | Path) -> Path:
        """Write everything to a .safetensors file, or the plot to a picture (.png, .svg, .pdf, .jpg)."""
        return store(path, self.plot, _tensors(self), "attack", _words(self))


def store(
    path: str | Path, plot: "Callable[[], Figure]", tensors: dict[str, Tensor], kind: str, words: dict[str, Any]
) -> Path:
    """Write a result's tensors and words to a .safetensors file, or its plot to a picture."""
    path = Path(path)
    if path.suffix in PICTURES:
        plot().savefig(path, dpi=150, bbox_inches="tight")
    elif path.suffix == ".safetensors":
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(whole, path, metadata={kind: json.dumps(words)})
    else:
        raise ArgumentError(f"cannot save to {path.name!r}: expected a name ending in .safetensors, .png, .svg or .pdf")
    return path


TENSORS = ("x", "original", "label", "target", "success", "distance", "before", "after", "confidence_before",
           "confidence_after", "trace")  # fmt: skip
WORDS = ("norm", "eps", "method", "settings", "seed", "asked")


SHARED = ("original", "label", "target", "before", "confidence_before")  # the control has the attack's


def _tensors(attack: Attack, prefix: str = "") -> dict[str, Tensor]:
    names = [name for name in TENSORS if getattr(attack, name) is not None and not (prefix and name in SHARED)]
    own = {prefix + name: getattr(attack, name) for name in names}
    return own if attack.control is None else own | _tensors(attack.control, "control.")


def _words(attack: Attack) -> dict[str, Any]:
    own = {name: getattr(attack, name) for name in WORDS}
    return own if attack.control is None else own | {"control": _words(attack.control)}


def load(path: str | Path) -> Attack:
    """Read an attack that was saved as .safetensors.

    Raises:
        ArgumentError: the file holds something else.
    """
    with safe_open(path, framework="pt") as file:
        words = (file.metadata() or {}).get("attack")
        if words is None:
            raise ArgumentError(
                f"{path} is a safetensors file without an attack in it; expected one written by Attack.save"
            )
        return _rebuild({name: file.get_tensor(name) for name in file.keys()}, json.loads(words))  # noqa: SIM118


def _rebuild(tensors: dict[str, Tensor], words: dict[str, Any], prefix: str = "") -> Attack:
    control = words.pop("control", None)
    inner = None if control is None else _rebuild(tensors, control, "control.")
    own = {name: tensors.get(name if name in SHARED else prefix + name) for name in TENSORS}
    return Attack(**own, **words, control=inner)  # pyright: ignore[reportArgumentType]


def tighten(problem: Problem, x: Tensor) -> Tensor:
    """Pull results that rounding carried past their bound back towards the clean images."""
    if problem.norm not in NORMS:
        return x
    for attempt in range(1, 9):
        distance = LENGTHS[problem.norm](x - problem.x)
        over = (distance > problem.radii + TOLERANCE / 2) & (distance <= problem.radii * (1 + 1e-3))
        if not over.any():
            return x
        shrink = torch.where(over, problem.radii / distance * (1 - 4**attempt * 1e-8), torch.ones_like(distance))
        x = torch.where(spread(over, x).bool(), problem.x + (x - problem.x) * spread(shrink, x), x).clamp(0, 1)
    return x


def settle(
    problem: Problem,
    method: str,
    x: Tensor,
    trace: Tensor,
    settings: dict[str, Any],
    control: bool,
    seed: int,
    eps: float | None,
) -> Attack:
    """Verify what an attack found by a fresh forward pass.

    The model itself is asked, or, where that would be much of a brief attack's cost, its graph (see `Oracle.look`).

    Raises:
        CutawayError: a result left the box, or its ball by more than 1e-6.
    """
    x = tighten(problem, x.detach())
    distance = LENGTHS[problem.norm](x - problem.x)
    inside = (distance <= problem.radii + TOLERANCE) & (x.flatten(1).amin(1) >= 0) & (x.flatten(1).amax(1) <= 1)
    if not inside.all():  # NaN fails too
        bad = int((~inside).nonzero()[0])
        raise CutawayError(
            f"{method} broke its bound on image {bad}: {problem.norm} distance {distance[bad]:.8g}, allowed "
            f"{problem.radii[bad]:.8g}; the result is withheld, please report this with the settings {settings}"
        )
    asked = dict(problem.oracle.asked)
    ask = problem.oracle.look if sum(asked.values()) <= BRIEF * len(x) else problem.oracle.logits
    logits = ask(x)  # fresh: of what is stored, not of what the search saw
    before, after = problem.clean.softmax(1).max(1), logits.softmax(1).max(1)
    return Attack(
        x=x,
        original=problem.x,
        label=problem.goal.label,
        target=problem.goal.target,
        success=problem.goal.reached(logits),
        distance=distance,
        norm=problem.norm,
        eps=eps,
        before=problem.clean.argmax(1),
        after=logits.argmax(1),
        confidence_before=before.values,
        confidence_after=after.values,
        trace=trace,
        method=method,
        settings=settings,
        seed=seed,
        asked=asked,
        control=_control(problem, distance, seed) if control else None,
    )


def _control(problem: Problem, distance: Tensor, seed: int) -> Attack:
    noise = NOISES[problem.norm](problem.x, distance, problem.draws, "control")
    posed = Problem(problem.oracle, problem.x, problem.goal, problem.norm, distance, problem.draws, problem.clean)
    nothing = torch.empty(0, len(noise), device=noise.device)
    return settle(posed, "random_noise", noise, nothing, {"as": "control"}, False, seed, None)
