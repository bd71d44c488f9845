"""The rows that waveforms gain while they are being filled: each once, and none across a reset lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from epicsrs_bulk._columns import VALID, cast, frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from epicsrs_bulk._columns import Column
    from epicsrs_bulk._read import PvReading
    from epicsrs_native import Reading

INDEX, RESET = "_index", "_reset"


class Filling:
    """One time that a waveform was filled.

    Attributes:
        values: All that it holds, in the column's dtype.
        times: For each of its rows the record's timestamp when it was first seen, in ns.
        before: Rows that were there before the flight.
    """

    def __init__(self, values: NDArray[Any], stamp: int, before: int) -> None:
        self.values = values
        self.times = np.full(len(values), stamp, np.int64)
        self.before = before

    def __len__(self) -> int:
        return len(self.values)

    def grow(self, values: NDArray[Any], stamp: int) -> bool:
        """Take a later state of the waveform in; False where it is not this one grown longer."""
        rows = len(self)
        if len(values) < rows or not np.array_equal(values[:rows], self.values, equal_nan=values.dtype.kind == "f"):
            return False
        self.values = values
        self.times = np.concatenate([self.times, np.full(len(values) - rows, stamp, np.int64)])
        return True


class Tail:
    """One column: its waveform's present filling, and those before it that have rows to give.

    Args:
        column: How the waveform becomes the column.

    Attributes:
        fillings: From ``first`` on.
        first: The number of the first one that is kept.
        stamp: The timestamp of the last state that was taken, in ns.
    """

    def __init__(self, column: Column) -> None:
        self.column = column
        self.fillings: list[Filling] = []
        self.first = 0
        self.stamp = 0

    @property
    def present(self) -> int:
        """The number of resets that the waveform has seen."""
        return self.first + len(self.fillings) - 1

    def take(self, reading: Reading | PvReading) -> None:
        """Take a state of the waveform in; the first one is that from before the flight. An older one is left out.

        Raises:
            TypeError: It is not numeric.
            ValueError: A value that the dtype does not hold, or no timestamp.
        """
        if reading.timestamp_ns is None:
            raise ValueError(f"{self.column.pv}: the server gives no timestamp, so no row can be dated")
        if reading.timestamp_ns < self.stamp:
            return
        self.stamp = reading.timestamp_ns
        values = cast(self.column.elements(reading.value), np.dtype(self.column.dtype), self.column.pv)
        if not self.fillings:
            self.fillings.append(Filling(values, self.stamp, len(values)))
        elif not self.fillings[-1].grow(values, self.stamp):
            # What is left from before the flight has no number of its own.
            if len(self.fillings[-1]) == self.fillings[-1].before:
                self.fillings.pop()
            self.fillings.append(Filling(values, self.stamp, 0))

    def filling(self, number: int) -> Filling | None:
        """One of them; None where the waveform has not come to it."""
        return self.fillings[number - self.first] if number <= self.present else None

    def forget(self, number: int) -> None:
        """The rows of a filling have all been given."""
        if number < self.present:
            self.fillings.pop(0)
            self.first += 1


class Tails:
    """The columns of a flight, row by row: a row is given when all columns have it, or when no more can come.

    Args:
        columns: In the order of the documents.
        name: The flyer's: ``<name>_index`` counts rows since the last reset, ``<name>_reset`` the resets.
        time_key: The column of row times.
    """

    def __init__(self, columns: Sequence[Column], name: str, time_key: str) -> None:
        self.tails = [Tail(column) for column in columns]
        self._index_key, self._reset_key, self._time_key = name + INDEX, name + RESET, time_key
        self._reset = 0
        self._given: int | None = None

    def pages(self, *, last: bool = False) -> list[tuple[dict[str, NDArray[Any]], NDArray[np.int64]]]:
        """Rows that were not given yet, as columns and their times in ns; no page has rows of two fillings.

        Args:
            last: Whether no more come: columns that are short are filled, and not valid there.
        """
        pages: list[tuple[dict[str, NDArray[Any]], NDArray[np.int64]]] = []
        while True:
            fillings = [tail.filling(self._reset) for tail in self.tails]
            over = all(tail.present > self._reset for tail in self.tails)
            lengths = [len(filling) if filling is not None else 0 for filling in fillings]
            # Rows that one of the columns had before the flight belong to before it in all of them.
            before = max(filling.before if filling is not None else 0 for filling in fillings)
            start = before if self._given is None else self._given
            end = max(lengths) if over or last else min(lengths)
            if end > start:
                pages.append(self._page(fillings, start, end))
                self._given = end
            if not over and not (last and any(tail.present > self._reset for tail in self.tails)):
                return pages
            for tail in self.tails:
                tail.forget(self._reset)
            self._reset, self._given = self._reset + 1, 0

    def _page(
        self, fillings: Sequence[Filling | None], start: int, end: int
    ) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
        rows = end - start
        times = np.zeros(rows, np.int64)
        columns: dict[str, NDArray[Any]] = {}
        for tail, filling in zip(self.tails, fillings, strict=True):
            part = filling.values[start:end] if filling is not None else np.empty(0)
            columns[tail.column.key], columns[tail.column.key + VALID] = tail.column.fit(part, rows)
            if filling is not None:
                times[: len(part)] = np.maximum(times[: len(part)], filling.times[start:end])
        return {
            self._time_key: frozen(times),
            self._index_key: frozen(np.arange(start, end, dtype=np.int64)),
            self._reset_key: frozen(np.full(rows, self._reset, np.int64)),
            **columns,
        }, times
