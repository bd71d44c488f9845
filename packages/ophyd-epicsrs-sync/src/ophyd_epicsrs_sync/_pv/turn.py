"""A lock that goes to whoever waits for it."""

from __future__ import annotations

import threading
import time


class Turn:
    """A reentrant lock that nobody who asks again and again keeps from another who waits.

    `threading.RLock` goes to who comes first after a release, which mostly is the thread that has released it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Held by the one who is next.
        self._next = threading.Lock()
        self._owner: int | None = None
        self._depth = 0

    def acquire(self, timeout: float) -> bool:
        """True when this thread has it; False after so many seconds."""
        thread = threading.get_ident()
        if self._owner != thread:
            end = time.monotonic() + timeout
            if not self._next.acquire(timeout=timeout):
                return False
            try:
                if not self._lock.acquire(timeout=max(0.0, end - time.monotonic())):
                    return False
            finally:
                self._next.release()
            self._owner = thread
        self._depth += 1
        return True

    def release(self) -> None:
        """Give it back, by the thread that has it."""
        self._depth -= 1
        if not self._depth:
            self._owner = None
            self._lock.release()
