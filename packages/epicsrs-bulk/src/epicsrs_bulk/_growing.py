"""Waveforms that are still being filled: read until each has what is wanted."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from epicsrs_bulk._errors import ShortWaveformError
from epicsrs_bulk._read import BulkRead, PvReading, bulk_read, bulk_read_async, checked_pvs, name_of
from epicsrs_native import RemoteError

if TYPE_CHECKING:
    from epicsrs_native import Channel


def read_until(
    pvs: Iterable[str | Channel], count: int, *, timeout: float | None = 5.0, interval: float = 0.02
) -> BulkRead:
    """Read waveforms until each of them holds ``count`` elements; only those that are short are read again.

    Args:
        pvs: As for ``bulk_read``.
        count: The elements that each PV must have; a scalar has one.
        timeout: Seconds for the whole call; None waits for ever.
        interval: Seconds from one read to the next; the last read is at most this long before the deadline.

    Returns:
        The readings that had enough, of each PV the first; none of them has an error.

    Raises:
        ShortWaveformError: A waveform did not grow to ``count`` in time; it says how far it came, and has the
            readings of all PVs.
        EpicsError: A PV did not connect or reply in time, or its server refused.
        TypeError: As ``bulk_read``; or ``count`` is not an int, ``interval`` not a number.
        ValueError: As ``bulk_read``; or ``count`` or ``interval`` is negative.
    """
    growth = Growth(pvs, count, timeout, interval)
    growth.add(bulk_read(growth.short, timeout=timeout))
    while growth.short:
        time.sleep(growth.pause())
        growth.add(bulk_read(growth.short, timeout=growth.left))
    return growth.result


async def read_until_async(
    pvs: Iterable[str | Channel], count: int, *, timeout: float | None = 5.0, interval: float = 0.02
) -> BulkRead:
    """Awaitable twin of ``read_until``."""
    growth = Growth(pvs, count, timeout, interval)
    growth.add(await bulk_read_async(growth.short, timeout=timeout))
    while growth.short:
        await asyncio.sleep(growth.pause())
        growth.add(await bulk_read_async(growth.short, timeout=growth.left))
    return growth.result


class Growth:
    """How far the waveforms have come, and the time that is left; it reads nothing itself.

    Attributes:
        short: The PVs that have to be read again.
    """

    def __init__(self, pvs: Iterable[str | Channel], count: int, timeout: float | None, interval: float) -> None:
        self.short = checked_pvs(pvs)
        if not isinstance(count, int) or isinstance(count, bool):  # pyright: ignore[reportUnnecessaryIsInstance] (callers need not be typed)
            raise TypeError(f"{name_of(self.short[0])}: count is an int, not {count!r}")
        if isinstance(interval, bool) or not isinstance(interval, int | float):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"{name_of(self.short[0])}: interval is a number of seconds, not {interval!r}")
        if count < 0 or not (math.isfinite(interval) and interval >= 0):
            raise ValueError(f"{name_of(self.short[0])}: count and interval are 0 or more, not {count} and {interval}")
        self._count = count
        self._interval = interval
        self._timeout = timeout
        self._began = time.monotonic()
        self._names = [name_of(pv) for pv in self.short]
        self._readings: dict[str, PvReading] = {}

    @property
    def left(self) -> float | None:
        """Seconds until the deadline."""
        return None if self._timeout is None else max(self._timeout - (time.monotonic() - self._began), 0.0)

    @property
    def result(self) -> BulkRead:
        """The last reading of each PV."""
        return BulkRead(self._readings[pv] for pv in self._names)

    def add(self, result: BulkRead) -> None:
        """Take one read in.

        Raises:
            EpicsError: A server refused, or the deadline has come for a PV that did not answer.
        """
        self._readings.update(result)
        if self.left == 0 or any(isinstance(error, RemoteError) for error in result.errors.values()):
            result.raise_first()
        self.short = [pv for pv in self.short if not self._has_enough(result[name_of(pv)])]

    def pause(self) -> float:
        """Seconds until the next read.

        Raises:
            ShortWaveformError: There is no time for another one.
            EpicsError: The same, and a PV did not answer.
        """
        left = self.left
        if left is None or left > self._interval:
            return self._interval
        result = self.result
        result.raise_first()
        pv = name_of(self.short[0])
        raise ShortWaveformError(pv, np.size(result[pv].value), self._count, self._timeout or 0.0, result)

    def _has_enough(self, reading: PvReading) -> bool:
        return reading.error is None and np.size(reading.value) >= self._count
