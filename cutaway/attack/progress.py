"""A progress bar for attacks that take more than a moment."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Tick = Callable[[str], None]


@contextmanager
def bar(name: str, steps: int, shown: bool) -> Iterator[Tick]:
    """Show steps done, time taken and time left on stderr when that is a terminal; call the result after each step.

    >>> with bar("pgd", 2, shown=False) as tick:
    ...     tick("3 of 8 examples left")
    """
    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(name, total=steps)
        yield lambda words: progress.update(task, advance=1, description=f"{name}: {words}")
