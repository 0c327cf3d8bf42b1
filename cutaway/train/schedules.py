"""Learning-rate schedules: plain functions of progress in [0, 1] to a factor of the learning rate."""

import math
from collections.abc import Callable, Sequence

from cutaway.errors import ArgumentError, nearest

Schedule = Callable[[float], float]


def constant(progress: float) -> float:
    """The same rate throughout.

    >>> constant(0.7)
    1.0
    """
    return 1.0


def staircase(progress: float, at: Sequence[float] = (0.5, 0.75), factor: float = 0.1) -> float:
    """Multiply the rate by `factor` at each of the given shares of the training.

    Source: He et al., Deep Residual Learning for Image Recognition, 2016, section 4.2.

    >>> [round(staircase(p), 4) for p in (0.49, 0.5, 0.9)]
    [1.0, 0.1, 0.01]
    """
    return factor ** sum(progress >= share for share in at)


def step(progress: float, drops: int = 10, factor: float = 0.5) -> float:
    """Multiply the rate by `factor` at `drops` − 1 evenly spaced times.

    >>> [step(p, drops=4) for p in (0.0, 0.3, 0.6, 1.0)]
    [1.0, 0.5, 0.25, 0.125]
    """
    return factor ** min(math.floor(progress * drops), drops - 1)


def exponential(progress: float, end: float = 0.01) -> float:
    """Fall exponentially to the share `end` of the rate.

    >>> [round(exponential(p), 3) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.1, 0.01]
    """
    return end**progress


def cosine(progress: float, end: float = 0.0) -> float:
    """Fall along half a cosine to the share `end` of the rate.

    Source: Loshchilov and Hutter, SGDR, 2017, equation 5.

    >>> [round(cosine(p), 3) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.5, 0.0]
    """
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * progress))


def linear(progress: float, end: float = 0.0) -> float:
    """Fall along a line to the share `end` of the rate.

    >>> linear(0.25)
    0.75
    """
    return 1 - (1 - end) * progress


def one_cycle(progress: float, peak: float = 0.3, start: float = 0.04, end: float = 4e-6) -> float:
    """Rise along a cosine to the full rate at `peak`, then fall along a cosine.

    Source: Smith and Topin, Super-convergence, 2018, section 3.

    >>> [round(one_cycle(p), 2) for p in (0.0, 0.3, 1.0)]
    [0.04, 1.0, 0.0]
    """
    if progress < peak:
        return start + (1 - start) * 0.5 * (1 - math.cos(math.pi * progress / peak))
    return cosine((progress - peak) / (1 - peak), end)


def restarts(progress: float, cycles: int = 3, growth: float = 2.0, end: float = 0.0) -> float:
    """Fall along half a cosine several times, each cycle `growth` times as long as the one before.

    Source: Loshchilov and Hutter, SGDR, 2017, section 3.

    >>> [round(restarts(p, cycles=2, growth=1.0), 3) for p in (0.0, 0.25, 0.5, 0.75, 1.0)]
    [1.0, 0.5, 1.0, 0.5, 0.0]
    """
    lengths = [growth**number for number in range(cycles)]
    place = progress * sum(lengths)
    for length in lengths[:-1]:
        if place < length:
            return cosine(place / length, end)
        place -= length
    return cosine(min(place / lengths[-1], 1.0), end)


SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "staircase": staircase,
    "step": step,
    "exponential": exponential,
    "cosine": cosine,
    "linear": linear,
    "one_cycle": one_cycle,
    "restarts": restarts,
}


def warm_up(schedule: Schedule, share: float) -> Schedule:
    """Rise linearly from 0 during the first `share` of the training, then follow the schedule.

    Source: Goyal et al., Accurate, Large Minibatch SGD, 2017, section 2.2.

    >>> [warm_up(constant, 0.1)(p) for p in (0.0, 0.05, 0.1, 0.5)]
    [0.0, 0.5, 1.0, 1.0]
    """
    if not 0 <= share < 1:
        raise ArgumentError(f"warm_up={share} is outside [0, 1); it is the share of the training spent warming up")
    if share == 0:
        return schedule
    return lambda progress: progress / share if progress < share else schedule((progress - share) / (1 - share))


def schedule_function(schedule: str | Schedule, warm_up_share: float = 0.0) -> Schedule:
    """Find a schedule by name, or take a function of progress, with a warm-up before it.

    >>> schedule_function("cosine")(1.0)
    0.0
    """
    if isinstance(schedule, str) and schedule not in SCHEDULES:
        raise nearest(schedule, SCHEDULES, "schedule")
    found = SCHEDULES[schedule] if isinstance(schedule, str) else schedule
    if not callable(found):
        raise ArgumentError(f"schedule={schedule!r} is neither a name nor a function; names: {', '.join(SCHEDULES)}")
    return warm_up(found, warm_up_share)
