"""Which PVs make which columns of a flight, and how that is described."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from epicsrs_bulk._columns import VALID, check_key, check_unique, data_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from event_model import DataKey

    from epicsrs_bulk._columns import Column
    from epicsrs_bulk._dead_time_column import DeadTime
    from epicsrs_bulk._read import BulkRead
    from epicsrs_bulk._times import TimeAxis


@dataclass(frozen=True)
class Layout:
    """Which PVs make which columns.

    Attributes:
        columns: In the order of the documents.
        axis: Where the rows' times come from.
        time_key: The column of the rows' times, in ns.
        rows: How many rows a flight has: a number, the PV that knows it, or None for as many as the longest column.
        spread: Seconds by which the timestamps of the columns' records may be apart; None for any.
        dead_times: Columns that are made from the others.
    """

    columns: Sequence[Column]
    axis: TimeAxis
    time_key: str
    rows: int | str | None
    spread: float | None
    dead_times: Sequence[DeadTime] = ()

    def __post_init__(self) -> None:
        check_key(self.time_key, self.axis.pv)
        keys = [*(column.key for column in self.columns), self.time_key, *(factor.key for factor in self.dead_times)]
        check_unique(name for key in keys for name in (key, key + VALID))
        if not (self.rows is None or isinstance(self.rows, str)):
            count_of("rows", self.rows)
        dtypes = {column.key: np.dtype(column.dtype) for column in self.columns}
        for factor in self.dead_times:
            for key in factor.inputs:
                if key not in dtypes or dtypes[key].kind == "b":
                    raise ValueError(f"{factor.key}: {key!r} is no column of numbers here")
        if self.spread is not None and not (math.isfinite(self.spread) and self.spread >= 0):
            raise ValueError(f"spread is a number of seconds, not {self.spread!r}")

    @property
    def pvs(self) -> list[str]:
        """All that is read, each once."""
        count = [self.rows] if isinstance(self.rows, str) else []
        return list(dict.fromkeys([*(column.pv for column in self.columns), self.axis.pv, *count]))

    @property
    def count_name(self) -> str:
        """What a message about the number of rows begins with."""
        return f"{self.rows}: " if isinstance(self.rows, str) else ""

    def describe(self) -> dict[str, DataKey]:
        """The data keys of the stream; new dicts each time, as the RunEngine writes into them."""
        source = source_of(self.axis.pv)
        keys = {
            self.time_key: data_key(source, np.dtype(np.int64), "ns"),
            self.time_key + VALID: data_key(source, np.dtype(np.bool_), None),
        }
        for column in self.columns:
            keys |= column.describe(source_of(column.pv))
        for factor in self.dead_times:
            keys |= factor.describe()
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
            count_of(self.rows, readings[self.rows].value)


def count_of(pv: str, value: object) -> int:
    """A number of rows; TypeError or ValueError where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{pv}: {value!r} is no number of rows")
    if not (math.isfinite(value) and value >= 0 and value == int(value)):
        raise ValueError(f"{pv}: {value!r} is no number of rows")
    return int(value)


def source_of(pv: str) -> str:
    """A PV with its protocol."""
    return pv if "://" in pv else f"ca://{pv}"
