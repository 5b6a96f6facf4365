"""A line on the terminal that says how far a long piece of work has come, and how long it takes."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

EVERY_S = 1.0
"""Seconds from one change of the line to the next."""

T = TypeVar("T")


def progress(work: str, items: Iterable[T], count: int) -> Iterator[T]:
    """The items, of which there are `count`; `work` says what is done to them.

    Nothing is written where stderr is no terminal; at the end the line is gone.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    start = last = time.monotonic()
    written = 0
    try:
        for done, item in enumerate(items):
            now = time.monotonic()
            if now - last >= EVERY_S:
                last = now
                line = progress_line(work, done, count, now - start)
                sys.stderr.write("\r" + line.ljust(written))
                sys.stderr.flush()
                written = len(line)
            yield item
    finally:
        if written:
            sys.stderr.write("\r" + " " * written + "\r")
            sys.stderr.flush()


def progress_line(work: str, done: int, count: int, seconds: float) -> str:
    """How far the work has come after `seconds`, at the pace so far."""
    line = f"  {work}: {done} of {count}"
    if not done:
        return line
    left = seconds / done * (count - done)
    time_left = f"{left:.0f} s" if left < 90 else f"{left / 60:.0f} min"
    return f"{line}, about {time_left} left"
