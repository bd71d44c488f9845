"""`EpicsSignal.set` without put completion: its Status ends when the readback is there, or can come no more.

ophyd looks for it, in a thread for each set, 10 ms after the put and then ever more seldom. It does not hear that the
server refused the put, nor that the connection was lost, and so looks until its timeout; by default for ever.
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from epicsrs_native import NotConnectedError
from ophyd_epicsrs_sync._pv import PV

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from types import TracebackType

# Seconds until a readback without a monitor is looked at again: first, and at most.
_FIRST: Final = 0.01
_MOST: Final = 0.16
_SCALARS: Final = (int, float, str)


def watched(set_and_wait: Callable[..., Any]) -> Callable[..., Any]:
    """`Signal._set_and_wait`, that for a signal of ours looks again with each update, and ends with a failed put."""

    def watched_set_and_wait(self: Any, value: Any, timeout: float | None, **keywords: Any) -> Any:
        if not isinstance(getattr(self, "_write_pv", None), PV):
            return set_and_wait(self, value, timeout, **keywords)
        with Ear(self) as ear:
            with self._write_pv.putting_alone():
                self.put(value, **keywords)
            _wait_for(self, value, timeout, ear)
        return None

    watched_set_and_wait.__doc__ = set_and_wait.__doc__
    return watched_set_and_wait


class Ear:
    """Hears of all that may end a set of a signal: an update, a refusal, a loss of the connection."""

    def __init__(self, signal: Any) -> None:
        self._signal = signal
        self._pvs: set[PV] = {signal._read_pv, signal._write_pv}  # noqa: SLF001
        self._putter = signal._write_pv.putter  # noqa: SLF001
        self._news = threading.Event()
        self._subscribed: int | None = None
        self._refusal: Exception | None = None
        self._loss: Exception | None = None

    def __enter__(self) -> Ear:
        for pv in self._pvs:
            pv.connection_callbacks.append(self._connection)
        self._putter.refusal_callbacks.append(self._refused)
        # Without a monitor there is nobody who tells of updates; one for this alone would cost more than to look.
        if self._signal._monitors[self._signal.pvname]:  # noqa: SLF001
            self._subscribed = self._signal.subscribe(self._updated, run=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._subscribed is not None:
            self._signal.unsubscribe(self._subscribed)
        for pv in self._pvs:
            # A PV that was released has forgotten them.
            with suppress(ValueError):
                pv.connection_callbacks.remove(self._connection)
        self._putter.refusal_callbacks.remove(self._refused)

    def _updated(self, **_: Any) -> None:
        self._news.set()

    def _refused(self, error: Exception) -> None:
        self._refusal = error
        self._news.set()

    def _connection(self, pvname: str, conn: bool, **_: Any) -> None:
        if not conn:
            self._loss = NotConnectedError(f"{pvname}: the connection was lost before the readback came", pvname)
            self._news.set()

    def goes_on(self, until: float) -> bool:
        """Whether an update comes before `until`: a readback that is near may be on its way still."""
        left = until - time.monotonic()
        return left > 0.0 and self._subscribed is not None and self._news.wait(left)

    def looks(self, timeout: float | None) -> Generator[None]:
        """One for each time that the readback has to be looked at, until `timeout` seconds are over; None is for ever.

        Raises:
            RemoteError: The server refused the put, and a look after that has not found the value.
            NotConnectedError: The connection was lost.
        """
        end = time.monotonic() + (math.inf if timeout is None else timeout)
        pause = _FIRST
        while True:
            if self._loss is not None:
                raise self._loss
            # Looked for before the look, which may find what another signal's put has brought.
            self._news.clear()
            refusal = self._refusal
            yield
            if refusal is not None:
                raise refusal
            left = end - time.monotonic()
            if left <= 0.0:
                return
            if self._refusal is None and self._loss is None:
                self._news.wait(min(pause, left))
            pause = min(2 * pause, _MOST)


def _is_exactly(value: object, current: object) -> bool:
    """Whether these are equal numbers or texts: most readbacks are, and numpy takes longer to say so than a put."""
    return isinstance(value, _SCALARS) and isinstance(current, _SCALARS) and value == current


def _may_be_compared(value: object, current: object, choices: Sequence[str]) -> bool:
    """Whether this can be what was set at all: of an array as many elements, of an enum a state that has a label."""
    if isinstance(value, list | tuple | np.ndarray):
        return not isinstance(current, np.ndarray) or np.size(cast("Any", value)) == np.size(current)
    states = [state for state in (value, current) if choices and isinstance(state, int)]
    return all(0 <= state < len(choices) for state in states)


def _wait_for(signal: Any, value: Any, timeout: float | None, ear: Ear) -> None:
    """Return when the signal reads `value`, within its tolerance; TimeoutError after `timeout` seconds."""
    compare = import_module("ophyd.utils.epics_pvs")._compare_maybe_enum  # noqa: SLF001 (as ophyd's own wait)
    ophyd_signal: Any = import_module("ophyd.signal")
    options: dict[str, Any] = {}
    if isinstance(value, list | tuple | np.ndarray):
        options["count"] = len(cast("Sequence[Any]", value))
    if getattr(signal.get, "__func__", None) is ophyd_signal.EpicsSignalBase.get:
        # Who waits for a lost connection does not hear of the loss.
        options["connection_timeout"] = _FIRST
    current = near_since = None
    for _ in ear.looks(timeout):
        try:
            current = signal.get(**options)
        except ophyd_signal.ConnectionTimeoutError:
            continue
        if _is_exactly(cast("Any", value), current):
            return
        choices = getattr(signal, "enum_strs", ())
        if (
            current is None
            or not _may_be_compared(value, current, choices)
            or not compare(value, current, choices, signal.tolerance, signal.rtolerance)
        ):
            near_since = None
            continue
        near_since = near_since or time.monotonic()
        is_exact = (
            choices
            or (signal.tolerance is None and signal.rtolerance is None)
            or np.array_equal(cast("Any", value), current)
        )
        if is_exact or not ear.goes_on(near_since + _MOST):
            return
    if near_since is not None:
        return
    raise TimeoutError(f"Attempted to set {signal!r} to {value!r}: {current!r} after {timeout} s")
