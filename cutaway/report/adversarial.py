"""How to break it: adversarial examples beside random noise of the same size, and accuracy against ε."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from cutaway import attack
from cutaway.attack import Attack, RobustnessReport
from cutaway.report.figures import Tile, cases
from cutaway.report.images import picture, signed
from cutaway.report.page import Figure, Section, table
from cutaway.report.subject import Subject
from cutaway.report.svg import Scale, Series, chart, tag
from cutaway.report.words import count, listed, percent

TITLE = "How to break it"
SCALES = (0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3)  # ε tried to find the telling one
STRETCH = (0.2, 0.4, 0.6, 0.8, 1.0, 1.4, 2.0, 3.0)  # the ladder of ε, in units of the telling one
BUDGET = 4e11  # multiply-adds spent on the curve
EXAMPLES = (24, 200)  # the fewest and the most test images attacked
NAMES = {"random noise": "random noise", "fgsm": "FGSM", "pgd": "PGD"}
COLORS = {"random noise": "grey", "fgsm": "orange", "pgd": "red"}


@dataclass(frozen=True)
class Effort:
    """How thoroughly a network is attacked: test images, PGD's steps, the ladder of ε, and whether checks are run."""

    examples: int
    steps: int
    stretch: Sequence[float]
    checks: bool

    @property
    def methods(self) -> dict[str, Callable[..., Attack]]:
        """The attacks by name."""
        return {
            "random noise": attack.random_noise,
            "fgsm": attack.fgsm,
            "pgd": partial(attack.pgd, steps=self.steps),
        }


def effort(multiply_adds: int) -> Effort:
    """Spend about the budget; a network too large for the fewest images at full length is attacked briefly.

    >>> effort(400_000).examples, effort(2_000_000_000).steps
    (200, 10)
    """
    for steps, stretch, least, most in ((20, STRETCH, *EXAMPLES), (10, (0.5, 1.0, 2.0), 8, EXAMPLES[0])):
        passes = len(stretch) * (2 * steps + 4)  # forward passes each image costs, a gradient counted as two
        n = min(int(BUDGET / (passes * max(multiply_adds, 1))), most)
        if n >= least:
            return Effort(n, steps, stretch, checks=steps == 20)
    return Effort(least, steps, stretch, checks=False)


def section(subject: Subject) -> Section:
    """Make the chapter: attack test images at growing ε in the L∞ norm, and show some."""
    if not subject.images:
        return Section(
            "adversarial", TITLE, missing=["The inputs are not images in [0, 1], so no pixels can be attacked."]
        )
    planned = effort(subject.cost.total.multiply_adds)
    x, y = subject.test_x[: planned.examples], subject.test_y[: planned.examples]
    unit = scale(subject, x, y)
    ladder = [float(f"{min(step * unit, 1.0):.2g}") for step in planned.stretch]
    methods = planned.methods
    found = attack.evaluate(
        subject.model,
        (x, y),
        methods["fgsm"],
        methods["pgd"],
        eps=ladder,
        checks=planned.checks,
        progress=False,
    )
    eps = telling(found)
    figures = [_shown(subject, eps, methods), _accuracy(subject, found), _numbers(found)]
    return Section("adversarial", TITLE, _reading(found, eps, planned.steps), [*figures, *_checks(found)])


def scale(subject: Subject, x: Tensor, y: Tensor) -> float:
    """The smallest ε at which FGSM leaves less than half of the accuracy; the largest tried when it never does."""
    clean = float((subject.test_outputs[: len(y)].argmax(1) == y).double().mean())
    for eps in SCALES:
        if attack.fgsm(subject.model, x, y, eps=eps, control=False).accuracy < clean / 2:
            return eps
    return SCALES[-1]


def telling(found: RobustnessReport) -> float:
    """The smallest ε at which PGD leaves less than a quarter of the clean accuracy; the largest when it never does."""
    most = found.clean_accuracy.value / 4
    left = zip(found.eps, found.robust_accuracy("pgd"), strict=True)
    return next((eps for eps, rate in left if rate.value < most), found.eps[-1])


def _reading(found: RobustnessReport, eps: float, steps: int) -> list[str]:
    at, n = found.eps.index(eps), len(found.clean)
    noise, fgsm, pgd = (found.robust_accuracy(name)[at] for name in NAMES)
    images, clean = count(n, "test image"), percent(found.clean_accuracy.value)
    interval = f"95 % interval {percent(pgd.low)} to {percent(pgd.high)}"
    said = [
        f"When every pixel may move by at most ε = {eps:g} (0 is black, 1 is white), accuracy on {images} falls from "
        f"{clean} to {percent(fgsm.value)} under FGSM, one step along the gradient's sign, and to {percent(pgd.value)} "
        f"under PGD, {steps} such steps ({interval})."
    ]
    harm = "the direction does the harm, not the size" if noise.low > pgd.high else "at this size chance is enough"
    said.append(f"Random noise of the same size leaves {percent(noise.value)}: {harm}.")
    if not found.failed:
        return [" ".join(said)]
    checks = (
        f"{len(found.failed)} of {count(len(found.checks), 'check')} of these attacks failed, so they may be too weak"
    )
    return [" ".join(said), f"{checks}: {' '.join(check.sentence for check in found.failed)}"]


def _shown(subject: Subject, eps: float, methods: Mapping[str, Callable[..., Attack]]) -> Figure:
    right = subject.test_outputs.argmax(1) == subject.test_y
    chosen = [i for i in subject.chosen(24) if right[i]][:8]
    x, y = subject.test_x[chosen], subject.test_y[chosen]
    made = {name: method(subject.model, x, y, eps=eps, progress=False) for name, method in methods.items()}
    rows = []
    for place, index in enumerate(chosen):
        true = subject.classes[int(y[place])]
        sure = float(subject.test_outputs[index].softmax(0).max())
        row = [Tile(picture(x[place], f"test example {index}"), true, percent(sure, 0), "good")]
        for name, one in made.items():
            label = subject.classes[int(one.after[place])]
            tone = "good" if label == true else "bad"
            image = picture(one.x[place], f"test example {index} with {NAMES[name]}")
            row.append(Tile(image, label, percent(float(one.confidence_after[place]), 0), tone))
        row.append(Tile(signed(made["pgd"].perturbation[place].mean(0), "what PGD changed", eps)))
        rows.append(row)
    fooled = listed([f"{NAMES[name]} {int((one.after != y).sum())}" for name, one in made.items()])
    caption = (
        "Look at the labels, each with the network's confidence: with changes of at most the same size, "
        f"these turn red of {len(chosen)}: {fooled}."
    )
    heads = ["Image", "Noise", "FGSM", "PGD", "Change by PGD"]
    return Figure(f"Adversarial examples at ε = {eps:g}", caption, cases(heads, rows), wide=True)


def _accuracy(subject: Subject, found: RobustnessReport) -> Figure:
    lines = []
    for name, shown in NAMES.items():
        rates = found.robust_accuracy(name)
        low, high = [rate.low for rate in rates], [rate.high for rate in rates]
        lines.append(
            Series(shown, found.eps, [rate.value for rate in rates], COLORS[name], dots=True, low=low, high=high)
        )
    chance = 1 / max(len(subject.classes), 1)
    lines.append(Series("guessing", [found.eps[0], found.eps[-1]], [chance, chance], "purple", dashed=True))
    x, y = Scale(0, found.eps[-1]), Scale(0, 1, percent=True)
    label = f"accuracy on {count(len(found.clean), 'test image')}"
    body = chart(lines, x=x, y=y, xlabel="ε (largest change of a pixel)", ylabel=label)
    caption = (
        "Look how early the curves part: the wider the gap between noise and PGD, the easier the network is to fool."
    )
    return Figure("Accuracy against ε", caption, body)


def _numbers(found: RobustnessReport) -> Figure:
    columns = [found.robust_accuracy(name) for name in NAMES]
    rows = [[f"{eps:g}", *(percent(column[k].value, 0) for column in columns)] for k, eps in enumerate(found.eps)]
    caption = "Look down the columns: at ε = 0 all agree, and the attack that searches longer must leave less."
    return Figure("The same in numbers", caption, table(["ε", *NAMES.values()], rows, numeric=(1, 2, 3)))


def _checks(found: RobustnessReport) -> list[Figure]:
    """What speaks for and against believing the curve."""
    if not found.checks:
        return []
    marks = {True: ("good", "✓"), False: ("bad", "✗"), None: ("", "–")}
    rows = []
    for check in found.checks:
        tone, mark = marks[check.passed]
        rows.append([tag("b", mark, class_=tone or None), tag("b", check.name), check.sentence])
    caption = (
        "Look for a ✗: one failed check is enough to doubt the robustness that the curve shows (– does not apply)."
    )
    return [Figure("Can these numbers be believed?", caption, table(["", "Check", "What was seen"], rows), wide=True)]
