"""The thread of a sink that gives documents to the target."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from epicsrs_bulk._journal_encoding import unpack
from epicsrs_bulk._sink_errors import DeliveryError
from epicsrs_bulk._target import close as close_target
from epicsrs_bulk._target import flush as flush_target

if TYPE_CHECKING:
    from collections.abc import Callable

    from epicsrs_bulk._sink_health import Outcomes
    from epicsrs_bulk._sink_queue import DeliveryQueue, Entry
    from epicsrs_bulk._sink_runs import Run
    from epicsrs_bulk._target import Target


class Worker:
    """Delivers what is in a queue, run by run, until the queue is closed and empty; then closes the target.

    Args:
        name: Of the thread.
        queue: Where the documents come from.
        target: Used in the worker's thread only.
        outcomes: Told of each run that the target has taken.
        fail: Called with a run that it has not, and why.
        flush_timeout: Seconds for the target's ``flush`` after each run.
        at_end: Called when the target is closed.

    Attributes:
        closing_error: Why the target could not be closed.
    """

    def __init__(
        self,
        name: str,
        queue: DeliveryQueue,
        target: Target,
        outcomes: Outcomes,
        fail: Callable[[Run, Exception], None],
        flush_timeout: float,
        at_end: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._target = target
        self._outcomes = outcomes
        self._fail = fail
        self._flush_timeout = flush_timeout
        self._at_end = at_end
        self.closing_error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait for the end, for so many seconds at most."""
        self._thread.join(timeout)

    def _work(self) -> None:
        while (entry := self._queue.get()) is not None:
            try:
                self._deliver(entry)
            finally:
                self._queue.done()
        try:
            close_target(self._target)
        except Exception as error:
            self.closing_error = error
        self._at_end()

    def _deliver(self, entry: Entry) -> None:
        run, name, payload = entry
        try:
            if run.error is None:
                self._target(*unpack(payload))
                if name == "stop":
                    flush_target(self._target, self._flush_timeout)
                    run.journal.mark_delivered()
                    self._outcomes.deliver(run)
        except BaseException as error:  # whatever a callback raises, SystemExit too: this thread serves other runs
            failure = DeliveryError(f"{self._target!r} did not take {entry}: {type(error).__name__}: {error}")
            failure.__cause__ = error
            self._fail(run, failure)
        if name == "stop":
            run.journal.close()
            run.settled.set()
