"""Which run a document belongs to."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from epicsrs_bulk._sink_errors import DocumentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from epicsrs_bulk._journal import Journal

# Each kind with the keys of the document that it belongs to, most telling first.
_BELONGS_TO = {
    "descriptor": ("run_start",),
    "event": ("descriptor",),
    "event_page": ("descriptor",),
    "resource": ("run_start",),
    "datum": ("resource",),
    "datum_page": ("resource",),
    "stream_resource": ("run_start",),
    "stream_datum": ("descriptor", "stream_resource"),
    "stop": ("run_start",),
}

R = TypeVar("R")


@dataclass(eq=False)
class Run:
    """One run on its way through a sink.

    Attributes:
        uid: Of its start document.
        journal: Where its documents are written first.
        error: The first reason why the target will not have all of it.
        settled: Set when the worker is done with it and its journal is closed, or nobody is to wait for that.
    """

    uid: str
    journal: Journal
    error: Exception | None = None
    settled: threading.Event = field(default_factory=threading.Event)


class Runs(Generic[R]):
    """Runs that have started and not stopped, by the uid of each of their documents that others refer to.

    What stands for a run is for the user to say: `R`.
    """

    def __init__(self) -> None:
        self._runs: dict[str, R] = {}

    def begin(self, doc: dict[str, Any], run: R) -> None:
        """A start document, and what stands for its run."""
        self._runs[doc["uid"]] = run

    def of(self, name: str, doc: dict[str, Any]) -> R:
        """The run of a document that is not its start; DocumentError where none has begun that it belongs to."""
        if name not in _BELONGS_TO:
            raise DocumentError(f"{name!r} is no kind of document that belongs to a run")
        for key in _BELONGS_TO[name]:
            if (run := self._runs.get(str(doc.get(key, "")))) is not None:
                break
        else:
            told = ", ".join(f"{key} {doc.get(key)!r}" for key in _BELONGS_TO[name])
            raise DocumentError(f"{name} {doc.get('uid', '')}: belongs to no run that started here ({told})")
        if name in ("descriptor", "resource", "stream_resource"):
            self._runs[str(doc.get("uid", ""))] = run
        return run

    def end(self, run: R) -> None:
        """Forget a run, at its stop or before."""
        self._runs = {uid: other for uid, other in self._runs.items() if other != run}

    def __iter__(self) -> Iterator[R]:
        """Each run once."""
        return iter(list(dict.fromkeys(self._runs.values())))
