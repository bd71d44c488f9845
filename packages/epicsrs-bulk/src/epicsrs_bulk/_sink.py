"""A subscriber of a RunEngine that loses no document: to the journal first, then to a target."""

from __future__ import annotations

import atexit
import logging
import math
import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypedDict

from epicsrs_bulk._journal import STRAY, UNDELIVERED, Journal
from epicsrs_bulk._journal_encoding import pack
from epicsrs_bulk._journal_folder import check_folder
from epicsrs_bulk._sink_errors import DeliveryError, DeliveryTimeoutError, DocumentError, JournalError, SinkError
from epicsrs_bulk._sink_exit import ExitOnSigterm
from epicsrs_bulk._sink_health import Outcomes, SinkHealth
from epicsrs_bulk._sink_queue import DeliveryQueue, Entry
from epicsrs_bulk._sink_runs import Run, Runs
from epicsrs_bulk._sink_worker import Worker
from epicsrs_bulk._target import Target, as_target

logger = logging.getLogger("epicsrs.bulk")


class SinkOptions(TypedDict, total=False):
    """The keywords of `Sink`, for classes that pass them on."""

    max_bytes: int
    queue_timeout: float
    stop_timeout: float
    on_error: Literal["raise", "degrade"]
    sigterm: bool


class Sink:
    """Takes the documents of a RunEngine, writes them to a journal, and delivers them to a target from its own thread.

    ``RE.subscribe(Sink(target, "journal"))``. When a call returns, the document is in the journal (see `Journal` for
    what that outlives), as a copy, and waits for the target. At the stop of a run the call waits until the target has
    all of it; then the run's journal is renamed from ``<uid>.journal`` to ``<uid>.delivered``. What stays behind as
    ``.journal`` (the target was down, the process was killed) is delivered by `replay`, or ``epicsrs-bulk replay``.
    Nothing is ever removed from the folder.

    A run that the target has refused, or whose documents found no room in time, is not given to it any further; its
    documents go to the journal, whole. What happens then is for `on_error` to say. The next run is delivered anew.

    At the exit of the process, also at SIGTERM, the sink is closed and waits up to `stop_timeout` for the target.

    Args:
        target: A `Target`, or any document callback (see `CallbackTarget`).
        journal_folder: Made where it is missing. No two sinks take the same run to one folder.
        max_bytes: How much may wait for the target, in the memory of this process.
        queue_timeout: Seconds that a document waits for room in the queue, in which the plan stands still.
        stop_timeout: Seconds that a stop document waits for the target, and the exit of the process. A run that
            takes longer is delivered in the background all the same.
        on_error: With "raise" the plan fails: the first error of a run is raised at its next document and at every
            one after it, its stop included, and what becomes known only after the stop, at the next document of
            another run. With "degrade" the plan goes on, and the error is logged. `flush` and `close` raise in
            either case.
        sigterm: Make SIGTERM, where nothing else handles it, an ordinary exit, so that the sink is closed. False for
            processes whose main thread does not return to Python, like the event loop of some GUIs.

    Raises:
        JournalError: The folder cannot be made or written.
        TypeError: The target cannot be called.
        ValueError: A timeout, a size or `on_error` makes no sense.
    """

    def __init__(
        self,
        target: Target | Callable[[str, dict[str, Any]], object],
        journal_folder: str | os.PathLike[str],
        *,
        max_bytes: int = 256 * 2**20,
        queue_timeout: float = 10.0,
        stop_timeout: float = 30.0,
        on_error: Literal["raise", "degrade"] = "raise",
        sigterm: bool = True,
    ) -> None:
        if max_bytes <= 0:
            raise ValueError(f"max_bytes is {max_bytes!r}; the queue needs room")
        if on_error not in ("raise", "degrade"):
            raise ValueError(f'on_error is "raise" or "degrade", not {on_error!r}')
        self._queue_timeout = _seconds("queue_timeout", queue_timeout)
        self._stop_timeout = _seconds("stop_timeout", stop_timeout)
        self._target = as_target(target)
        self._folder = check_folder(Path(journal_folder))
        self._raises = on_error == "raise"
        self._queue = DeliveryQueue(max_bytes)
        self._runs: Runs[Run] = Runs()
        self._outcomes = Outcomes()
        self._stray = Journal(self._folder, str(uuid.uuid4()), STRAY)
        self._intake = threading.Lock()
        self._documents = 0
        self._quarantined: list[str] = []
        self._unjournalled: list[str] = []
        self._closed = False
        self._pid = os.getpid()
        self._worker = Worker(
            f"epicsrs-bulk sink {self._folder}",
            self._queue,
            self._target,
            self._outcomes,
            self._fail,
            self._stop_timeout,
            self._close_journals,
        )
        if waiting := sorted(path.stem for path in self._folder.glob(f"*{UNDELIVERED}")):
            logger.warning(
                "%s: %d runs of before are not delivered (epicsrs-bulk replay): %s, ...",
                self._folder,
                len(waiting),
                waiting[0],
            )
        self._worker.start()
        atexit.register(self._exit)
        self._wants_exit = sigterm and ExitOnSigterm.want()

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take one document.

        Raises:
            JournalError: It could not be written; the message names the folder or file.
            DocumentError: No journal can hold it, or it belongs to no run that has started here. What is legible of
                it is kept in the run's journal.
            DeliveryError: The target has refused this document's run, or a run of before; the document itself is in
                the journal.
            DeliveryTimeoutError: The same, as the target is too slow; the message says what is stuck.
            SinkError: The sink is closed.
        """
        if os.getpid() != self._pid:
            raise SinkError(f"{self!r} belongs to another process: {name} not taken")
        with self._intake:
            if self._closed:
                raise SinkError(f"{self!r} is closed: {name} not taken")
            try:
                run = self._begin(doc) if name == "start" else self._runs.of(name, doc)
            except DocumentError as error:
                self._quarantine(self._stray, name, doc, error)
                self._tell(error)
                return
            self._take(run, name, doc)
            if name == "stop":
                self._runs.end(run)
        if name == "stop" and not run.settled.wait(self._stop_timeout) and run.error is None:
            late = f"run {run.uid}: not delivered within {self._stop_timeout:g} s, goes on in the background"
            self._tell(DeliveryTimeoutError(f"{late}: {self._queue.stuck()}"))
        elif (failure := self._outcomes.tell(run)) is not None and self._raises:
            raise failure.with_traceback(None)

    def flush(self, timeout: float = 30.0) -> None:
        """Wait until the target has taken all there is.

        Raises:
            DeliveryTimeoutError: It has not, within so many seconds.
            DeliveryError: There are runs that it has not taken whole; they are in the journal.
        """
        self._flush(time.monotonic() + _seconds("timeout", timeout), timeout)

    def close(self, timeout: float = 30.0) -> None:
        """Take no more documents, wait as `flush` does, and close the target; raises what `flush` raises.

        Whatever happens the sink is closed afterwards: what the target has not taken by then stays in the journal.
        Another call does nothing.
        """
        deadline = time.monotonic() + _seconds("timeout", timeout)
        with self._intake:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self._exit)
        if self._wants_exit:
            ExitOnSigterm.unwant()
        self._queue.close()
        try:
            self._flush(deadline, timeout)
        finally:
            self._worker.join(max(deadline - time.monotonic(), 0.0))
        if (error := self._worker.closing_error) is not None:
            raise DeliveryError(f"{self!r}: closing the target: {error}") from error

    def health(self) -> SinkHealth:
        """What is queued, delivered and wrong now."""
        failed = self._outcomes.failed
        return SinkHealth(
            journal=self._folder,
            documents=self._documents,
            queued=len(self._queue),
            queued_bytes=self._queue.bytes,
            delivering=self._queue.delivering,
            started=tuple(run.uid for run in self._runs),
            delivered=self._outcomes.delivered,
            undelivered={run.uid: str(run.error) for run in failed},
            unjournalled=tuple(self._unjournalled),
            quarantined=tuple(self._quarantined),
            error=failed[0].error if failed else None,
            closed=self._closed,
        )

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(self._stop_timeout)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._target!r}, {str(self._folder)!r})"

    def _flush(self, deadline: float, timeout: float) -> None:
        if not self._queue.wait_empty(max(deadline - time.monotonic(), 0.0)):
            raise DeliveryTimeoutError(f"{self!r}: not delivered within {timeout:g} s: {self._queue.stuck()}")
        self._outcomes.raise_failed(self)

    def _begin(self, doc: dict[str, Any]) -> Run:
        uid = doc.get("uid")
        if not isinstance(uid, str) or not uid:
            raise DocumentError(f"start: its uid is {uid!r}")
        run = Run(uid, Journal(self._folder, uid))
        self._runs.begin(doc, run)
        try:
            run.journal.open()
        except JournalError as error:
            self._unwritten(run, error)
        return run

    def _take(self, run: Run, name: str, doc: dict[str, Any]) -> None:
        """To the journal and into the queue, or to the reason why not."""
        self._documents += 1
        kept = False
        try:
            payload = pack(name, doc)
            if run.journal.writable:
                try:
                    run.journal.append(name, payload)
                except JournalError as error:
                    self._unwritten(run, error)
            kept = True
            if run.error is None:
                self._queue.put(Entry(run, name, payload), self._queue_timeout)
        except DocumentError as error:
            self._quarantine(run.journal, name, doc, error)
            self._fail(run, error)
        except DeliveryTimeoutError as error:
            run.settled.set()
            self._fail(run, error)
        except BaseException as error:
            # Ctrl-C, or an exit: what follows would come after a gap.
            run.settled.set()
            self._fail(run, DeliveryError(f"{name} of run {run.uid}: taking it was broken off by {error!r}"))
            if not kept:
                self._quarantine(run.journal, name, doc, error)
            raise
        if run.error is not None and name == "stop":
            self._queue.put(Entry(run, name, b""), 0.0)

    def _unwritten(self, run: Run, error: JournalError) -> None:
        """A run is not whole in the journal. Where the plan shall go on, the target is the only place left for it."""
        self._unjournalled.append(run.uid)
        if self._raises:
            self._fail(run, error)
        else:
            logger.error("%r: run %s goes to the target without a journal: %s", self, run.uid, error)

    def _quarantine(self, journal: Journal, name: str, doc: dict[str, Any], error: BaseException) -> None:
        """Keep what is legible of a document that cannot be delivered."""
        self._quarantined.append(f"{name} {doc.get('uid', '')}".rstrip())
        try:
            if journal is self._stray and not journal.made:
                journal.open()
            journal.quarantine(name, doc, error)
        except SinkError as also:
            logger.error("%r: %s %s is lost: %s", self, name, doc.get("uid", ""), also)

    def _tell(self, error: Exception) -> None:
        if self._raises:
            raise error.with_traceback(None)
        logger.error("%r: %s", self, error)

    def _fail(self, run: Run, error: Exception) -> None:
        if self._outcomes.fail(run, error):
            logger.error("%r: run %s is not delivered: %s", self, run.uid, error)

    def _close_journals(self) -> None:
        """At the end of the worker: before that, others are kept from a replay of the runs that it delivers."""
        for run in self._runs:
            run.journal.close()
        self._stray.close()

    def _exit(self) -> None:
        """At the exit of the process, where nobody closed the sink."""
        if os.getpid() != self._pid:
            return
        try:
            self.close(self._stop_timeout)
        except SinkError as error:
            logger.error("at exit: %s", error)


def _seconds(name: str, value: float) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is a number of seconds, not {value!r}")
    return value
