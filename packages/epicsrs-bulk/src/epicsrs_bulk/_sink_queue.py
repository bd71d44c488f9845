"""What a sink has written to the journal and the target has not taken: a queue bounded in bytes."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import NamedTuple

from epicsrs_bulk._sink_errors import DeliveryTimeoutError
from epicsrs_bulk._sink_runs import Run


class Entry(NamedTuple):
    """A document for the worker; without payload the end of a run whose delivery has failed."""

    run: Run
    name: str
    payload: bytes

    def __str__(self) -> str:
        return f"{self.name} of run {self.run.uid}"


class DeliveryQueue:
    """Documents in order, from the plan to the one worker.

    Args:
        max_bytes: How much may wait, the document that the target is taking included. One document is let in always.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: deque[Entry] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._delivering: Entry | None = None
        self._since = 0.0
        self.bytes = 0

    def put(self, entry: Entry, timeout: float) -> None:
        """Wait for room, then queue it; DeliveryTimeoutError where there was none in time."""
        size = len(entry.payload)
        with self._changed:
            room = self._changed.wait_for(lambda: not self.bytes or self.bytes + size <= self._max_bytes, timeout)
            if not room and size:
                raise DeliveryTimeoutError(f"no room for {entry} within {timeout:g} s: {self.stuck()}")
            self._entries.append(entry)
            self.bytes += size
            self._changed.notify_all()

    def get(self) -> Entry | None:
        """The next, once there is one; None when the queue is closed and empty. `done` has to follow."""
        with self._changed:
            self._changed.wait_for(lambda: self._entries or self._closed)
            if not self._entries:
                return None
            self._delivering = self._entries.popleft()
            self._since = time.monotonic()
            return self._delivering

    def done(self) -> None:
        """The entry that `get` returned last is dealt with."""
        with self._changed:
            if self._delivering is not None:
                self.bytes -= len(self._delivering.payload)
            self._delivering = None
            self._changed.notify_all()

    def wait_empty(self, timeout: float) -> bool:
        """Whether everything was dealt with in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._entries and self._delivering is None, timeout)

    def close(self) -> None:
        """Let the worker end when nothing is left."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        with self._changed:
            return len(self._entries) + (self._delivering is not None)

    def stuck(self) -> str:
        """What waits, and what the target is doing meanwhile."""
        with self._changed:
            waiting = f"{len(self._entries)} documents wait, {self.bytes} bytes"
            if self._delivering is None:
                return waiting
            return f"{waiting}; the target has been taking {self._delivering} for {self._time():.3g} s"

    @property
    def delivering(self) -> str | None:
        """What the target is taking now."""
        with self._changed:
            return None if self._delivering is None else f"{self._delivering}, for {self._time():.3g} s"

    def _time(self) -> float:
        return time.monotonic() - self._since
