"""The report's sentences, each computed from numbers."""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


def percent(share: float, digits: int = 1) -> str:
    """Write a share in per cent.

    >>> percent(0.98333)
    '98.3 %'
    """
    return f"{100 * share:.{digits}f} %"


def count(number: float, what: str = "", many: str | None = None) -> str:
    """Write a count with thousands separated, and its noun.

    >>> count(61706, "parameter"), count(1, "mistake"), count(0, "mistake")
    ('61,706 parameters', '1 mistake', 'no mistakes')
    """
    noun = "" if not what else f" {what if number == 1 else many or what + 's'}"
    return ("no" if number == 0 and what else f"{number:,.0f}") + noun


def short(number: float) -> str:
    """Write a large count in three digits.

    >>> short(61706), short(425_000_000), short(84)
    ('61.7 k', '425 M', '84')
    """
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """Write a time in the unit that suits it.

    >>> duration(0.42), duration(12.3), duration(75), duration(7260)
    ('0.4 s', '12 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def listed(items: Sequence[str]) -> str:
    """Join with commas and a final "and".

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""


@dataclass(frozen=True)
class Curves:
    """Learning curves, one value per epoch from epoch 1; accuracies are shares in [0, 1] and may be empty.

    `best` is the epoch (from 0) whose weights were kept, `examples` the size of the validation set, for telling a gap
    from chance, and `harder` what makes the training figures worse than they would be without it ("dropout").
    """

    train_loss: Sequence[float]
    validation_loss: Sequence[float]
    train_accuracy: Sequence[float] = ()
    validation_accuracy: Sequence[float] = ()
    best: int = 0
    examples: int = 0
    harder: str = ""

    def read(self) -> list[str]:
        """Say where validation was best, whether the network over- or underfits, and which curve is better and why."""
        accurate = self.train_accuracy and self.validation_accuracy
        said = [self._stopping()]
        if accurate:
            said.append(self._gap())
        elif self.train_loss[self.best] > self.validation_loss[self.best]:
            said.append(self._better())
        return [*said, *self._verdict()]

    def _stopping(self) -> str:
        lowest, last = min(range(len(self.validation_loss)), key=lambda i: self.validation_loss[i]), self._last
        text = f"Validation loss was lowest after epoch {lowest + 1} ({self.validation_loss[lowest]:.3g})"
        if lowest == last:
            return f"{text}, the last one: it was still improving when training ended, so more epochs might help."
        kept = f"the weights of epoch {self.best + 1} were kept"
        return f"{text}; training stopped after epoch {last + 1}, and {kept}."

    @property
    def _last(self) -> int:
        return len(self.validation_loss) - 1

    def _gap(self) -> str:
        train, validation = self.train_accuracy[self.best], self.validation_accuracy[self.best]
        shares = f"{percent(train)} of the training and {percent(validation)} of the validation"
        text = f"In the epoch whose weights were kept it was right on {shares}"
        if validation > train:
            return f"{text} examples. {self._better()}"
        gap, chance = train - validation, 1.96 * math.sqrt(max(validation * (1 - validation), 0) / (self.examples or 1))
        if not self.examples:
            return f"{text} examples, a gap of {100 * gap:.1f} points."
        if gap <= chance:
            return f"{text} examples: no gap that {count(self.examples, 'validation example')} could tell from chance."
        return f"{text} examples: a gap of {100 * gap:.1f} points, more than chance explains (±{100 * chance:.1f})."

    def _better(self) -> str:
        if self.harder:
            return f"Validation looks better than training because training alone is made harder by {self.harder}."
        return (
            "Validation looks better than training because the training figures are averaged over an epoch, "
            "while the weights still improve."
        )

    def _verdict(self) -> list[str]:
        train, validation, best, last = self.train_loss, self.validation_loss, self.best, self._last
        rise = validation[last] / validation[best] - 1
        if validation[last] - validation[best] < 2 * self._wobble():
            rise = 0.0
        if last - best < 3:
            return self._underfit()
        if rise > 0.05 and train[last] < 0.97 * train[best]:
            fell = f"training loss fell from {train[best]:.3g} to {train[last]:.3g}"
            return [f"After that it overfitted: {fell} while validation loss rose by {100 * rise:.0f} %."]
        if rise > 0.05:
            return [
                f"After that validation loss rose by {100 * rise:.0f} % without training loss falling: unstable steps."
            ]
        stayed = "validation loss did not rise by more than its usual wobble until the end"
        return self._underfit() or [f"No overfitting shows: {stayed}."]

    def _underfit(self) -> list[str]:
        train = self.train_loss
        if not self.train_accuracy or self.train_accuracy[self.best] >= 0.9 or train[-1] <= 0.5 * train[0]:
            return []
        right = f"it is right on only {percent(self.train_accuracy[self.best])} of the examples it was trained on"
        fell = f"training loss fell by no more than {percent(1 - train[-1] / train[0], 0)}"
        return [f"It underfits: {right}, and {fell}. More epochs, a higher rate or a larger network would help."]

    def _wobble(self) -> float:
        """The median change of validation loss from one epoch to the next, over the second half."""
        half = self.validation_loss[len(self.validation_loss) // 2 :]
        return statistics.median([abs(b - a) for a, b in itertools.pairwise(half)] or [0.0])
