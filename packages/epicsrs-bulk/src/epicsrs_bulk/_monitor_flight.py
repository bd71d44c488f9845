"""One flight that listens: updates of many PVs, from kickoff to complete."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any

import numpy as np

from epicsrs_bulk._columns import frozen
from epicsrs_bulk._errors import FlightDataError, FlightError, FlightStoppedError
from epicsrs_bulk._flight import Flight, Outcome, settle
from epicsrs_bulk._trace import Recording
from epicsrs_native import Channel, Delivery, EpicsError, Reading, get_context

if TYPE_CHECKING:
    from collections.abc import Sequence

    from epicsrs_bulk._trace import Trace


# Seconds that a server's last updates may take longer than its answer to a read, and between two looks at them.
_ON_THEIR_WAY = 0.2
_PAUSE = 0.005


class MonitorFlight(Flight):
    """A flight that ends when somebody waits for its end.

    Args:
        name: The flyer's.
        traces: The PVs.
        interval: Seconds from one row to the next of a common grid; None for a stream for each PV.
        time_key: The grid's times.
        limit: Updates kept for each PV.
        io_timeout: Seconds for connecting and the first updates.
        clock_tolerance: Seconds by which an IOC's clock may differ from ours.
    """

    def __init__(
        self,
        name: str,
        traces: Sequence[Trace],
        interval: float | None,
        time_key: str,
        limit: int,
        io_timeout: float,
        clock_tolerance: float,
    ) -> None:
        super().__init__(name)
        self._interval = interval
        self._time_key = time_key
        self._io_timeout = io_timeout
        self._tolerance = clock_tolerance
        self._limit = limit
        self._recordings = [Recording(trace, limit) for trace in traces]
        self._lane = Delivery(f"{name}-monitor")

    def fly(self) -> Outcome:
        channels: list[Channel] = []
        lane = threading.Thread(target=self._lane.run, name=self._lane.name, daemon=True)
        lane.start()
        try:
            channels.extend(get_context().channel(recording.trace.pv) for recording in self._recordings)
            self._listen(channels)
            self.rows.begin(None)
            began = time.time_ns()
            settle(self.started, None)
            signals: list[Future[Any]] = [self.finishing, self.broken]
            wait(signals, return_when="FIRST_COMPLETED")
            ended = time.time_ns()
            settle(self.disarmed, None)
            self._catch_up(channels)
        except (EpicsError, TypeError, ValueError) as error:
            return Outcome(
                (), self.error(FlightError, f"{'failed' if self.started.done() else 'not started'}: {error}", error)
            )
        finally:
            for channel in channels:
                channel.close()
            self._lane.close()
            lane.join()
        return self._outcome(began, ended)

    def _listen(self, channels: list[Channel]) -> None:
        """Subscribe to all; return when each has had its first update."""
        deadline = time.monotonic() + self._io_timeout
        for error in get_context().connect_many(channels, timeout=self._io_timeout):
            if error is not None:
                raise error
        for channel, recording in zip(channels, self._recordings, strict=True):
            recording.trace.check(channel.get(timeout=max(deadline - time.monotonic(), 0.0)))
        for channel, recording in zip(channels, self._recordings, strict=True):
            channel.on_connection(recording.connection, delivery=self._lane)
            recording.subscription = channel.monitor(
                recording.take,
                delivery=self._lane,
                queue=self._limit,
                timeout=max(deadline - time.monotonic(), 0.0),
            )

    def _catch_up(self, channels: list[Channel]) -> None:
        """Until updates that are on their way have been recorded, as far as can be known.

        A record has no later update than its present timestamp. Where its last change was within its deadband the
        server sends none, so nobody waits for it for long.
        """
        answering = [channel for channel in channels if channel.connected]
        answers = get_context().get_many(answering, timeout=self._io_timeout)
        stamps = {a.pv: r.timestamp_ns or 0 for a, r in zip(answering, answers, strict=True) if isinstance(r, Reading)}
        deadline = time.monotonic() + _ON_THEIR_WAY
        while True:
            through = threading.Event()
            self._lane.call(through.set)
            if not through.wait(self._io_timeout):
                raise ValueError(f"updates not recorded within {self._io_timeout:g} s")
            behind = any(recording.last < stamps.get(recording.trace.pv, 0) for recording in self._recordings)
            if not behind or time.monotonic() > deadline:
                return
            time.sleep(_PAUSE)

    def _outcome(self, began: int, ended: int) -> Outcome:
        problems = self._problems()
        pages = self._streams(problems) if self._interval is None else [self._grid(began, ended, problems)]
        failure: FlightError | None = None
        if self.broken.done():
            failure = self.error(FlightStoppedError, f"broken off: {self.broken.result()}")
        elif problems:
            told = "; ".join(problems.values())
            failure = FlightDataError(f"{self.name}: data missing or doubtful: {told}", self.name, *problems.values())
        return Outcome([page for page in pages if len(page["time"])], failure)

    def _problems(self) -> dict[str, str]:
        problems: dict[str, str] = {}
        for recording in self._recordings:
            pv, lag = recording.trace.pv, recording.lag()
            if not recording.connected:
                problems[pv] = f"{pv}: disconnected at the end"
            elif lag is not None and abs(lag) > self._tolerance:
                problems[pv] = f"{pv}: updates arrive {lag:.3g} s after their timestamps; does the IOC's clock differ?"
        return problems

    def _streams(self, problems: dict[str, str]) -> list[dict[str, Any]]:
        """One page for each PV, with a row for each update."""
        pages: list[dict[str, Any]] = []
        for recording in self._recordings:
            try:
                data, times = recording.updates()
            except ValueError as error:
                problems[recording.trace.pv] = str(error)
                continue
            pages.append({"data": data, "timestamps": dict.fromkeys(data, times), "time": times})
        return pages

    def _grid(self, began: int, ended: int, problems: dict[str, str]) -> dict[str, Any]:
        """One page of all PVs, with a row for each moment of the grid."""
        step = (self._interval or 0.0) * 1e9
        grid = frozen(began + np.rint(np.arange((ended - began) // step + 1) * step).astype(np.int64))
        data: dict[str, Any] = {self._time_key: grid}
        for recording in self._recordings:
            try:
                data |= recording.on_grid(grid)
            except ValueError as error:
                problems[recording.trace.pv] = str(error)
                data |= recording.unknown(grid)
        times = frozen(grid / 1e9)
        return {"data": data, "timestamps": dict.fromkeys(data, times), "time": times}
