"""The words for what is found in a network, and the thresholds behind them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

VANISHING = 1e-3  # gradient (or activation) below this share of the reference
EXPLODING = 1e3  # … or above this multiple
DEAD = 0.2  # share of ReLU units that are zero for every example and every place
SATURATED = 0.5  # share of values where the activation's slope is below a tenth of its largest

HEALTHY = "healthy"
WORDS = ("not finite", "exploding", "vanishing", "dead ReLUs", "saturated", HEALTHY)  # the worst first


@dataclass(frozen=True)
class Finding:
    """What is found at one layer.

    Attributes:
        word: one of `WORDS`.
        reason: the number behind it, in words.
    """

    word: str
    reason: str


def judge(
    name: str,
    gradient: float,
    activation: float,
    dead: float | None = None,
    saturated: float | None = None,
) -> Finding:
    """Judge one layer.

    Args:
        name: the layer's name.
        gradient: its gradient norm relative to the last layer's.
        activation: the root mean square of its values relative to the first layer's.
        dead: share of dead units, None where there is no ReLU.
        saturated: share of saturated values, None where nothing saturates.

    >>> judge("conv1", gradient=1e-6, activation=1.0).word
    'vanishing'
    """
    name = called(name)
    if not (math.isfinite(gradient) and math.isfinite(activation)):
        return Finding("not finite", f"{name} holds NaN or infinity")
    if gradient > EXPLODING:
        return Finding("exploding", f"the gradient at {name} is {gradient:.2g} × that at the last layer")
    if activation > EXPLODING:
        return Finding("exploding", f"the values at {name} are {activation:.2g} × as large as at the first layer")
    if gradient < VANISHING:
        return Finding("vanishing", f"the gradient at {name} is {gradient:.2g} × that at the last layer")
    if activation < VANISHING:
        return Finding("vanishing", f"the values at {name} are {activation:.2g} × as large as at the first layer")
    if dead is not None and dead >= DEAD:
        return Finding("dead ReLUs", f"{dead:.0%} of the units of {name} are zero for every example")
    if saturated is not None and saturated >= SATURATED:
        return Finding("saturated", f"{saturated:.0%} of the values of {name} lie where its slope is nearly zero")
    return Finding(HEALTHY, "")


def called(name: str) -> str:
    """A layer's name in a sentence: `conv1`, but `layer 12` where the name is a number."""
    return name if name[:1].isalpha() else f"layer {name}"


def summary(findings: Sequence[Finding], healthy: str) -> str:
    """One sentence for a whole network: what is wrong, worst first, each with its clearest example.

    Args:
        findings: the layers' findings, from the input to the output.
        healthy: what to say if nothing is wrong.

    >>> summary([Finding("healthy", "")], "all is well")
    'healthy: all is well.'
    """
    parts = []
    for word in WORDS[:-1]:
        found = [finding for finding in findings if finding.word == word]
        if found:
            more = f" (and {len(found) - 1} more of {len(findings)} layers)" if len(found) > 1 else ""
            parts.append(f"{word}: {found[0].reason}{more}")
    return ("; ".join(parts) if parts else f"{HEALTHY}: {healthy}") + "."
