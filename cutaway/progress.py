"""The progress bar of everything that takes more than a moment: share done, rate, time left, and a note."""

import operator
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")
Tick = Callable[..., None]
Show = Callable[[str, str, float | None, float, str], None]
SETTLED = 0.5  # seconds until a rate is worth showing
_PAUSE = 0.1  # seconds between two messages of a bar that is shown by another process
_elsewhere: list[Callable[[str, float | None, float, str], None]] = []


@contextmanager
def bars(shown: bool = True) -> Iterator[Show]:
    """Show one bar per row on stderr if that is a terminal; otherwise nothing is written.

    Args:
        shown: False for no bars.

    Yields:
        A function `show(row, words, total, done, note)`; a row appears when it is named first.

    >>> with bars(shown=False) as show:
    ...     show("first job", "pgd", 20, 3, "")
    """
    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield lambda row, words, total, done, note: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(
        *columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console, transient=True
    ) as progress:
        rows: dict[str, tuple[str, TaskID]] = {}
        starts: dict[TaskID, tuple[float, float]] = {}  # time and steps at the first step, which may not be step 1

        def show(row: str, words: str, total: float | None, done: float, note: str) -> None:
            if rows.get(row, ("",))[0] != words:
                if row in rows:
                    progress.remove_task(rows[row][1])
                rows[row] = words, progress.add_task(words, total=total, rate="", note="")
            task, now = rows[row][1], time.monotonic()
            start, first = starts.setdefault(task, (now, done)) if done else (now, done)
            rate = f"{(done - first) / (now - start):.3g}/s" if now - start > SETTLED else ""
            progress.update(task, completed=done, rate=rate, note=note)

        yield show


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
    count = 0.0
    with bars(shown and not _elsewhere) as show:
        if shown and not _elsewhere:
            show("", what, total, 0.0, "")

        def tick(note: str = "", done: float | None = None) -> None:
            nonlocal count
            count = count + 1 if done is None else done
            if _elsewhere and shown:
                _elsewhere[-1](what, total, count, note)
            else:
                show("", what, total, count, note)

        yield tick


def send_bars(send: Callable[[tuple[str, float | None, float, str]], object]) -> None:
    """Let this process's bars be shown by another one, which gets `(words, total, done, note)` now and then.

    Args:
        send: passes a message on.
    """
    last = [0.0]

    def say(words: str, total: float | None, done: float, note: str) -> None:
        if time.monotonic() - last[0] > _PAUSE or done == total:
            last[0] = time.monotonic()
            send((words, total, done, note))

    _elsewhere.append(say)


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
