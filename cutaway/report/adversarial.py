"""How to break it: adversarial examples beside random noise of the same size, and accuracy against ε."""

from collections.abc import Callable, Sequence

from cutaway import attack
from cutaway.attack import Attack
from cutaway.report.figures import Tile, cases
from cutaway.report.images import picture, signed
from cutaway.report.page import Figure, Section
from cutaway.report.subject import Subject
from cutaway.report.svg import Scale, Series, chart
from cutaway.report.words import percent, wilson

TITLE = "How to break it"
EXAMPLES = 200  # test images attacked for the curve
LADDER = (0.0, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3)
COLORS = {"random noise": "grey", "FGSM": "orange", "PGD": "red"}
METHODS: dict[str, Callable[..., Attack]] = {
    "random noise": attack.random_noise,
    "FGSM": attack.fgsm,
    "PGD": lambda model, x, y, **given: attack.pgd(model, x, y, steps=20, control=False, **given),
}


def section(subject: Subject) -> Section:
    """Make the chapter: attack test images at growing ε in the L∞ norm, and show some."""
    if not subject.images:
        return Section(
            "adversarial", TITLE, missing=["The inputs are not images in [0, 1], so no pixels can be attacked."]
        )
    curve = _curve(subject)
    eps = _telling(curve["PGD"])
    return Section(
        "adversarial", TITLE, [_reading(curve, subject, eps)], [_shown(subject, eps), _accuracy(curve, subject)]
    )


def _curve(subject: Subject) -> dict[str, list[float]]:
    """Accuracy on the first test images by method, one value for each ε of the ladder."""
    x, y = subject.test_x[:EXAMPLES], subject.test_y[:EXAMPLES]
    clean = float((subject.test_outputs[:EXAMPLES].argmax(1) == y).double().mean())
    found: dict[str, list[float]] = {}
    for name, method in METHODS.items():
        found[name] = [clean] + [method(subject.model, x, y, eps=eps, progress=False).accuracy for eps in LADDER[1:]]
    return found


def _telling(accuracy: Sequence[float]) -> float:
    """The smallest ε that leaves less than half of the clean accuracy; the largest when none does."""
    return next((eps for eps, left in zip(LADDER, accuracy, strict=True) if left < accuracy[0] / 2), LADDER[-1])


def _reading(curve: dict[str, list[float]], subject: Subject, eps: float) -> str:
    at = LADDER.index(eps)
    n = min(EXAMPLES, len(subject.test_y))
    clean, noise, fgsm, pgd = curve["PGD"][0], *(curve[name][at] for name in ("random noise", "FGSM", "PGD"))
    low, high = wilson(round(pgd * n), n)
    said = [
        f"When every pixel may move by at most ε = {eps:g} (0 is black, 1 is white), accuracy on {n} test images falls "
        f"from {percent(clean)} to {percent(fgsm)} under FGSM, one step along the gradient's sign, and to "
        f"{percent(pgd)} under PGD, 20 such steps (95 % interval {percent(low)} to {percent(high)})."
    ]
    if noise - pgd > 0.1:
        said.append(
            f"Random noise of the same size leaves {percent(noise)}: the direction does the harm, not the size."
        )
    else:
        said.append(
            f"Random noise of the same size leaves {percent(noise)}, hardly more: at this size chance is enough."
        )
    weaker = [e for e, a, b in zip(LADDER, curve["FGSM"], curve["PGD"], strict=True) if b > a + 0.02]
    if weaker:
        said.append(
            f"Beware: at ε = {weaker[0]:g} PGD does less harm than FGSM, which should not be; "
            "the gradients may be masked, and the true robustness lower."
        )
    return " ".join(said)


def _shown(subject: Subject, eps: float) -> Figure:
    right = subject.test_outputs.argmax(1) == subject.test_y
    chosen = [i for i in subject.chosen(24) if right[i]][:8]
    x, y = subject.test_x[chosen], subject.test_y[chosen]
    made = {name: method(subject.model, x, y, eps=eps, progress=False) for name, method in METHODS.items()}
    rows = []
    for place, index in enumerate(chosen):
        true = subject.classes[int(y[place])]
        sure = float(subject.test_outputs[index].softmax(0).max())
        row = [Tile(picture(x[place], f"test example {index}"), true, percent(sure, 0), "good")]
        for name, one in made.items():
            found = subject.classes[int(one.after[place])]
            tone = "good" if found == true else "bad"
            image = picture(one.x[place], f"test example {index} with {name}")
            row.append(Tile(image, found, percent(float(one.confidence_after[place]), 0), tone))
        row.append(Tile(signed(made["PGD"].perturbation[place].mean(0), "what PGD changed", eps)))
        rows.append(row)
    heads = ["Image", "Noise", "FGSM", "PGD", "Change by PGD"]
    caption = (
        "Look at the labels, each with the network's confidence: noise, FGSM and PGD change the pixels by as much, "
        "but only the directed changes turn them red."
    )
    return Figure(f"Adversarial examples at ε = {eps:g}", caption, cases(heads, rows), wide=True)


def _accuracy(curve: dict[str, list[float]], subject: Subject) -> Figure:
    n = min(EXAMPLES, len(subject.test_y))
    lines = []
    for name, values in curve.items():
        bounds = [wilson(round(value * n), n) for value in values]
        low, high = [one[0] for one in bounds], [one[1] for one in bounds]
        lines.append(Series(name, LADDER, values, COLORS[name], dots=True, low=low, high=high))
    chance = 1 / max(len(subject.classes), 1)
    lines.append(Series("guessing", [LADDER[0], LADDER[-1]], [chance, chance], "purple", dashed=True))
    x, y = Scale(0, LADDER[-1]), Scale(0, 1, percent=True)
    body = chart(lines, x=x, y=y, xlabel="ε (largest change of a pixel)", ylabel=f"accuracy on {n} test images")
    caption = (
        "Look how early the curves part: the wider the gap between noise and PGD, the easier the network is to fool."
    )
    return Figure("Accuracy against ε", caption, body, wide=True)
