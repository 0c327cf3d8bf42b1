"""Mean, standard deviation and interval of a number measured on several replicates."""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from cutaway.errors import ArgumentError

# 97.5 % quantiles of Student's t with 1, 2, … 30 degrees of freedom
_QUANTILES = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Spread:
    """What several replicates say about a number.

    Attributes:
        mean: of the values.
        sd: standard deviation (n − 1) of the values; NaN for one value.
        n: number of values.
        low, high: ends of the 95 % interval of the mean by Student's t; NaN for one value.
    """

    mean: float
    sd: float
    n: int
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4g} ± {self.sd:.2g} (95 % interval {self.low:.4g} to {self.high:.4g}, n = {self.n})"

    def away(self, published: float) -> float:
        """How many standard deviations a published value lies from the mean.

        >>> spread([1.0, 2.0, 3.0]).away(4.0)
        2.0
        """
        return abs(published - self.mean) / self.sd if self.sd > 0 else math.inf if published != self.mean else 0.0


def spread(values: Iterable[float]) -> Spread:
    """Mean, standard deviation and 95 % interval of the mean.

    Args:
        values: one number per replicate, at least one.

    Raises:
        ArgumentError: there is no value.

    Source: Student, The probable error of a mean, 1908.

    >>> print(spread([4.0, 5.0, 6.0]))
    5 ± 1 (95 % interval 2.516 to 7.484, n = 3)
    """
    known = [float(value) for value in values]
    if not known:
        raise ArgumentError("there is no value to take a mean of; at least one replicate is needed")
    n, mean = len(known), statistics.fmean(known)
    if n == 1:
        return Spread(mean, math.nan, 1, math.nan, math.nan)
    sd = statistics.stdev(known) if all(map(math.isfinite, known)) else math.nan
    half = (_QUANTILES[n - 2] if n - 2 < len(_QUANTILES) else 1.96 + 2.4 / (n - 1)) * sd / math.sqrt(n)
    return Spread(mean, sd, n, mean - half, mean + half)
