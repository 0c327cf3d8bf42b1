"""The progress bar of everything that takes more than a moment: share done, rate, time left, and a note."""

import operator
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")
Tick = Callable[..., None]
SETTLED = 0.5  # seconds until a rate is worth showing


@contextmanager
def bar(what: str, total: int | None, shown: bool = True) -> Iterator[Tick]:
    """Show a bar on stderr if that is a terminal; otherwise nothing is written.

    Args:
        what: the words before the bar.
        total: steps in all; None when unknown.
        shown: False for no bar.

    Yields:
        A function `tick(note="", done=None)` to call after every step: what to say beside the bar, and how many steps
        are done now, one more than before if not given.

    >>> with bar("pgd", 2, shown=False) as tick:
    ...     tick("3 of 8 examples left")
    """
    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield lambda note="", done=None: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(
        *columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console, transient=True
    ) as progress:
        task = progress.add_task(what, total=total, rate="", note="")
        start: list[float] = []  # time and steps at the first call, which may go on from a checkpoint

        def tick(note: str = "", done: float | None = None) -> None:
            now = time.monotonic()
            done = progress.tasks[0].completed + 1 if done is None else done
            start.extend(() if start else (now, done))
            passed, made = now - start[0], done - start[1]
            rate = f"{made / passed:.3g}/s" if passed > SETTLED else ""
            progress.update(task, completed=done, rate=rate, note=note)

        yield tick


def track(items: Iterable[Item], words: str, show: bool = True) -> Iterator[Item]:
    """Go through items with a bar.

    Args:
        items: what to go through.
        words: what is being done.
        show: False for no bar.

    >>> list(track([1, 2], "counting"))
    [1, 2]
    """
    with bar(words, operator.length_hint(items) or None, show) as tick:
        for item in items:
            yield item
            tick()
