"""What an evaluation found: accuracy against ε for each attack, the random control, and the checks in sentences."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from cutaway.attack.panel import NORM_NAMES
from cutaway.errors import nearest
from cutaway.intervals import wilson_interval
from cutaway.saving import save_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONTROL = "random noise"
SLACK = 0.02  # share of images that chance may move


class Rate(NamedTuple):
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f}–{100 * self.high:.1f})"


def wilson(hits: int, count: int) -> Rate:
    """The 95 % score interval of a share of independent trials.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.

    >>> print(wilson(98, 100))
    98.0 % (93.0–99.4)
    """
    return Rate(hits / count, *wilson_interval(hits, count))


@dataclass(frozen=True)
class Check:
    """One sign of an honest evaluation: passed, failed, or not applicable (None), and why in a sentence."""

    name: str
    passed: bool | None
    sentence: str


@dataclass(frozen=True)
class RobustnessReport:
    """Clean and robust accuracy of a model on N images.

    Attributes:
        norm, eps: the norm and the radii, rising, starting with 0.
        clean: (N,) whether each unchanged image is classified as labelled.
        broken: by attack, (E, N): whether that attack at that ε (or a smaller one) makes the model give another class;
            misclassified images are broken at every ε.
        control: (E, N), the same for random noise of size ε.
        checks: what speaks for and against believing the numbers.
        settings, seed: how it was made.
        seconds: by attack, the time it took.
        steps: numbers of steps of the curve over steps, rising, starting with 0; empty without that curve.
        steps_eps: the ε of that curve.
        over_steps: by iterative attack, (S, M): whether it breaks each of the first M images with so many steps.
    """

    norm: str
    eps: tuple[float, ...]
    clean: Bool[Tensor, "n"]
    broken: dict[str, Bool[Tensor, "e n"]]
    control: Bool[Tensor, "e n"]
    checks: tuple[Check, ...]
    settings: dict[str, Any]
    seed: int
    seconds: dict[str, float] = field(default_factory=dict)
    steps: tuple[int, ...] = ()
    steps_eps: float = 0.0
    over_steps: dict[str, Bool[Tensor, "s m"]] = field(default_factory=dict)

    @property
    def worst(self) -> Bool[Tensor, "e n"]:
        """(E, N): whether any of the attacks breaks the image."""
        return torch.stack(list(self.broken.values())).any(0)

    @property
    def clean_accuracy(self) -> Rate:
        """Accuracy on unchanged images, with its 95 % interval."""
        return wilson(int(self.clean.sum()), len(self.clean))

    def robust_accuracy(self, attack: str | None = None) -> list[Rate]:
        """Accuracy at each ε under one attack, or under the pointwise worst of all.

        Raises:
            LookupFailure: no attack of this name was run.
        """
        if attack is not None and attack not in (*self.broken, CONTROL):
            raise nearest(attack, [*self.broken, CONTROL], "attack")
        broken = self.worst if attack is None else self.control if attack == CONTROL else self.broken[attack]
        return [wilson(int((~row).sum()), row.numel()) for row in broken]

    def accuracy_over_steps(self, attack: str) -> list[Rate]:
        """Accuracy after no step and after each number of steps of one attack at `steps_eps`.

        Raises:
            LookupFailure: there is no such curve for this attack.
        """
        if attack not in self.over_steps:
            raise nearest(attack, self.over_steps, "attack with a curve over steps")
        return [wilson(int((~row).sum()), row.numel()) for row in self.over_steps[attack]]

    @property
    def convergence(self) -> str:
        """The curve over steps in a sentence for each attack; empty without that curve."""
        said = []
        for name in self.over_steps:
            rates = [rate.value for rate in self.accuracy_over_steps(name)]
            least = next(count for count, rate in zip(self.steps, rates, strict=True) if rate <= min(rates) + SLACK)
            if least == self.steps[-1]:
                end = f"it still falls after {self.steps[-2]} steps: give the attack more."
            elif least == 0:
                end = "no number of steps changes it."
            else:
                end = f"more than {least} step{'s' * (least > 1)} change it by at most {100 * SLACK:.0f} points."
            said.append(
                f"At ε = {self.steps_eps:.4g} {name} leaves {100 * rates[1]:.0f} % after {self.steps[1]} "
                f"step{'s' * (self.steps[1] > 1)} and {100 * rates[-1]:.0f} % after {self.steps[-1]}; {end}"
            )
        return " ".join(said)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that speak against believing the numbers."""
        return tuple(check for check in self.checks if check.passed is False)

    @property
    def verdict(self) -> str:
        """The result in a few sentences."""
        said = (
            f"Clean accuracy {self.clean_accuracy} on {len(self.clean)} images; under the worst of "
            f"{', '.join(self.broken)} {self.robust_accuracy()[-1]} at {NORM_NAMES[self.norm]} ε = {self.eps[-1]:.4g}, "
            f"under random noise of that size {self.robust_accuracy(CONTROL)[-1]}."
        )
        said = f"{said} {self.convergence}".strip()
        if self.failed:
            return f"{said} Do not believe the robust accuracy: of {len(self.checks)} checks {len(self.failed)} failed."
        return f"{said} {'All checks that apply pass.' if self.checks else 'Nothing was checked.'}"

    def plot(self) -> "Figure":
        """Draw accuracy against ε and against steps, one line per attack with its 95 % band, the control dashed."""
        from matplotlib.figure import Figure

        columns = 2 if self.over_steps else 1
        figure = Figure(figsize=(5.6 * columns + 0.8 * (columns == 1), 4.2), layout="constrained")
        axes = figure.subplots(1, columns, squeeze=False, sharey=True)[0]
        colours = {name: f"C{number}" for number, name in enumerate(self.broken)} | {CONTROL: "grey"}
        for name, colour in colours.items():
            _line(axes[0], self.eps, self.robust_accuracy(name), colour, name, "--" if name == CONTROL else "-")
        axes[0].set_xlabel(f"ε ({NORM_NAMES[self.norm]}, pixels in [0, 1])")
        axes[0].set_ylabel("accuracy (%)")
        failed = f" (checks that fail: {len(self.failed)})" if self.failed else ""
        axes[0].set_title(f"Accuracy under attack, {len(self.clean)} images{failed}", fontsize=10)
        for name in self.over_steps:
            _line(axes[1], range(len(self.steps)), self.accuracy_over_steps(name), colours[name], name)
            axes[1].set_xticks(range(len(self.steps)), [str(count) for count in self.steps])
            axes[1].set_xlabel("steps")
            images = self.over_steps[name].shape[1]
            axes[1].set_title(f"Over steps at ε = {self.steps_eps:.4g}, {images} images", fontsize=10)
        for axis in axes:
            axis.set_ylim(-2, 102)
            axis.grid(alpha=0.3)
            axis.legend(frameon=False)
        return figure

    def save(self, path: str | Path) -> Path:
        """Write numbers, checks and settings to .json, or the plot to .png, .svg or .pdf."""
        return save_json(path, self.plot, self.words)

    def words(self) -> dict[str, Any]:
        """Everything but the single images, for a JSON file."""
        names = [*self.broken, CONTROL]
        return {
            "verdict": self.verdict,
            "norm": self.norm,
            "eps": list(self.eps),
            "images": len(self.clean),
            "clean": self.clean_accuracy._asdict(),
            "robust": {name: [rate._asdict() for rate in self.robust_accuracy(name)] for name in names},
            "worst": [rate._asdict() for rate in self.robust_accuracy()],
            "over steps": {
                "eps": self.steps_eps,
                "steps": list(self.steps),
                "accuracy": {
                    name: [rate._asdict() for rate in self.accuracy_over_steps(name)] for name in self.over_steps
                },
            },
            "checks": [vars(check) for check in self.checks],
            "settings": self.settings,
            "seed": self.seed,
            "seconds": self.seconds,
        }


def _line(axis: "Axes", x: Sequence[float], rates: list[Rate], colour: str, name: str, style: str = "-") -> None:
    """One attack's accuracy with its 95 % band."""
    axis.plot(x, [100 * rate.value for rate in rates], style, marker="o", markersize=3.5, color=colour, label=name)
    low, high = [100 * rate.low for rate in rates], [100 * rate.high for rate in rates]
    axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
