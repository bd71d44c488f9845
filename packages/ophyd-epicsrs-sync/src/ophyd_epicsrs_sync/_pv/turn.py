"""A lock that goes to whoever waits for it."""

from __future__ import annotations

import threading
from collections import deque


class Turn:
    """A reentrant lock that is handed over in the order of those who ask.

    `threading.RLock` goes to who comes first after a release, which mostly is the thread that has released it: one that
    asks again and again keeps it from all others.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._held = False
        self._owner: int | None = None
        self._depth = 0
        # Each waits for a lock of its own, which is released when it is its turn.
        self._waiting: deque[threading.Lock] = deque()

    def acquire(self, timeout: float) -> bool:
        """True when this thread has it; False after so many seconds."""
        thread = threading.get_ident()
        if self._owner != thread:
            if not self._queue(timeout):
                return False
            self._owner = thread
        self._depth += 1
        return True

    def _queue(self, timeout: float) -> bool:
        with self._mutex:
            if not self._held:
                self._held = True
                return True
            called = threading.Lock()
            called.acquire()
            self._waiting.append(called)
        if called.acquire(timeout=timeout):
            return True
        with self._mutex:
            # Else it was called in this moment.
            late = called in self._waiting
            if late:
                self._waiting.remove(called)
        return not late

    def release(self) -> None:
        """Give it back, by the thread that has it."""
        self._depth -= 1
        if self._depth:
            return
        self._owner = None
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._held = False
