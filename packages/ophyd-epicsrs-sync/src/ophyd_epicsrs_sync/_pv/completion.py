"""What becomes of a put that nobody waits for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from epicsrs_native import AccessDeniedError
from ophyd_epicsrs_sync._pv import callbacks

if TYPE_CHECKING:
    from collections.abc import Callable

    from ophyd_epicsrs_sync._pv.writable import Writable

logger = logging.getLogger("ophyd.epicsrs")


@runtime_checkable
class HearsFailure(Protocol):
    """A put callback that also wants to know of a failure; pyepics has no word for it."""

    def __call__(self, **keywords: Any) -> object: ...
    def failed(self, error: Exception) -> object: ...


class Completion:
    """Ends a put on the get_put lane: the callback hears of a success, and of a failure if it can.

    A failure that the callback cannot hear of is logged, and the callback is not called: to it, a call is a success.
    """

    def __init__(self, pv: Writable, value: object, callback: Callable[..., object] | None, data: Any) -> None:
        self._pv = pv
        self._is_over = False
        self._value = value
        self._callback = callback
        self._data = data

    def __call__(self, submitted: Any) -> None:
        self._end(submitted.exception())

    def lose_access(self) -> None:
        """The server does not let us write any more: the answer to what it took before would be nobody's success."""
        pv = self._pv.pvname
        self._end(AccessDeniedError(f"{pv}: write access was lost before the put was finished", pv))

    def _end(self, error: Exception | None) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._pv.pending.discard(self)
        self._pv.put_complete = error is None
        if error is None:
            self.succeeded()
        elif (failed := _failed(self._callback)) is not None:
            callbacks.run(failed, self._pv.pvname, error)
        else:
            logger.error(
                "%s: the put of %r failed, and no caller waits for it: %s", self._pv.pvname, self._value, error
            )

    def succeeded(self) -> None:
        """Call back as pyepics does: with `data=`, or with the keywords that a dict of data holds."""
        if self._callback is None:
            return
        data = self._data
        keywords = cast("dict[str, Any]", data) if isinstance(data, dict) else {"data": data}
        callbacks.run(self._callback, self._pv.pvname, **{"pvname": self._pv.pvname, **keywords})


def _failed(callback: Callable[..., object] | None) -> Callable[[Exception], object] | None:
    """Where a failure is heard: by the callback itself, or by the Status whose method it is."""
    if isinstance(callback, HearsFailure):
        return callback.failed
    return getattr(getattr(callback, "__self__", None), "set_exception", None)
