"""Intervals of shares."""

import math
from statistics import NormalDist

from cutaway.errors import ArgumentError


def wilson_interval(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a proportion that keeps its coverage near 0 and 1.

    Args:
        successes: how many of the n were right, 0 … n.
        n: number of trials, at least 1.
        confidence: coverage, in (0, 1).

    Raises:
        ArgumentError: the counts do not fit together.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.

    >>> tuple(round(end, 4) for end in wilson_interval(98, 100))
    (0.93, 0.9945)
    """
    if n < 1 or not 0 <= successes <= n:
        raise ArgumentError(f"{successes} successes of {n} trials: expected 0 ≤ successes ≤ n and n ≥ 1")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
