"""Flyers whose rows go into the documents themselves, as EventPages."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from epicsrs_bulk._columns import frozen
from epicsrs_bulk._errors import FlightError, FlightStoppedError
from epicsrs_bulk._file_flyer import FileFlyer
from epicsrs_bulk._flyer import Flyer
from epicsrs_bulk._nested import NestedFlyer
from epicsrs_bulk._validation import elements_are_looked_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from typing import Self

    from event_model import PartialEventPage

    from epicsrs_bulk._file_flyer import Folder
    from epicsrs_bulk._flight import Flight


# bluesky validates a page in its loop at about 4 us for a cell and its timestamp.
CELLS = 5_000
# From so many in a page on its flyer says what would spare that.
_MANY = 50_000

logger = logging.getLogger("epicsrs.bulk")


class PageQueue:
    """The pages of one flight, until somebody collects them."""

    def __init__(self) -> None:
        self._pages: deque[dict[str, Any]] = deque()

    def __len__(self) -> int:
        return len(self._pages)

    def begin(self, expected: int | None) -> None:
        """Nothing to make ready."""

    def add(self, page: dict[str, Any]) -> None:
        self._pages.append(page)

    def end(self) -> None:
        """Nothing to close."""

    def take(self) -> dict[str, Any] | None:
        """The oldest page, with those of the same stream behind it, which are then gone; None where there is none."""
        if not self._pages:
            return None
        pages = [self._pages.popleft()]
        while self._pages and self._pages[0]["data"].keys() == pages[0]["data"].keys():
            pages.append(self._pages.popleft())
        return pages[0] if len(pages) == 1 else _joined(pages)


class PageFlyer(Flyer):
    """A flyer that is EventPageCollectable, and therefore never WritesStreamAssets: bluesky would emit nothing."""

    @abstractmethod
    def describe_collect(self) -> Mapping[str, Any]:
        """The data keys of what ``collect_pages`` will yield."""

    def nested(self, stream: str = "primary") -> NestedFlyer:
        """The same flyer for plans that declare no stream, as ``bp.fly``: its rows go to ``stream``."""
        return NestedFlyer(self, stream)

    def stored_in(self, folder: Folder, *, above: int = CELLS) -> FileFlyer | Self:
        """The flyer for rows in HDF5 files: of the same flights, for large scans; use one of the two.

        Args:
            folder: Where the files go, a file for each run; or a function that tells it at the beginning of each.
            above: Rows times columns up to which pages will do: a flyer that is known to have no more remains as it
                is. 0 for a file always.

        Raises:
            ImportError: h5py is not installed.
            TypeError: The flyer has more than one stream.
        """
        cells = self._cells()
        if cells is not None and cells <= above:
            return self
        return FileFlyer(
            self._name, self._stop_timeout, folder, self._flight, self.describe_collect, self._configuration
        )

    def _cells(self) -> int | None:
        """Rows times columns of a flight; None where that is not known before."""
        return None

    async def collect_pages(self) -> AsyncIterator[PartialEventPage]:
        """The rows of the flight, each once, and those of flights that a pause has broken off.

        Before the end of a flight that somebody waits for, or that gives rows all the time, what there is; otherwise
        the flight is broken off.

        Raises:
            FlightError: There is no flight; or, after the pages, what no status could tell: the flight was not at its
                end, or has doubtful data.
        """
        if not self._flights:
            raise FlightError(f"{self._name}: nothing to collect; there was no flight since the last time", self._name)
        last = self._flights[-1]
        goes_on = last.goes_on_after_a_collect()
        flights, self._flights = self._flights, [last] if goes_on else []
        untold: FlightError | None = None
        for flight in flights:
            error: FlightError | None = None
            if not (goes_on and flight is last):
                flight.break_off("its rows were collected before it was done")
                error = await asyncio.wrap_future(flight.ended)
                self._tell_end(flight, error)
            while (page := _queue(flight).take()) is not None:
                self._warn_of(page)
                yield cast("PartialEventPage", page)
                # bluesky validates and emits a page without letting go of its loop.
                await asyncio.sleep(0)
            if error is not None and not (flight.told or flight.paused):
                untold = error
        if not goes_on:
            self._resumed = False
            self._end_all(FlightStoppedError(f"{self._name}: broken off by a pause", self._name))
        if untold is not None:
            raise untold

    def _warn_of(self, page: dict[str, Any]) -> None:
        cells = len(page["time"]) * len(page["data"])
        if cells >= _MANY and elements_are_looked_at():
            logger.warning(
                "%s: bluesky looks at each of %d values before it emits this page, and the RunEngine stands still "
                "meanwhile; put the rows into a file (stored_in), or fly within fast_event_page_validation()",
                self._name,
                cells,
            )

    def _rows(self) -> PageQueue:
        return PageQueue()

    def _uncollected(self) -> bool:
        return any(len(_queue(flight)) for flight in self._flights)


def _joined(pages: list[dict[str, Any]]) -> dict[str, Any]:
    times = frozen(np.concatenate([page["time"] for page in pages]))
    data = {key: frozen(np.concatenate([page["data"][key] for page in pages])) for key in pages[0]["data"]}
    return {"data": data, "timestamps": dict.fromkeys(data, times), "time": times}


def _queue(flight: Flight) -> PageQueue:
    return cast("PageQueue", flight.rows)
