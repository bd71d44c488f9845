"""Where documents go: what a sink and a replay ask of a target."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol, cast, runtime_checkable

logger = logging.getLogger("epicsrs.bulk")

Document = dict[str, Any]


@runtime_checkable
class Target(Protocol):
    """What takes the documents of runs, and can forget a run so that it can be written again.

    A sink and a replay call one target from one thread, and give it the documents of a run in their order; runs may be
    interleaved. Arrays in documents are read-only. What a target raises fails the delivery of that run, which stays in
    the journal, and of no other.

    A target may have two more methods. ``flush(timeout: float)`` is called after each stop document: when it returns,
    what the target took is where it belongs, else it raises. ``close()`` is called once, by `Sink.close`; a replay
    leaves a target open.
    """

    def __call__(self, name: str, doc: Document) -> object:
        """Take one document; when it returns, or at the latest when ``flush`` does, the document is safe."""
        ...

    def forget(self, run_uid: str) -> object:
        """Remove all that the target holds of this run, so that it can be written again from its start.

        Called before a run is replayed, whether or not the target knows it; a run it does not know is no error.
        """
        ...


class CallbackTarget:
    """Any document callback as a target, delivered to at least once.

    It cannot forget, so that a run which is replayed after a part of it was delivered arrives twice in part. A warning
    says so at each replay.

    Args:
        callback: Takes a name and a document, like any subscriber of a RunEngine. Its ``flush`` and ``close``, where
            it has them, are not called.
    """

    def __init__(self, callback: Callable[[str, Document], object]) -> None:
        if not callable(callback):
            raise TypeError(f"a target takes a name and a document; {callback!r} is not callable")
        self._callback = callback

    def __call__(self, name: str, doc: Document) -> object:
        return self._callback(name, doc)

    def forget(self, run_uid: str) -> None:
        """Warn that the callback may have seen the run, or a part of it, before."""
        logger.warning("%r cannot forget run %s: what it was given before, it is given again", self, run_uid)

    def __repr__(self) -> str:
        return f"CallbackTarget({self._callback!r})"


def as_target(target: Target | Callable[[str, Document], object]) -> Target:
    """The target itself, or a callback without ``forget`` as one; TypeError where it is neither."""
    forget = getattr(target, "forget", None)
    if callable(target) and callable(forget):
        return cast("Target", target)
    return CallbackTarget(target)


def flush(target: Target, timeout: float) -> None:
    """Wait until the target has made safe what it took, where it has a way to."""
    call = getattr(target, "flush", None)
    if callable(call):
        call(timeout)


def close(target: Target) -> None:
    """Close the target where it can be closed."""
    call = getattr(target, "close", None)
    if callable(call):
        call()
