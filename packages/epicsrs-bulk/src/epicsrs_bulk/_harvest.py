"""What a flight has left in its records: judged, and made into one partial EventPage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from epicsrs_bulk._coherence import incoherent
from epicsrs_bulk._columns import VALID, frozen
from epicsrs_bulk._layout import count_of
from epicsrs_bulk._read import BulkRead

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from epicsrs_bulk._columns import Column
    from epicsrs_bulk._layout import Layout

# The severity of a value that its own record declares unusable.
INVALID = 3


@dataclass(frozen=True)
class Page:
    """The rows of one flight.

    Attributes:
        data: The columns by key, each with its validity; arrays of one length, read-only.
        times: Seconds since the UNIX epoch by the IOC's clock, one per row.
        problems: What is missing or doubtful, one line per PV.
    """

    data: dict[str, NDArray[Any]]
    times: NDArray[np.float64]
    problems: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """The partial EventPage; the RunEngine fills in the rest."""
        return {"data": dict(self.data), "timestamps": dict.fromkeys(self.data, self.times), "time": self.times}


class Harvest:
    """The records of one flight, after it.

    Args:
        layout: Which PVs make which columns.
        readings: All PVs, after the flight.
        before: All PVs, before it: a record with the same timestamp has not been processed since.
        done: Whether the flight came to its end; if not, it is no surprise that rows are missing.
    """

    def __init__(self, layout: Layout, readings: BulkRead, before: BulkRead, *, done: bool) -> None:
        self._layout = layout
        self._readings = readings
        self._before = before
        self._done = done
        self._problems: dict[str, str] = {}
        self._apart: dict[str, str] = {}
        if layout.spread is not None:
            fresh = {column.pv for column in layout.columns if column.fresh and not self._doubt(column)}
            self._apart = incoherent(BulkRead(readings[pv] for pv in readings if pv in fresh), spread=layout.spread)

    def late(self) -> list[str]:
        """The PVs that may yet come in: not processed during the flight, unanswered, or short."""
        wanted = self._wanted(0)
        short = {
            column.pv
            for column in self._layout.columns
            if self._doubt(column) or column.rows(self._readings[column.pv].value) < wanted
        }
        axis = self._layout.axis.pv
        if self._is_old(axis) or self._readings[axis].error is not None:
            short.add(axis)
        return [pv for pv in self._layout.pvs if pv in short]

    def page(self) -> Page:
        """The rows, and what is wrong with them."""
        waveforms = {column.key: self._waveform(column) for column in self._layout.columns}
        longest = self._longest(waveforms)
        wanted = self._wanted(longest)
        rows = min(longest, wanted)
        if self._done and rows < wanted:
            self._problems["rows"] = f"{self._layout.count_name}{wanted} rows wanted, {rows} measured"
        elif self._done and rows == 0:
            self._problems["rows"] = "no row was measured"

        times, known = self._times(rows)
        data: dict[str, NDArray[Any]] = {self._layout.time_key: times, self._layout.time_key + VALID: known}
        for column in self._layout.columns:
            try:
                values, valid = column.build(waveforms[column.key], rows)
            except ValueError as error:
                self._problems[f"{column.key} of {column.pv}"] = str(error)
                values, valid = column.missing(rows)
            if self._doubt(column) is not None:
                valid = frozen(np.zeros(rows, np.bool_))
            data |= {column.key: values, column.key + VALID: valid}
        for factor in self._layout.dead_times:
            data |= factor.build(data)
        return Page(data, frozen(times / 1e9), tuple(self._problems.values()))

    def _doubt(self, column: Column) -> str | None:
        """Why a column's PV cannot be relied on; None where it can."""
        reading = self._readings[column.pv]
        if reading.error is not None:
            return str(reading.error)
        try:
            column.rows(reading.value)
        except TypeError as error:
            return str(error)
        if reading.severity == INVALID:
            return f"{column.pv}: the record says its value is INVALID"
        if column.fresh and self._is_old(column.pv):
            return f"{column.pv}: not processed during the flight"
        return self._apart.get(column.pv)

    def _waveform(self, column: Column) -> Any:
        """What the column is made of; an empty waveform where there is none."""
        doubt = self._doubt(column)
        reading = self._readings[column.pv]
        if doubt is not None:
            self._problems[column.pv] = doubt
        nothing = np.empty(0, np.dtype(column.dtype))
        # What was there before a flight that was broken off was not measured by it.
        if reading.error is not None or (column.fresh and not self._done and self._is_old(column.pv)):
            return nothing
        try:
            column.rows(reading.value)
        except TypeError:
            return nothing
        return reading.value

    def _longest(self, waveforms: dict[str, Any]) -> int:
        """The rows of the longest column that the flight has measured; of another one where it has measured none."""
        return max(
            (column.pv not in self._problems and column.fresh, column.pv not in self._problems, column.rows(waveform))
            for column in self._layout.columns
            for waveform in [waveforms[column.key]]
        )[2]

    def _wanted(self, longest: int) -> int:
        """How many rows the flight should have."""
        rows = self._layout.rows
        if rows is None:
            return longest
        if isinstance(rows, int):
            return rows
        reading = self._readings[rows]
        if reading.error is not None:
            self._problems[rows] = str(reading.error)
            return longest
        try:
            return count_of(rows, reading.value)
        except (TypeError, ValueError) as error:
            self._problems[rows] = str(error)
            return longest

    def _times(self, rows: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """One time per row, and whether it is the row's own; else it is the last that is known."""
        pv = self._layout.axis.pv
        reading = self._readings[pv]
        known: NDArray[np.int64] = np.empty(0, np.int64)
        fresh = all(column.fresh for column in self._layout.columns if column.pv == pv)
        problem: str | None = None
        if reading.error is not None:
            problem = str(reading.error)
        elif fresh and self._is_old(pv):
            problem = f"{pv}: not processed during the flight, so the rows have no time"
        else:
            try:
                known = self._layout.axis.times(reading, rows)
            except (TypeError, ValueError) as error:
                problem = str(error)
            else:
                if len(known) < rows:
                    problem = f"{pv}: times for {len(known)} of {rows} rows"
        if problem is not None:
            self._problems[f"times of {pv}"] = problem
        times = np.full(rows, known[-1] if len(known) else self._latest(), np.int64)
        times[: len(known)] = known
        return frozen(times), frozen(np.arange(rows) < len(known))

    def _latest(self) -> int:
        """The youngest timestamp of all that was read: when the flight was over at the latest."""
        answered = [reading for reading in self._readings.values() if reading.error is None]
        return max((reading.timestamp_ns or 0 for reading in answered), default=0)

    def _is_old(self, pv: str) -> bool:
        after, before = self._readings[pv], self._before[pv]
        if after.error is not None or before.error is not None:
            return False
        return after.timestamp_ns is not None and after.timestamp_ns == before.timestamp_ns
