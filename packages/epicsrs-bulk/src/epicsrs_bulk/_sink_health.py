"""What has become of the runs of a sink."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from epicsrs_bulk._sink_errors import DeliveryError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from epicsrs_bulk._sink_runs import Run


@dataclass(frozen=True)
class SinkHealth:
    """How a sink is doing.

    Attributes:
        journal: Its folder.
        documents: Documents taken from the plan.
        queued: Documents that the target has not taken yet, the one it is taking included.
        queued_bytes: Their size.
        delivering: What the target is taking now, and for how long.
        started: Uids of runs without a stop.
        delivered: Uids of runs that the target has taken, from start to stop.
        undelivered: Uids of runs that it has not taken whole, with the first reason of each.
        unjournalled: Uids of runs that are not whole in the journal; `replay` cannot make up for them.
        quarantined: Documents that no journal can hold or that belong to no run, by kind and uid.
        error: The first error of the undelivered runs.
        closed: Whether the sink takes no more.
    """

    journal: Path
    documents: int
    queued: int
    queued_bytes: int
    delivering: str | None
    started: tuple[str, ...]
    delivered: tuple[str, ...]
    undelivered: Mapping[str, str]
    unjournalled: tuple[str, ...]
    quarantined: tuple[str, ...]
    error: Exception | None
    closed: bool


class Outcomes:
    """What has become of runs so far; the plan and the worker write it, anybody reads it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._delivered: list[str] = []
        self._failed: dict[str, Run] = {}
        self._untold: list[Run] = []

    def deliver(self, run: Run) -> None:
        """The target has all of it."""
        with self._lock:
            self._delivered.append(run.uid)

    def fail(self, run: Run, error: Exception) -> bool:
        """The target will not have all of it; whether this is the first reason."""
        with self._lock:
            first = run.error is None
            if first:
                run.error = error
                self._failed[run.uid] = run
                self._untold.append(run)
            return first

    def tell(self, run: Run) -> Exception | None:
        """The error of this run, each time, or one of another run that nobody was told of, once."""
        with self._lock:
            failed = run if run.error is not None else next(iter(self._untold), None)
            if failed in self._untold:
                self._untold.remove(failed)
            return None if failed is None else failed.error

    @property
    def delivered(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._delivered)

    @property
    def failed(self) -> tuple[Run, ...]:
        """The runs that the target will not have whole, in the order of their failures."""
        with self._lock:
            return tuple(self._failed.values())

    def raise_failed(self, sink: object) -> None:
        """DeliveryError where there are runs that have failed: which, why, and what is left of them."""
        if not (failed := self.failed):
            return
        told = "; ".join(f"{run.error} ({'' if run.journal.whole else 'NOT '}whole in the journal)" for run in failed)
        raise DeliveryError(f"{sink!r}: {len(failed)} runs not delivered: {told}") from failed[0].error
