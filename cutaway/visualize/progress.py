"""A progress bar with rate and time left, shown on a terminal only."""

import operator
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")


def track(items: Iterable[Item], words: str, show: bool = True) -> Iterator[Item]:
    """Go through items with a progress bar on stderr, if that is a terminal.

    Args:
        items: what to go through.
        words: what is being done.
        show: False for no bar.

    >>> list(track([1, 2], "counting"))
    [1, 2]
    """
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")
    started = time.perf_counter()
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not (show and console.is_terminal)
    ) as bar:
        task = bar.add_task(words, total=operator.length_hint(items) or None, rate="")
        for done, item in enumerate(items, start=1):
            yield item
            bar.update(task, completed=done, rate=f"{done / (time.perf_counter() - started):.1f}/s")
