"""Ctrl-C and polite termination: noted at once, obeyed at the end of the step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Wish:
    """Whether the user wants to stop."""

    stop: bool = False


@contextmanager
def interruptible() -> Iterator[Wish]:
    """Turn the first Ctrl-C (or SIGTERM) into a wish; the second one stops at once as usual.

    Outside the main thread signals cannot be caught, and nothing is changed.

    >>> with interruptible() as wish: print(wish.stop)
    False
    """
    wish = Wish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        if wish.stop:
            raise KeyboardInterrupt
        wish.stop = True

    for number in before:
        signal.signal(number, note)
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
