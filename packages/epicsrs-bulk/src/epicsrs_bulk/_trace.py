"""One PV that a flight listens to: what becomes of its updates."""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from epicsrs_bulk._columns import VALID, cast, check_key, data_key, frozen, resolve_dtype
from epicsrs_bulk._harvest import INVALID
from epicsrs_bulk._resample import METHODS, resample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from event_model import DataKey
    from numpy.typing import DTypeLike, NDArray

    from epicsrs_native import Reading, Subscription

SEVERITY, LOST, DISCONNECTS = "_severity", "_lost", "_disconnects"
TIME, RECEIVED = "_time_ns", "_received_ns"


@dataclass(frozen=True)
class Trace:
    """A PV whose updates are collected during a flight.

    Attributes:
        pv: A scalar number; of an enum, its index.
        key: The column's name in the documents.
        dtype: Of the column: float, integer or boolean. Nothing is rounded to an integer.
        method: Between updates, on a grid: ``"hold"`` the last value, or ``"linear"`` for floats.
        max_gap: Seconds without an update beyond which the value is unknown; None for no limit, as a record that does
            not change sends none.
        fill: What a cell holds where the value is unknown: NaN by default, to be declared where the dtype has no NaN.
        units: Engineering units for the descriptor; None where they are not stated.
    """

    pv: str
    key: str
    dtype: DTypeLike = np.float64
    method: Literal["hold", "linear"] = "hold"
    max_gap: float | None = None
    fill: float | None = None
    units: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.pv, str) or not self.pv:  # pyright: ignore[reportUnnecessaryIsInstance] (callers need not be typed)
            raise TypeError(f"the PV of a trace is a name, not {self.pv!r}")
        check_key(self.key, self.pv)
        dtype, fill = resolve_dtype(self.pv, self.dtype, self.fill)
        object.__setattr__(self, "dtype", dtype)
        object.__setattr__(self, "fill", fill)
        if self.method not in METHODS:
            raise ValueError(f"{self.pv}: the method is one of {', '.join(METHODS)}, not {self.method!r}")
        if self.method == "linear" and dtype.kind != "f":
            raise ValueError(f"{self.pv}: {dtype} cannot be interpolated; hold it, or make it a float")
        # The limits are those of resample().
        resample([], [], [], method=self.method, max_gap=self.max_gap)

    @property
    def source(self) -> str:
        """The PV with its protocol."""
        return self.pv if "://" in self.pv else f"ca://{self.pv}"

    def describe(self, *suffixes: str) -> dict[str, DataKey]:
        """The column and those beside it; a new dict each time."""
        dtypes = {VALID: np.bool_, SEVERITY: np.int32, LOST: np.int64, DISCONNECTS: np.int64}
        keys = {self.key: data_key(self.source, np.dtype(self.dtype), self.units)}
        for suffix in suffixes:
            dtype = np.dtype(dtypes.get(suffix, np.int64))
            keys[self.key + suffix] = data_key(self.source, dtype, "ns" if suffix.endswith("_ns") else None)
        return keys

    def check(self, reading: Reading) -> None:
        """TypeError or ValueError where the PV's updates cannot be collected."""
        value = np.asarray(reading.value)
        if value.ndim != 0 or value.dtype.kind not in "fiub":
            raise TypeError(f"{self.pv}: a trace is of single numbers, not of {reading.value!r}")
        if reading.timestamp_ns is None:
            raise ValueError(f"{self.pv}: the server gives no timestamps, so no update can be dated")


class Recording:
    """The updates of one PV, the latest ``limit`` of them, with what is known of those that are missing."""

    def __init__(self, trace: Trace, limit: int) -> None:
        self.trace = trace
        self.subscription: Subscription | None = None
        self.connected = True
        self._limit = limit
        self._lost = 0
        self._disconnects = 0
        self._values: list[Any] = []
        self._columns = {suffix: array("q") for suffix in (TIME, RECEIVED, SEVERITY, LOST, DISCONNECTS)}

    def __len__(self) -> int:
        return len(self._values)

    @property
    def last(self) -> int:
        """The timestamp of the last update, in ns; 0 before the first one."""
        times = self._columns[TIME]
        return times[-1] if times else 0

    def take(self, reading: Reading) -> None:
        """Keep one update; the oldest make room for it, and are counted."""
        columns = self._columns
        self._values.append(reading.value)
        columns[TIME].append(reading.timestamp_ns or 0)
        columns[RECEIVED].append(time.time_ns())
        columns[SEVERITY].append(reading.severity or 0)
        columns[LOST].append(self.subscription.dropped if self.subscription is not None else 0)
        columns[DISCONNECTS].append(self._disconnects)
        if len(self._values) >= 2 * self._limit:
            self._trim()

    def connection(self, connected: bool) -> None:
        """Count a loss of the connection, at its place among the updates."""
        self._disconnects += self.connected and not connected
        self.connected = connected

    def lag(self) -> float | None:
        """Seconds by which updates typically arrive after their timestamp; None where there were none.

        Not of the first one, which is as old as the record's last change, nor of one after a reconnection.
        """
        disconnects = self._array(DISCONNECTS)
        fresh = np.diff(disconnects, prepend=-1) == 0
        lags = (self._array(RECEIVED) - self._array(TIME))[fresh]
        return float(np.median(lags)) / 1e9 if len(lags) else None

    def updates(self) -> tuple[dict[str, NDArray[Any]], NDArray[np.float64]]:
        """All that was kept as columns, and the IOC's times in seconds.

        Raises:
            ValueError: A value that the dtype does not hold.
        """
        self._trim()
        suffixes = (TIME, RECEIVED, SEVERITY, LOST, DISCONNECTS)
        columns = {self.trace.key + suffix: frozen(self._array(suffix)) for suffix in suffixes}
        columns[self.trace.key + SEVERITY] = frozen(columns[self.trace.key + SEVERITY].astype(np.int32))
        return {self.trace.key: frozen(self._cast()), **columns}, frozen(self._array(TIME) / 1e9)

    def on_grid(self, grid: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """The columns at the times of a grid.

        Raises:
            ValueError: A value that the dtype does not hold.
        """
        self._trim()
        trace, times, disconnects = self.trace, self._array(TIME), self._array(DISCONNECTS)
        broken = np.diff(disconnects, prepend=disconnects[:1]) > 0
        values, valid = resample(times, self._cast(), grid, method=trace.method, max_gap=trace.max_gap, broken=broken)
        held = {suffix: resample(times, self._array(suffix), grid)[0] for suffix in (SEVERITY, LOST, DISCONNECTS)}
        valid &= held[SEVERITY] < INVALID
        if len(times) and self._disconnects > disconnects[-1]:
            valid &= grid <= times.max()
        return {
            trace.key: frozen(np.where(valid, values, np.asarray(trace.fill, trace.dtype)).astype(trace.dtype)),
            trace.key + VALID: frozen(valid),
            trace.key + SEVERITY: frozen(held[SEVERITY].astype(np.int32)),
            trace.key + LOST: frozen(held[LOST]),
            trace.key + DISCONNECTS: frozen(held[DISCONNECTS]),
        }

    def unknown(self, grid: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """The columns of a PV whose values cannot be told: all fill, nothing valid."""
        return Recording(self.trace, self._limit).on_grid(grid)

    def _trim(self) -> None:
        surplus = len(self._values) - self._limit
        if surplus > 0:
            del self._values[:surplus]
            for column in self._columns.values():
                del column[:surplus]
            self._lost += surplus

    def _array(self, suffix: str) -> NDArray[np.int64]:
        column = np.array(self._columns[suffix], np.int64)
        # What made room here is older than all that is left.
        return column + self._lost if suffix == LOST else column

    def _cast(self) -> NDArray[Any]:
        values: Sequence[Any] = self._values
        return cast(np.asarray(values) if values else np.empty(0), np.dtype(self.trace.dtype), self.trace.pv)
