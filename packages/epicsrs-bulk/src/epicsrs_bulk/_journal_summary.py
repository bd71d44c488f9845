"""What is in the journal of one run, in a line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from epicsrs_bulk._journal import DELIVERED, QUARANTINED, JournalReader

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class JournalSummary:
    """One run in a journal.

    Attributes:
        run_uid: The run's.
        size: Of the file, in bytes.
        state: "delivered", "undelivered" or "in use".
        time: Of its start, UNIX seconds; None where it has none.
        plan: The name of its plan, and its scan_id.
        documents: How many.
        events: Rows of all its streams.
        ended: The exit status; "no stop" where it has none.
        notes: What is missing.
    """

    run_uid: str
    size: int
    state: str
    time: float | None = None
    plan: str = ""
    documents: int = 0
    events: int = 0
    ended: str = "no stop"
    notes: list[str] = field(default_factory=list[str])


def summary(path: Path) -> JournalSummary:
    """Read a journal through; JournalError where it cannot be read."""
    with JournalReader(path) as reader:
        state = "delivered" if path.suffix == DELIVERED else "in use" if reader.in_use() else "undelivered"
        run = JournalSummary(reader.run_uid, reader.size, state)
        for name, doc, _ in reader:
            if name == QUARANTINED:
                run.notes.append(f"{doc['name']} quarantined: {doc['error']}")
                continue
            run.documents += 1
            if name == "start":
                run.time = doc.get("time")
                run.plan = " ".join(str(doc[key]) for key in ("plan_name", "scan_id") if key in doc)
            elif name == "stop":
                run.ended = doc.get("exit_status", "?")
            elif name in ("event", "event_page"):
                run.events += len(doc["uid"]) if name == "event_page" else 1
        if reader.unread and state != "in use":
            run.notes.append(f"{reader.unread} bytes at the end are no document")
    return run
