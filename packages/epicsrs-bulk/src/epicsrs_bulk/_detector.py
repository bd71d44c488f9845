"""Waveforms as data of an ophyd-async StandardDetector."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ophyd_async.core import (
    DetectorDataLogic,
    StreamableDataProvider,
    StreamResourceDataProvider,
    StreamResourceInfo,
    soft_signal_r_and_setter,
)

from epicsrs_bulk._column_file import CHUNK, MIMETYPE, ColumnFile
from epicsrs_bulk._errors import FlightDataError, FlightError, FlightStoppedError
from epicsrs_bulk._layout import Layout
from epicsrs_bulk._waveform_flight import Procedure, WaveformFlight

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from ophyd_async.core import PathProvider

    from epicsrs_bulk._columns import Column
    from epicsrs_bulk._dead_time_column import DeadTime
    from epicsrs_bulk._flight import Flight
    from epicsrs_bulk._times import TimeAxis

logger = logging.getLogger("epicsrs.bulk")


class BulkWaveformDataLogic(DetectorDataLogic):
    """Waveforms that a device has filled when its acquisition ends, as columns of an HDF5 file.

    For detectors that have no file of their own, such as multi-channel scalers. The rows of an acquisition come when
    the ``done`` PV has gone to another value and back; they count as collections, so ``complete`` ends when there are
    as many as the detector was prepared for. Starting and stopping the device is the matter of the detector's trigger
    and acquire logics. EventPages instead of a file are not to be had: no detector of ophyd-async 0.21 emits them
    (bluesky/ophyd-async#1408).

    The data keys are ``<detector>-<key>`` and ``<detector>-<key>_valid`` for each column, and
    ``<detector>-time_ns`` for the rows' times by the IOC's clock.

    What goes wrong with the data is logged when it happens, and raised by the detector's ``unstage``: ``complete``
    only sees that rows are missing.

    Args:
        columns: What to read, at least one.
        times: When each row was measured.
        path_provider: Where the file goes; its folder has to exist.
        done: The PV that tells the end of an acquisition and the value it has then.
        rows: How many an acquisition has: a number, the PV that knows it, or None for as many as the longest column.
        io_timeout: Seconds for connecting and the first read, and for the read at the end.
        settle: Seconds after done in which records may still come in.
        spread: Seconds by which the timestamps of the columns' records may be apart; None where that says nothing.
        hinted: Keys of the columns that callbacks should show.
        dead_times: Columns of factors that are made from the others, which stay as they are.

    Raises:
        ImportError: This ophyd-async asks a data logic for something else.
        TypeError: An argument of the wrong type.
        ValueError: No column, two columns of one name, a timeout that is negative or NaN.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        times: TimeAxis,
        path_provider: PathProvider,
        *,
        done: tuple[str, object],
        rows: int | str | None = None,
        io_timeout: float = 5.0,
        settle: float = 0.0,
        spread: float | None = None,
        hinted: Sequence[str] = (),
        dead_times: Sequence[DeadTime] = (),
    ) -> None:
        if not hasattr(DetectorDataLogic, "prepare_unbounded"):
            raise ImportError(
                f"{type(self).__name__} is for ophyd-async 0.21, whose data logics have prepare_unbounded; those of "
                f"{version('ophyd-async')} are of another kind (bluesky/ophyd-async#1408)"
            )
        if not columns:
            raise ValueError("a data logic needs at least one column")
        self._columns = tuple(columns)
        # Refused now rather than at the first scan.
        self._layout = Layout(self._columns, times, "time_ns", rows, spread, tuple(dead_times))
        self._procedure = Procedure((), (), done, (), None, io_timeout, io_timeout, settle)
        self._path_provider = path_provider
        self._hinted = tuple(hinted)
        self._acquisitions: Acquisitions | None = None

    def get_hinted_fields(self, datakey_name: str) -> Sequence[str]:
        return [f"{datakey_name}-{key}" for key in self._hinted]

    async def prepare_unbounded(self, datakey_name: str, *_period: float) -> StreamableDataProvider:
        """Make the file and listen; ophyd-async calls it in the detector's ``prepare``.

        Raises:
            FlightError: A PV is missing or of a type that does not fit, or the file cannot be written.
        """
        await self.stop()
        info = self._path_provider(datakey_name)
        layout = replace(
            self._layout,
            columns=[replace(column, key=f"{datakey_name}-{column.key}") for column in self._columns],
            time_key=f"{datakey_name}-time_ns",
            dead_times=[factor.renamed(f"{datakey_name}-") for factor in self._layout.dead_times],
        )
        keys = layout.describe()
        filename = f"{info.filename}.h5"
        file = ColumnFile(datakey_name, Path(info.directory_path) / filename, keys)
        written, set_written = soft_signal_r_and_setter(int, 0)
        self._acquisitions = Acquisitions(
            lambda: WaveformFlight(datakey_name, self._procedure, layout), file, set_written
        )
        await self._acquisitions.begin()
        return StreamResourceDataProvider(
            uri=info.directory_uri + filename,
            resources=[_resource(key, described) for key, described in keys.items()],
            mimetype=MIMETYPE,
            collections_written_signal=written,
        )

    async def stop(self) -> None:
        """Leave what an acquisition that is under way has measured in the file, and close it.

        Raises:
            FlightError: What went wrong with the data since ``prepare``.
        """
        acquisitions, self._acquisitions = self._acquisitions, None
        if acquisitions is not None:
            await acquisitions.end()


class Acquisitions:
    """One flight after the other into one file, each begun before the rows of the last one are announced.

    Args:
        make: Makes a flight that waits for somebody else to start it.
        file: Where the rows go.
        announce: Told how many rows are in the file.
    """

    def __init__(self, make: Callable[[], Flight], file: ColumnFile, announce: Callable[[int], None]) -> None:
        self._make = make
        self._file = file
        self._announce = announce
        self._loop = asyncio.get_running_loop()
        self._flight: Flight | None = None
        self._failure: FlightError | None = None
        self._ending = False

    async def begin(self) -> None:
        """Listen for the first acquisition; FlightError where that is not possible."""
        flight = self._launch()
        try:
            await asyncio.wrap_future(flight.started)
        except FlightError:
            # It is told here, and there is nothing to stop.
            self._flight, self._ending = None, True
            raise

    async def end(self) -> None:
        """Break off what is under way; the FlightError of anything that went wrong."""
        self._ending = True
        flight = self._flight
        if flight is not None:
            flight.break_off("the detector was stopped")
            self._keep(await asyncio.wrap_future(flight.ended))
        if self._failure is not None:
            raise self._failure

    def _launch(self) -> Flight:
        flight = self._flight = self._make()
        flight.launch(self._file)
        flight.ended.add_done_callback(lambda ended: self._loop.call_soon_threadsafe(self._ended, ended))
        return flight

    def _ended(self, ended: Future[FlightError | None]) -> None:
        if self._ending:
            return
        error = ended.result()
        self._keep(error)
        written = self._file.written
        if error is not None and not isinstance(error, FlightDataError):
            self._announce(written)
            return
        # The device may be started again as soon as the rows are announced.
        self._launch().started.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._announce, written))

    def _keep(self, error: FlightError | None) -> None:
        if error is not None and not isinstance(error, FlightStoppedError):
            logger.error("%s", error)
            self._failure = self._failure or error


def _resource(key: str, described: Any) -> StreamResourceInfo:
    return StreamResourceInfo(
        data_key=key,
        shape=(),
        chunk_shape=(CHUNK,),
        dtype_numpy=np.dtype(described["dtype_numpy"]).str,
        parameters={"dataset": f"/{key}"},
        source=described["source"],
    )
