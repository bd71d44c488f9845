"""Waiting for a condition, with a deadline."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Between two looks at a condition, in seconds.
PAUSE = 0.002


def until(condition: Callable[[], T], timeout: float = 5.0, what: Callable[[], object] | None = None) -> T:
    """Wait until condition() is true and return it; AssertionError, with what(), after timeout seconds."""
    end = time.monotonic() + timeout
    while not (state := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s; {state if what is None else what()!r}")
        time.sleep(PAUSE)
    return state


async def eventually(condition: Callable[[], T], timeout: float = 5.0) -> T:
    """The same beside a running event loop."""
    end = time.monotonic() + timeout
    while not (state := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s; {state!r}")
        await asyncio.sleep(PAUSE)
    return state


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._start
