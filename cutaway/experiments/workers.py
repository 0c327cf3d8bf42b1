"""Jobs that do not depend on each other, each in a process of its own."""

import os
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from cutaway.errors import ArgumentError, CutawayError
from cutaway.progress import bars, send_bars


def side_by_side(
    jobs: Mapping[str, Callable[[], Any]], workers: int | None = 1, progress: bool = True
) -> dict[str, Any]:
    """Do jobs, several at a time, and give their results in the order of the jobs.

    Args:
        jobs: functions by name; with more than one worker they travel to another process, so that they and their
            results must be picklable, and the script that calls this must guard its beginning by
            `if __name__ == "__main__":`.
        workers: processes at a time, each with its share of the cores; None for one per core; 1 to stay in this one.
        progress: show the bars of all jobs on the terminal.

    Raises:
        ArgumentError: workers below 1.
        CutawayError: what a job raised, or that its process ended without a word; the others are stopped.
        KeyboardInterrupt: a job was interrupted; each had the time to keep what it had.

    >>> from functools import partial
    >>> side_by_side({"a": partial(max, 1, 2), "b": partial(min, 1, 2)})
    {'a': 2, 'b': 1}
    """
    if workers is not None and workers < 1:
        raise ArgumentError(f"workers={workers}: expected at least 1, or None for one per core")
    cores = os.cpu_count() or 1
    number = min(workers or cores, len(jobs))
    if number <= 1:
        return {name: job() for name, job in jobs.items()}
    waiting, running, results = list(jobs), {}, {}
    context = get_context("spawn")  # a fork would copy threads that are not there
    with bars(progress) as show:
        try:
            while waiting or running:
                while waiting and len(running) < number:
                    name = waiting.pop(0)
                    here, there = context.Pipe(duplex=False)
                    process = context.Process(target=_work, args=(name, jobs[name], there, max(1, cores // number)))
                    process.start()
                    there.close()
                    running[here] = name, process
                for pipe in wait(list(running)):
                    name, process = running[pipe]
                    kind, said = _heard(pipe, name)
                    if kind == "bar":
                        words, total, done, note = said
                        show(name, f"{name}: {words}", total, done, note)
                        continue
                    del running[pipe]
                    process.join()
                    if kind == "failed":
                        raise said
                    results[name] = said
        finally:
            for _, process in running.values():
                process.terminate()
            for _, process in running.values():
                process.join()
    return {name: results[name] for name in jobs}


def _heard(pipe: Any, name: str) -> tuple[str, Any]:
    try:
        return pipe.recv()
    except EOFError:
        return "failed", CutawayError(
            f"the process of {name} ended without a word: it was killed, or memory ran out; "
            "try fewer workers, or workers=1 to see it fail here"
        )


def _work(name: str, job: Callable[[], Any], pipe: Connection, threads: int) -> None:
    """What a process does. Ctrl-C reaches the first process alone, which then asks this one to stop, once."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    torch.set_num_threads(threads)
    send_bars(lambda message: pipe.send(("bar", message)))
    try:
        pipe.send(("done", job()))
    except (CutawayError, KeyboardInterrupt) as error:
        pipe.send(("failed", error))
    except Exception:  # whatever it is, it must be seen on the other side
        pipe.send(("failed", CutawayError(f"{name} failed:\n{traceback.format_exc()}")))
