"""The progress bar of a training run: share done, rate, time left, loss and validation."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

Show = Callable[..., None]


@contextmanager
def training_bar(total: int | None, enabled: bool, what: str = "training") -> Iterator[Show]:
    """Show a bar on the terminal; off a terminal, or not enabled, nothing is written.

    Args:
        total: steps in all, None when unknown.
        enabled: whether to show it.
        what: the words before the bar.

    Yields:
        A function `show(done, loss=…, note=…)` that may be called at every step.

    >>> with training_bar(10, enabled=False) as show: show(3, loss=0.5)
    """
    console = Console(stderr=True)
    if not (enabled and console.is_terminal):
        yield lambda done, **_: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(20),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total, rate="", note="")
        began: list[tuple[float, float]] = []  # time and steps at the first call, which may go on from a checkpoint

        def show(done: int, note: str = "") -> None:
            began.append((time.monotonic(), done)) if not began else None
            passed = time.monotonic() - began[0][0]
            rate = f"{(done - began[0][1]) / passed:.0f} steps/s" if passed > 0.5 else ""
            bar.update(task, completed=done, rate=rate, note=note)

        yield show
