"""From journals to a target, as often as one likes."""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from epicsrs_bulk._files import RENAMES_OPEN_FILES
from epicsrs_bulk._journal import DELIVERED, QUARANTINED, JournalReader, mark_delivered, run_uid
from epicsrs_bulk._journal_folder import journals
from epicsrs_bulk._sink_errors import DocumentError, JournalError, SinkError
from epicsrs_bulk._target import Document, Target, as_target
from epicsrs_bulk._target import flush as flush_target

Outcome = Literal["delivered", "skipped", "empty", "in use", "failed", "not tried"]

# So many runs of which the target took no document, one after the other, and it is taken to be down.
_DOWN = 3

# Makes the uid of a stop document that a run never had, always the same for the same journal.
_STOPS = uuid.UUID("b3a0a5f3-5a0e-4a5c-9c5b-6f0f0c3a7c11")


@dataclass(frozen=True)
class RunReport:
    """What a replay has done with one journal.

    Attributes:
        path: The journal, by the name that it had before.
        run_uid: The run in it.
        outcome: "delivered"; "skipped", as it was delivered before; "empty", as its process ended before the first
            document was written; "in use" by a sink or another replay; "failed"; or "not tried", as the target took no
            document of three runs before it.
        documents: How many the target was given, a stop document that was made up included.
        complete: Whether the run has a stop of its own.
        unread: Bytes at the end of the journal that are no whole document.
        quarantined: Documents that could not be written when they came, by kind and uid; the target has not got them.
        error: Why it failed.
    """

    path: Path
    run_uid: str
    outcome: Outcome
    documents: int = 0
    complete: bool = True
    unread: int = 0
    quarantined: tuple[str, ...] = ()
    error: Exception | None = None


@dataclass(frozen=True)
class ReplayReport:
    """What a replay has done, journal by journal, oldest first."""

    runs: tuple[RunReport, ...]

    @property
    def ok(self) -> bool:
        """Whether every run is delivered now, and none lacks a document that could not be written."""
        return all(run.outcome in ("delivered", "skipped", "empty") and not run.quarantined for run in self.runs)

    def count(self, outcome: Outcome) -> int:
        """How many runs had this outcome."""
        return sum(run.outcome == outcome for run in self.runs)


def replay(
    journal: str | os.PathLike[str],
    target: Target | Callable[[str, Document], object],
    *,
    again: bool = False,
    timeout: float = 60.0,
    progress: Callable[[Path, int], object] | None = None,
) -> ReplayReport:
    """Deliver the runs in a journal that a target has not got.

    Each run that is not marked as delivered is forgotten by the target and written again from its start, then marked.
    So a replay may be broken off anywhere, and another one mends it; one more changes nothing. A run that fails is in
    the report, and the others are delivered all the same, unless the target is down.

    A run without a stop document, whose process ended before, gets one here, so that nobody waits for its end: with
    ``exit_status`` "fail", a ``reason`` that begins with "incomplete", the time of its last document, the number of
    events of each stream, and a ``uid`` that is the same in each replay. The journal stays as it is.

    Args:
        journal: A sink's folder, or the file of one run.
        target: A `Target`, or any document callback, which gets documents at least once.
        again: Deliver also what is marked as delivered: to another target, or to one that has lost it.
        timeout: Seconds for the target's ``flush`` after each run.
        progress: Called with the journal and the bytes read, after each document.

    Raises:
        JournalError: There is no such file or folder.
        TypeError: The target cannot be called.
    """
    taker = as_target(target)
    reports: list[RunReport] = []
    refused = 0
    for path in journals(Path(journal)):
        if refused >= _DOWN and path.suffix != DELIVERED:
            reports.append(RunReport(path, run_uid(path), "not tried"))
            continue
        report = _replay_run(path, taker, again, timeout, progress)
        reports.append(report)
        if report.outcome in ("delivered", "failed") and not isinstance(report.error, SinkError):
            refused = 0 if report.documents else refused + 1
    return ReplayReport(tuple(reports))


def _replay_run(
    path: Path, target: Target, again: bool, timeout: float, progress: Callable[[Path, int], object] | None
) -> RunReport:
    try:
        reader = JournalReader(path)
    except JournalError as error:
        if isinstance(error.__cause__, FileNotFoundError) and path.with_suffix(DELIVERED).exists():
            return RunReport(path, run_uid(path), "skipped")  # by another replay, meanwhile
        return RunReport(path, run_uid(path), "failed", error=error)
    with reader:
        if path.suffix == DELIVERED and not again:
            return RunReport(path, reader.run_uid, "skipped")
        if not reader.lock():
            return RunReport(path, reader.run_uid, "in use" if path.exists() else "skipped")
        return _Delivery(reader, target, timeout, progress).run()


class _Delivery:
    """One run on its way from its journal to the target."""

    def __init__(
        self,
        reader: JournalReader,
        target: Target,
        timeout: float,
        progress: Callable[[Path, int], object] | None,
    ) -> None:
        self._reader = reader
        self._target = target
        self._timeout = timeout
        self._progress = progress
        self._times = np.zeros(1)
        self._streams: dict[str, str] = {}
        self._events: Counter[str] = Counter()
        self._in_files: Counter[str] = Counter()
        self._documents = 0
        self._complete = False
        self._quarantined: list[str] = []

    def run(self) -> RunReport:
        try:
            self._deliver()
            if self._documents or not self._quarantined:
                flush_target(self._target, self._timeout)
                if self._reader.path.suffix != DELIVERED:
                    if not RENAMES_OPEN_FILES:
                        self._reader.close()
                    mark_delivered(self._reader.path)
        except Exception as error:
            return self._report("failed", error)
        if self._documents:
            return self._report("delivered")
        if self._quarantined:
            return self._report("failed", DocumentError("it has no start document"))
        return self._report("empty")

    def _deliver(self) -> None:
        """All documents, from the start to a stop."""
        for name, doc, length in self._reader:
            if name == QUARANTINED:
                self._quarantined.append(f"{doc['name']} {doc['document'].get('uid', '')}".rstrip())
            else:
                if not self._documents:
                    self._target.forget(self._reader.run_uid)
                self._give(name, doc)
            if self._progress is not None:
                self._progress(self._reader.path, length)
        if self._documents and not self._complete:
            self._give("stop", self._stop())
            self._complete = False

    def _give(self, name: str, doc: Document) -> None:
        try:
            self._target(name, doc)
        except Exception as error:
            error.add_note(f"{name} {doc.get('uid', '')}, document {self._documents + 1} of {self._reader.path}")
            raise
        self._documents += 1
        self._complete = name == "stop"
        if name == "descriptor":
            self._streams[doc["uid"]] = doc.get("name", "primary")
            self._events[doc.get("name", "primary")] += 0
        elif name in ("event", "event_page"):
            rows = len(doc["uid"]) if name == "event_page" else 1
            self._events[self._streams.get(doc["descriptor"], "primary")] += rows
        elif name == "stream_datum":
            # One for each data key, about the same rows.
            stream = self._streams.get(doc["descriptor"], "primary")
            self._events[stream] += 0
            self._in_files[stream] = max(self._in_files[stream], doc.get("seq_nums", {}).get("stop", 1) - 1)
        if len(times := np.ravel(doc.get("time", ()))):
            self._times = times

    def _stop(self) -> Document:
        """The end of a run that has none."""
        uid = self._reader.run_uid
        return {
            "uid": str(uuid.uuid5(_STOPS, f"{uid} {self._documents}")),
            "run_start": uid,
            "time": float(self._times[-1]),
            "exit_status": "fail",
            "reason": "incomplete: the journal of this run has no stop document",
            "num_events": {stream: max(rows, self._in_files[stream]) for stream, rows in self._events.items()},
        }

    def _report(self, outcome: Outcome, error: Exception | None = None) -> RunReport:
        return RunReport(
            self._reader.path,
            self._reader.run_uid,
            outcome,
            self._documents,
            self._complete,
            self._reader.unread,
            tuple(self._quarantined),
            error,
        )
