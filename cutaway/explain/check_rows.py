"""The tests of a check as rows of a table: the number, what it is compared with, whether it passed, and in words."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from cutaway.explain.frame import GAP, PASSES
from cutaway.explain.picture import spelled
from cutaway.explain.sensitivity import UNSTABLE

if TYPE_CHECKING:
    from cutaway.explain.check import Check


def _randomization(check: "Check") -> dict[str, Any]:
    name, score = spelled(check.method), check.score
    passed = score >= PASSES
    words = (
        f"With random parameters {name} draws another map (score {score:.2f}): it depends on what was learned."
        if passed
        else f"With random parameters {name} draws much the same map (score {score:.2f}): do not read it as what the "
        "model has learned."
    )
    return {"test": "weight randomisation", "value": score, "against": PASSES, "passed": passed, "words": words}


def _curve(check: "Check", kind: str) -> dict[str, Any]:
    curve = check.deletion if kind == "deletion" else check.insertion
    area, random = float(curve.area.mean()), float(curve.random_area.mean())
    passed = curve.gain > 0
    verb, effect = ("Deleting", "lowers") if kind == "deletion" else ("Inserting", "raises")
    degree = "more" if passed else "no more"
    words = f"{verb} the places it marks {effect} the output {degree} than {verb.lower()} random ones "
    words += f"(area {area:.3f} against {random:.3f})."
    return {"test": kind, "value": area, "against": random, "passed": passed, "words": words}


def _infidelity(check: "Check") -> dict[str, Any]:
    found = check.infidelity
    value, random = float(found.values.mean()), float(found.shuffled.mean())
    passed = value < random
    words = f"Its values foretell what replacing parts of the input does {'better' if passed else 'no better'} than in "
    words += (
        f"random places (infidelity {value:.3g} against {random:.3g}; {float(found.unexplained.mean()):.0%} of the "
    )
    words += "squared changes are left unexplained)."
    return {"test": "infidelity", "value": value, "against": random, "passed": passed, "words": words}


def _sensitivity(check: "Check") -> dict[str, Any]:
    value = float(check.sensitivity.nanmean())
    passed = value < UNSTABLE
    words = (
        f"When the input moves by up to {check.settings.get('radius', 0):g}, the map changes by up to {value:.0%} of "
    )
    words += "its norm" + ("." if passed else ": it says little about inputs that look the same.")
    return {"test": "max-sensitivity", "value": value, "against": UNSTABLE, "passed": passed, "words": words}


def _completeness(check: "Check") -> dict[str, Any] | None:
    if check.gap is None:
        return None
    gap = float(check.gap.max())
    words = (
        f"The values {'add' if gap <= GAP else 'do not add'} up to the change of the output (largest error {gap:.1%})."
    )
    return {"test": "completeness", "value": gap, "against": GAP, "passed": gap <= GAP, "words": words}


ROWS: dict[str, Callable[["Check"], dict[str, Any] | None]] = {
    "weight randomisation": _randomization,
    "deletion": partial(_curve, kind="deletion"),
    "insertion": partial(_curve, kind="insertion"),
    "infidelity": _infidelity,
    "max-sensitivity": _sensitivity,
    "completeness": _completeness,
}
