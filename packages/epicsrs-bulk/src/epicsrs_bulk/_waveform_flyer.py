"""A fly scan whose data waits in waveform records, as a flyer for bluesky."""

from __future__ import annotations

from typing import TYPE_CHECKING

from epicsrs_bulk._layout import Layout
from epicsrs_bulk._page_flyer import PageFlyer
from epicsrs_bulk._waveform_flight import Procedure, WaveformFlight

if TYPE_CHECKING:
    from collections.abc import Sequence

    from event_model import DataKey

    from epicsrs_bulk._columns import Column
    from epicsrs_bulk._dead_time_column import DeadTime
    from epicsrs_bulk._times import TimeAxis


class WaveformFlyer(PageFlyer):
    """Starts a fly scan, sees its end, reads its waveforms once and yields them as one EventPage.

    ``describe_collect`` is flat, for plans that say ``declare_stream(flyer, name=..., collect=True)``; ``bp.fly``
    takes ``flyer.nested()``, and ``flyer.stored_in(folder)`` puts many rows into files. Each column ``key`` has a
    neighbour ``key_valid``, and the rows' times by the IOC's clock stand in ``timestamps`` and, in integer ns, in a
    column of their own.

    ``complete`` ends when the waveforms have been read. Where data is missing or doubtful its status fails and names
    the PVs; the page holds the rest, with the cells concerned marked as not valid. A flight that is broken off (by
    ``stop``, a pause, its timeout, or a collect before its end) is disarmed and yields what it has measured, once.

    Args:
        name: The flyer's, in documents and messages.
        columns: What to read, at least one; a PV may make several columns.
        times: When each row was measured.
        done: The PV that tells the end and the value it has then; it must have another value during the flight.
        timeout: Seconds from kickoff to done, None for ever.
        arm: Written before the start, in order, each to the end of its processing.
        start: Written in order to start; none where something else starts the flight.
        disarm: Written in order where a flight is broken off.
        rows: How many: a number, the PV that knows it, or None for as many as the longest column has.
        time_key: The column of row times; ``<name>_time_ns`` by default.
        io_timeout: Seconds for connecting and the first read, for each write to arm, and for the read at the end.
        stop_timeout: Seconds for all of ``disarm``.
        settle: Seconds after done in which records may still come in; those that are short or were not processed are
            read again until then.
        spread: Seconds by which the timestamps of the columns' records may be apart; None where that says nothing.
        dead_times: Columns of factors that are made from the others, which stay as they are.

    Raises:
        ImportError: ophyd is not installed, whose Status bluesky is given.
        TypeError: An argument of the wrong type.
        ValueError: No column, two columns of one name, a timeout that is negative or NaN.
    """

    def __init__(
        self,
        name: str,
        columns: Sequence[Column],
        times: TimeAxis,
        *,
        done: tuple[str, object],
        timeout: float | None,
        arm: Sequence[tuple[str, object]] = (),
        start: Sequence[tuple[str, object]] = (),
        disarm: Sequence[tuple[str, object]] = (),
        rows: int | str | None = None,
        time_key: str | None = None,
        io_timeout: float = 5.0,
        stop_timeout: float = 2.0,
        settle: float = 0.0,
        spread: float | None = None,
        dead_times: Sequence[DeadTime] = (),
    ) -> None:
        if not columns:
            raise ValueError(f"{name}: a flyer needs at least one column")
        super().__init__(name, stop_timeout)
        self._layout = Layout(tuple(columns), times, time_key or f"{name}_time_ns", rows, spread, tuple(dead_times))
        self._procedure = Procedure(
            tuple(arm), tuple(start), done, tuple(disarm), timeout, io_timeout, stop_timeout, settle
        )

    def __repr__(self) -> str:
        return f"<WaveformFlyer {self.name}: {len(self._layout.columns)} columns>"

    def describe_collect(self) -> dict[str, DataKey]:
        """The data keys of the page that ``collect_pages`` will yield."""
        return self._layout.describe()

    @property
    def _configuration(self) -> dict[str, str | float]:
        columns: dict[str, str | float] = {
            f"{self.name}_{column.key}_{setting}": getattr(column, setting)
            for column in self._layout.columns
            for setting in ("offset", "stride")
        }
        formulas = {f"{self.name}_{factor.key}_formula": factor.formula for factor in self._layout.dead_times}
        return {f"{self.name}_time_axis": repr(self._layout.axis)} | columns | formulas

    def _cells(self) -> int | None:
        rows = self._layout.rows
        return rows * len(self._layout.columns) if isinstance(rows, int) else None

    def _flight(self) -> WaveformFlight:
        return WaveformFlight(self.name, self._procedure, self._layout)
