"""Waveforms that are being filled, as a flyer for bluesky that gives their rows during the flight."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from epicsrs_bulk._columns import VALID, check_key, check_unique, data_key
from epicsrs_bulk._growing_flight import GrowingFlight
from epicsrs_bulk._layout import Layout, source_of
from epicsrs_bulk._page_flyer import PageFlyer
from epicsrs_bulk._tails import INDEX, RESET
from epicsrs_bulk._times import RecordTime
from epicsrs_bulk._waveform_flight import Procedure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from event_model import DataKey

    from epicsrs_bulk._columns import Column


class GrowingFlyer(PageFlyer):
    """Gives the rows of waveforms as they gain them, each once, to every collect during the flight.

    For waveforms whose length (NORD) grows while a device fills them, and that begin anew when it is reset. Beside each
    column ``key`` stands ``key_valid``; ``<name>_index`` counts the rows since the last reset, ``<name>_reset`` the
    resets of the flight, and ``<name>_time_ns`` is the IOC's time at which the row was there in all columns. What the
    waveforms hold before the flight is not part of it.

    ``bps.collect_while_completing([flyer], [flyer], flush_period=1.0, stream_name=...)`` emits a page for each period;
    with ``flyer.stored_in(folder)``, rows of a file.

    A reset is seen where a waveform gets shorter, or an element that was there changes. A server may leave out updates
    of a waveform that is processed faster than the network takes it: rows between the last update before a reset and
    the reset are then not seen by anybody.

    Args:
        name: The flyer's, in documents and messages.
        columns: What to follow, at least one.
        done: The PV that tells the end and the value it has then; None where the flight ends with ``complete``.
        timeout: Seconds from kickoff to the end, None for ever.
        arm: Written before the start, in order, each to the end of its processing.
        start: Written in order to start; none where something else starts the device.
        disarm: Written in order where a flight is broken off.
        time_key: The column of row times; ``<name>_time_ns`` by default.
        io_timeout: Seconds for connecting and the first updates, for each write to arm, and for the read at the end.
        stop_timeout: Seconds for all of ``disarm``.

    Raises:
        ImportError: ophyd is not installed, whose Status bluesky is given.
        TypeError: An argument of the wrong type.
        ValueError: No column, two columns of one name or of one PV, a timeout that is negative or NaN.
    """

    def __init__(
        self,
        name: str,
        columns: Sequence[Column],
        *,
        done: tuple[str, object] | None,
        timeout: float | None,
        arm: Sequence[tuple[str, object]] = (),
        start: Sequence[tuple[str, object]] = (),
        disarm: Sequence[tuple[str, object]] = (),
        time_key: str | None = None,
        io_timeout: float = 5.0,
        stop_timeout: float = 2.0,
    ) -> None:
        if not columns:
            raise ValueError(f"{name}: a flyer needs at least one column")
        super().__init__(name, stop_timeout)
        self._layout = Layout(
            tuple(columns), RecordTime(columns[0].pv), time_key or f"{name}_time_ns", rows=None, spread=None
        )
        check_key(name + INDEX)
        keys = [key for column in columns for key in (column.key, column.key + VALID)]
        check_unique([self._layout.time_key, name + INDEX, name + RESET, *keys])
        check_unique(column.pv for column in columns)
        self._procedure = Procedure(
            tuple(arm), tuple(start), done, tuple(disarm), timeout, io_timeout, stop_timeout, settle=0.0
        )

    def __repr__(self) -> str:
        return f"<GrowingFlyer {self.name}: {len(self._layout.columns)} columns>"

    def describe_collect(self) -> dict[str, DataKey]:
        """The data keys of the pages that ``collect_pages`` will yield."""
        source = f"the clock of {self._layout.axis.pv}"
        keys: dict[str, DataKey] = {self._layout.time_key: data_key(source, np.dtype(np.int64), "ns")}
        for suffix in (INDEX, RESET):
            keys[self.name + suffix] = data_key("rows", np.dtype(np.int64), None)
        for column in self._layout.columns:
            keys |= column.describe(source_of(column.pv))
        return keys

    def _flight(self) -> GrowingFlight:
        return GrowingFlight(self.name, self._procedure, self._layout)
