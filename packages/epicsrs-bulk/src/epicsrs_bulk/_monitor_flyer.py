"""The updates of many PVs during a flight, as a flyer for bluesky."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from epicsrs_bulk._columns import VALID, check_key, check_unique, data_key
from epicsrs_bulk._monitor_flight import MonitorFlight
from epicsrs_bulk._page_flyer import PageFlyer
from epicsrs_bulk._trace import DISCONNECTS, LOST, RECEIVED, SEVERITY, TIME

if TYPE_CHECKING:
    from collections.abc import Sequence

    from epicsrs_bulk._trace import Trace


class MonitorFlyer(PageFlyer):
    """Listens to many PVs from kickoff to complete, and yields what has come.

    With an ``interval`` the values stand on a common grid, in one stream: ``describe_collect`` is flat, for plans that
    say ``declare_stream(flyer, name=..., collect=True)``, and ``bp.fly`` takes ``flyer.nested()``. Without, each PV has
    a stream of its own called by its key, with a row for each update, for ``bp.fly([flyer])``.

    Beside each column ``key`` stand ``key_severity``; ``key_lost``, the updates lost before that row here, for want of
    room; and ``key_disconnects``, the connections lost before it. On the grid, ``key_valid`` says where the value is
    known: not before the first update, not across a lost connection or ``max_gap``, not where the record is INVALID. In
    a PV's own stream, ``key_time_ns`` is the IOC's time and ``key_received_ns`` ours.

    A server sends what changes by more than a record's deadband, and may leave out updates when the network is slow:
    what was never sent is not counted.

    Args:
        name: The flyer's, in documents and messages.
        traces: The PVs, at least one.
        interval: Seconds from one row to the next of the grid, by this machine's clock; None for no grid.
        time_key: The column of the grid's times in ns; ``<name>_time_ns`` by default.
        limit: Updates kept for each PV, the latest.
        io_timeout: Seconds for connecting and the first updates.
        clock_tolerance: Seconds by which an IOC's clock may differ from this machine's before ``complete`` fails.

    Raises:
        ImportError: ophyd is not installed, whose Status bluesky is given.
        ValueError: No trace, two columns of one name, an interval or a limit that is not positive.
    """

    def __init__(
        self,
        name: str,
        traces: Sequence[Trace],
        *,
        interval: float | None = None,
        time_key: str | None = None,
        limit: int = 100_000,
        io_timeout: float = 5.0,
        clock_tolerance: float = 1.0,
    ) -> None:
        if not traces:
            raise ValueError(f"{name}: a flyer needs at least one trace")
        for what, number in (
            ("interval", interval),
            ("limit", limit),
            ("io_timeout", io_timeout),
            ("clock_tolerance", clock_tolerance),
        ):
            if number is not None and not (math.isfinite(number) and number > 0):
                raise ValueError(f"{name}: {what} is positive, not {number!r}")
        super().__init__(name, io_timeout)
        self._traces = tuple(traces)
        self._interval = interval
        self._time_key = time_key or f"{name}{TIME}"
        check_key(self._time_key)
        self._options = (limit, io_timeout, clock_tolerance)
        self._beside = (
            (TIME, RECEIVED, SEVERITY, LOST, DISCONNECTS) if interval is None else (VALID, SEVERITY, LOST, DISCONNECTS)
        )
        check_unique([self._time_key, *(key for trace in traces for key in trace.describe(*self._beside))])

    def __repr__(self) -> str:
        return f"<MonitorFlyer {self.name}: {len(self._traces)} PVs>"

    def describe_collect(self) -> dict[str, Any]:
        """The data keys: of one stream where there is a grid, else by stream."""
        if self._interval is None:
            return {trace.key: trace.describe(*self._beside) for trace in self._traces}
        keys: dict[str, Any] = {self._time_key: data_key("this machine's clock", np.dtype(np.int64), "ns")}
        for trace in self._traces:
            keys |= trace.describe(*self._beside)
        return keys

    @property
    def _configuration(self) -> dict[str, str | float]:
        if self._interval is None:
            return {}
        settings: dict[str, str | float] = {f"{self.name}_interval": self._interval}
        for trace in self._traces:
            settings[f"{self.name}_{trace.key}_method"] = trace.method
            if trace.max_gap is not None:
                settings[f"{self.name}_{trace.key}_max_gap"] = trace.max_gap
        return settings

    def _cells(self) -> int | None:
        if self._interval is None:
            raise TypeError(f"{self.name}: a file holds one stream; give the flyer an interval, for a common grid")
        return None

    def _flight(self) -> MonitorFlight:
        return MonitorFlight(self.name, self._traces, self._interval, self._time_key, *self._options)
