"""What a flight yields: its columns and row times as one partial EventPage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from epicsrs_bulk._columns import VALID, check_key, check_keys, data_key, frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from event_model import DataKey
    from numpy.typing import NDArray

    from epicsrs_bulk._columns import Column
    from epicsrs_bulk._read import BulkRead, PvReading
    from epicsrs_bulk._times import TimeAxis

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


@dataclass(frozen=True)
class Layout:
    """Which PVs make which columns.

    Attributes:
        columns: In the order of the documents.
        axis: Where the rows' times come from.
        time_key: The column of the rows' times, in ns.
        rows: How many rows a flight has: a number, the PV that knows it, or None for as many as the longest column.
    """

    columns: Sequence[Column]
    axis: TimeAxis
    time_key: str
    rows: int | str | None

    def __post_init__(self) -> None:
        check_key(self.time_key, self.axis.pv)
        check_keys([*(column.key for column in self.columns), self.time_key])
        if not (self.rows is None or isinstance(self.rows, str)):
            _count("rows", self.rows)

    @property
    def pvs(self) -> list[str]:
        """All that is read, each once."""
        count = [self.rows] if isinstance(self.rows, str) else []
        return list(dict.fromkeys([*(column.pv for column in self.columns), self.axis.pv, *count]))

    def describe(self) -> dict[str, DataKey]:
        """The data keys of the stream; new dicts each time, as the RunEngine writes into them."""
        source = _source(self.axis.pv)
        keys = {
            self.time_key: data_key(source, np.dtype(np.int64), "ns"),
            self.time_key + VALID: data_key(source, np.dtype(np.bool_), None),
        }
        for column in self.columns:
            keys |= column.describe(_source(column.pv))
        return keys

    def check(self, readings: BulkRead) -> None:
        """Refuse PVs whose type does not fit, before anything moves: what is described is what will be yielded.

        Raises:
            TypeError: A column's PV is not numeric, or the PV with the number of rows is no number.
            ValueError: The number of rows is negative or broken.
        """
        for column in self.columns:
            column.build(readings[column.pv].value, 0)
        if isinstance(self.rows, str):
            _count(self.rows, readings[self.rows].value)

    def page(self, readings: BulkRead, before: BulkRead, *, done: bool) -> Page:
        """The rows of a flight.

        Args:
            readings: All PVs, after the flight.
            before: All PVs, before it: a record with the same timestamp has not been processed since.
            done: Whether the flight came to its end; if not, missing rows are no surprise.
        """
        problems: dict[str, str] = {}
        columns = {column.key: self._waveform(column, readings, before, problems, done=done) for column in self.columns}
        longest = self._longest(columns)
        wanted = self._wanted(readings, longest, problems)
        rows = min(longest, wanted)
        if done and rows < wanted:
            of = f"{self.rows}: " if isinstance(self.rows, str) else ""
            problems["rows"] = f"{of}{wanted} rows wanted, {rows} measured"
        elif done and rows == 0:
            problems["rows"] = "no row was measured"

        times, known = self._times(readings, before, rows, problems)
        data = {self.time_key: times, self.time_key + VALID: known}
        for column in self.columns:
            waveform, usable = columns[column.key]
            try:
                values, valid = column.build(waveform, rows)
            except (TypeError, ValueError) as error:
                problems[column.pv] = str(error)
                values, valid = column.missing(rows)
            data |= {column.key: values, column.key + VALID: valid if usable else frozen(np.zeros(rows, np.bool_))}
        return Page(data, frozen(times / 1e9), tuple(problems.values()))

    def _waveform(
        self, column: Column, readings: BulkRead, before: BulkRead, problems: dict[str, str], *, done: bool
    ) -> tuple[Any, bool]:
        """The column's waveform and whether it can be relied on; an empty one where there is none."""
        reading = readings[column.pv]
        if reading.error is not None:
            problems[column.pv] = str(reading.error)
            return np.empty(0, column.dtype), False
        try:
            column.rows(reading.value)
        except TypeError as error:
            problems[column.pv] = str(error)
            return np.empty(0, column.dtype), False
        if reading.severity == INVALID:
            problems[column.pv] = f"{column.pv}: the record says its value is INVALID"
            return reading.value, False
        if column.fresh and _stale(reading, before[column.pv]):
            problems[column.pv] = f"{column.pv}: not processed during the flight"
            # A flight that was broken off has measured nothing there; one that is done may have left it out only.
            return reading.value if done else np.empty(0, column.dtype), False
        return reading.value, True

    def _longest(self, columns: dict[str, tuple[Any, bool]]) -> int:
        """The rows of the longest column that the flight has measured; of another one where it has measured none."""
        lengths = [
            (usable and column.fresh, usable, column.rows(waveform))
            for column in self.columns
            for waveform, usable in [columns[column.key]]
        ]
        return max(lengths)[2]

    def _wanted(self, readings: BulkRead, longest: int, problems: dict[str, str]) -> int:
        if self.rows is None:
            return longest
        if isinstance(self.rows, int):
            return self.rows
        reading = readings[self.rows]
        try:
            if reading.error is not None:
                raise ValueError(str(reading.error))
            return _count(self.rows, reading.value)
        except (TypeError, ValueError) as error:
            problems[self.rows] = str(error)
            return longest

    def _times(
        self, readings: BulkRead, before: BulkRead, rows: int, problems: dict[str, str]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """One time per row, and whether it is the row's own; else it is the last that is known."""
        pv = self.axis.pv
        reading = readings[pv]
        known: NDArray[np.int64] = np.empty(0, np.int64)
        fresh = all(column.fresh for column in self.columns if column.pv == pv)
        if reading.error is not None:
            problems[pv] = str(reading.error)
        elif fresh and _stale(reading, before[pv]):
            problems[pv] = f"{pv}: not processed during the flight, so the rows have no time"
        else:
            try:
                known = self.axis.times(reading, rows)
            except (TypeError, ValueError) as error:
                problems[pv] = str(error)
            else:
                if len(known) < rows:
                    problems[pv] = f"{pv}: times for {len(known)} of {rows} rows"
        times = np.full(rows, known[-1] if len(known) else self._latest(readings), np.int64)
        times[: len(known)] = known
        return frozen(times), frozen(np.arange(rows) < len(known))

    def _latest(self, readings: BulkRead) -> int:
        """The youngest timestamp of all that was read: when the flight was over at the latest."""
        answered = [reading for reading in readings.values() if reading.error is None]
        return max((reading.timestamp_ns or 0 for reading in answered), default=0)


def _stale(after: PvReading, before: PvReading) -> bool:
    return before.error is None and after.timestamp_ns is not None and after.timestamp_ns == before.timestamp_ns


def _count(pv: str, value: object) -> int:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{pv}: {value!r} is no number of rows")
    if value < 0 or value != int(value):
        raise ValueError(f"{pv}: {value!r} is no number of rows")
    return int(value)


def _source(pv: str) -> str:
    return pv if "://" in pv else f"ca://{pv}"
