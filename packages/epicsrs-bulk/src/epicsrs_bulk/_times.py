"""When each row was measured, by the IOC's clock, in integer nanoseconds since the UNIX epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from epicsrs_bulk._columns import frozen

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from epicsrs_bulk._read import PvReading

NS = 1_000_000_000
# Seconds from the UNIX epoch to the EPICS epoch, 1990-01-01 UTC (epicsTime.h).
EPICS_EPOCH = 631_152_000


class TimeAxis(Protocol):
    """What a flyer asks its time axis."""

    @property
    def pv(self) -> str:
        """The record that is read with the waveforms."""
        ...

    def times(self, reading: PvReading, rows: int) -> NDArray[np.int64]:
        """At most ``rows`` times in ns, in the order of the rows; fewer where the record holds fewer."""
        ...


@dataclass(frozen=True)
class RecordTime:
    """All that is known is when a record was processed: every row has its timestamp."""

    pv: str

    def times(self, reading: PvReading, rows: int) -> NDArray[np.int64]:
        return frozen(np.full(rows, _stamp(reading), np.int64))


@dataclass(frozen=True)
class ConstantInterval:
    """Rows at one distance from each other, before or after a record's timestamp.

    Attributes:
        pv: The record with the timestamp: at its processing the last row (``anchor="end"``) or the first one
            (``"start"``) was measured.
        interval: Seconds from one row to the next.
    """

    pv: str
    interval: float
    anchor: Literal["start", "end"] = "end"

    def __post_init__(self) -> None:
        _positive(self.pv, "interval", self.interval)
        _one_of(self.pv, "anchor", self.anchor, ("start", "end"))

    def times(self, reading: PvReading, rows: int) -> NDArray[np.int64]:
        steps = np.arange(rows) if self.anchor == "start" else np.arange(1 - rows, 1)
        return frozen(_stamp(reading) + _ns(steps * self.interval))


@dataclass(frozen=True)
class ClockCounts:
    """A waveform of clock counts, one for each row, beside the data: its sum is the time.

    Attributes:
        pv: The waveform. Row i ends when its count has been added to those before.
        frequency: Of the clock, in Hz.
        cumulative: Whether the record holds the running sum already.
        anchor: What the record's timestamp is: the end of the last row, or the start of the first.
        offset: Elements at the waveform's start that are not rows.
        stride: From one row to the next, in elements; their counts are added where they are not cumulative.
    """

    pv: str
    frequency: float
    cumulative: bool = False
    anchor: Literal["start", "end"] = "end"
    offset: int = 0
    stride: int = 1

    def __post_init__(self) -> None:
        _positive(self.pv, "frequency", self.frequency)
        _one_of(self.pv, "anchor", self.anchor, ("start", "end"))
        _slice(self.pv, self.offset, self.stride)

    def times(self, reading: PvReading, rows: int) -> NDArray[np.int64]:
        sums = self._sums(reading)
        # Anchored at the end of all that the clock has counted, rows that are left out included.
        start = sums[-1] if self.anchor == "end" and len(sums) else 0
        return frozen(_stamp(reading) + _ns((sums[:rows] - start) / self.frequency))

    def _sums(self, reading: PvReading) -> NDArray[Any]:
        counts = _numbers(self.pv, reading.value)
        sums = counts if self.cumulative else np.cumsum(counts[self.offset :])
        # Without cumulative counts the last element of each stride holds the sum up to the row's end.
        first = self.offset if self.cumulative else self.stride - 1
        sums = sums[first :: self.stride]
        if (np.diff(sums) < 0).any():
            raise ValueError(f"{self.pv}: the clock runs backwards at row {int(np.argmax(np.diff(sums) < 0)) + 1}")
        return sums


@dataclass(frozen=True)
class TimeWaveform:
    """A waveform of seconds, one for each row.

    Attributes:
        pv: The waveform.
        epoch: What its zero is: ``"unix"``, ``"epics"``, or ``"start"`` for the record's own timestamp, which is then
            that of the moment from which it counts.
        offset: Elements at the waveform's start that are not rows.
        stride: From one row to the next, in elements.
    """

    pv: str
    epoch: Literal["unix", "epics", "start"] = "unix"
    offset: int = 0
    stride: int = 1

    def __post_init__(self) -> None:
        _one_of(self.pv, "epoch", self.epoch, ("unix", "epics", "start"))
        _slice(self.pv, self.offset, self.stride)

    def times(self, reading: PvReading, rows: int) -> NDArray[np.int64]:
        zeros: dict[str, Callable[[], int]] = {
            "unix": lambda: 0,
            "epics": lambda: EPICS_EPOCH * NS,
            "start": lambda: _stamp(reading),
        }
        return frozen(zeros[self.epoch]() + _ns(self._seconds(reading)[:rows]))

    def _seconds(self, reading: PvReading) -> NDArray[Any]:
        return _numbers(self.pv, reading.value)[self.offset :: self.stride]


def _stamp(reading: PvReading) -> int:
    if reading.timestamp_ns is None:
        raise ValueError(f"{reading.pv}: the server gives no timestamp, so no row can be dated by it")
    return reading.timestamp_ns


def _ns(seconds: NDArray[Any]) -> NDArray[np.int64]:
    """Whole seconds and their rest apart: a float64 of UNIX seconds in ns would be exact to 256 ns only."""
    whole = np.floor(seconds)
    return whole.astype(np.int64) * NS + np.rint((seconds - whole) * NS).astype(np.int64)


def _numbers(pv: str, value: ArrayLike) -> NDArray[Any]:
    numbers = np.atleast_1d(np.asarray(value))
    if numbers.dtype.kind not in "fiu" or numbers.ndim != 1:
        raise TypeError(f"{pv}: {numbers.dtype} of shape {numbers.shape} is no time axis")
    if not np.isfinite(numbers).all():
        raise ValueError(f"{pv}: row {int(np.argmin(np.isfinite(numbers)))} of the time axis is not finite")
    # Differences of unsigned counts would wrap around.
    return numbers if numbers.dtype.kind == "f" else numbers.astype(np.int64)


def _positive(pv: str, name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):  # pyright: ignore[reportUnnecessaryIsInstance] (callers need not be typed)
        raise TypeError(f"{pv}: {name} is a number, not {value!r}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{pv}: {name} is positive, not {value!r}")


def _one_of(pv: str, name: str, value: str, words: tuple[str, ...]) -> None:
    if value not in words:
        raise ValueError(f"{pv}: {name} is one of {', '.join(words)}, not {value!r}")


def _slice(pv: str, offset: int, stride: int) -> None:
    if offset < 0 or stride < 1:
        raise ValueError(f"{pv}: offset is 0 or more and stride 1 or more, not {offset} and {stride}")
