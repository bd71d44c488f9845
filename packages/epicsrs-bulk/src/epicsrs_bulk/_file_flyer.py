"""Flyers whose rows go into a file, which the documents announce."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epicsrs_bulk._column_file import ColumnFile
from epicsrs_bulk._errors import FlightError
from epicsrs_bulk._flyer import Flyer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from os import PathLike
    from typing import TypeAlias

    from bluesky.protocols import StreamAsset
    from event_model import DataKey

    from epicsrs_bulk._flight import Flight

    Folder: TypeAlias = str | PathLike[str] | Callable[[], str | PathLike[str]]

logger = logging.getLogger("epicsrs.bulk")


class FileFlyer(Flyer):
    """A flyer that WritesStreamAssets, and therefore is never EventPageCollectable: bluesky would emit nothing.

    What ``stored_in`` gives: another flyer's flights, whose rows go into an HDF5 file with a dataset for each column.
    Its stream has to be declared, as bluesky takes no StreamResources from ``bp.fly``. Each declaration, so each run,
    begins a file at its next kickoff; further flights of the run follow in it, with indices that go on as those of
    other detectors in the stream do.

    A collect while the plan waits for the end announces the rows that are there, as ``bps.collect_while_completing``
    needs it. Where the stream has other detectors as well, stage the flyer: of a plan that has died bluesky collects no
    such stream, and disarms by unstaging only; the rows are in the file.

    Args:
        name: The flyer's.
        stop_timeout: Seconds for disarming.
        folder: Where the files go; or a function that tells it at the beginning of each file.
        flight: Makes a flight.
        keys: Describes its columns.
        configuration: How the rows come about.

    Raises:
        ImportError: h5py is not installed; or ophyd, whose Status bluesky is given.
    """

    def __init__(
        self,
        name: str,
        stop_timeout: float,
        folder: Folder,
        flight: Callable[[], Flight],
        keys: Callable[[], Mapping[str, Any]],
        configuration: dict[str, str | float],
    ) -> None:
        if find_spec("h5py") is None:
            raise ImportError(f"{name}: files need h5py; pip install 'epicsrs-bulk[hdf5]' brings it")
        super().__init__(name, stop_timeout)
        self._folder = folder
        self._make_flight = flight
        self._keys = keys
        self._settings = configuration
        self._file: ColumnFile | None = None
        self._declared = False

    def __repr__(self) -> str:
        return f"<FileFlyer {self.name}: {len(self._keys())} datasets>"

    @property
    def path(self) -> Path | None:
        """The file of the last flight; None before the first one."""
        return self._file.path if self._file is not None else None

    def describe_collect(self) -> dict[str, DataKey]:
        """The data keys of the stream, whose values are in the file; the next kickoff begins a new one."""
        self._declared = True
        keys: dict[str, DataKey] = dict(self._keys())
        for key in keys.values():
            key["external"] = "STREAM:"
        return keys

    async def get_index(self) -> int:
        """Rows in the file; of a flight that was broken off, all that it leaves there."""
        flight = self._last()
        if flight is not None and flight.broken.done():
            await asyncio.wrap_future(flight.ended)
        return self._file.written if self._file is not None else 0

    async def collect_asset_docs(self, index: int | None = None) -> AsyncIterator[StreamAsset]:
        """StreamResources and StreamDatums of the rows that were not announced yet, up to ``index`` rows of the file.

        Before the end of a flight that somebody waits for, or of one beside other detectors, what there is; otherwise
        the flight is broken off.

        Raises:
            FlightError: There was no flight.
        """
        flight = self._last()
        if self._file is None or flight is None:
            raise FlightError(f"{self._name}: nothing to collect; there was no flight", self._name)
        if index is None and not flight.goes_on_after_a_collect():
            flight.break_off("its rows were collected before it was done")
            self._tell_end(flight, await asyncio.wrap_future(flight.ended))
        for document in self._file.documents(await self.get_index() if index is None else index):
            yield document
        self._log_untold(flight)

    def discard(self) -> None:
        """Forget the rows of flights that are over, so that the next run can begin; they stay in their file.

        Raises:
            FlightError: A flight is under way; stop it first.
        """
        super().discard()
        if self._file is not None:
            self._file.announced = self._file.written

    @property
    def _configuration(self) -> dict[str, str | float]:
        return self._settings

    def _flight(self) -> Flight:
        return self._make_flight()

    def _rows(self) -> ColumnFile:
        if self._file is None or self._declared:
            folder = self._folder() if callable(self._folder) else self._folder
            name = f"{self._name}-{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:8]}.h5"
            self._file = ColumnFile(self._name, Path(folder) / name, self._keys())
            self._declared = False
        return self._file

    def _uncollected(self) -> bool:
        return self._declared and self._file is not None and self._file.announced < self._file.written

    def _log_untold(self, flight: Flight) -> None:
        # bluesky emits no document of a collect that raises.
        if flight.ended.done() and not (flight.told or flight.paused):
            error = flight.ended.result()
            if error is not None:
                flight.told = True
                logger.error("%s", error)

    def _last(self) -> Flight | None:
        return self._flights[-1] if self._flights else None
