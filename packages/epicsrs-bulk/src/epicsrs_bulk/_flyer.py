"""What all flyers have in common: who may call what when, who is told what, and that rows are emitted once."""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from epicsrs_bulk._errors import FlightError, FlightStoppedError
from epicsrs_bulk._nested import NestedFlyer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from concurrent.futures import Future

    from bluesky.protocols import Reading, Status
    from event_model import DataKey, PartialEventPage

    from epicsrs_bulk._flight import Flight, Outcome

    class SettableStatus(Status, Protocol):
        """The part of ophyd's Status that a device ends it with."""

        def set_finished(self) -> None: ...
        def set_exception(self, exc: BaseException) -> None: ...


# A flight's thread answers a stop after this many seconds more than it needs for the writes.
_SLACK = 1.0


class Flyer(ABC):
    """A flyer for bluesky, of flights that each run in a thread of their own.

    Raises:
        ImportError: ophyd is not installed, whose Status bluesky is given.
    """

    # What bluesky asks every device for.
    parent = None

    def __init__(self, name: str, stop_timeout: float) -> None:
        self._name = name
        self._stop_timeout = stop_timeout
        self._made = time.time()
        self._status = _status_class(type(self).__name__)
        self._lock = threading.Lock()
        self._flights: list[Flight] = []
        self._completing: list[SettableStatus] = []
        self._resumed = False

    @abstractmethod
    def _flight(self) -> Flight:
        """A new flight, not launched yet."""

    @abstractmethod
    def describe_collect(self) -> Mapping[str, Any]:
        """The data keys of what ``collect_pages`` will yield."""

    @property
    def name(self) -> str:
        return self._name

    @property
    def _configuration(self) -> dict[str, str | float]:
        """How the rows come about, for the descriptor."""
        return {}

    def describe_configuration(self) -> dict[str, DataKey]:
        """The data keys of ``read_configuration``."""
        return {
            key: {"source": self._name, "dtype": "string" if isinstance(value, str) else "number", "shape": []}
            for key, value in self._configuration.items()
        }

    def read_configuration(self) -> dict[str, Reading[Any]]:
        """How the rows come about: settings of this object, which the descriptor records."""
        return {key: {"value": value, "timestamp": self._made} for key, value in self._configuration.items()}

    def nested(self, stream: str = "primary") -> NestedFlyer:
        """The same flyer for plans that declare no stream, as ``bp.fly``: its rows go to ``stream``."""
        return NestedFlyer(self, stream)

    def kickoff(self) -> Status:
        """Check all PVs and start; the status ends when the flight is under way.

        Raises:
            FlightError: A flight is under way, or the rows of the last one have not been collected.
        """
        if self._flights and not self._resumed:
            last = self._flights[-1]
            if not last.ended.done():
                raise FlightError(f"{self._name}: a flight is under way", self._name)
            if last.ended.result().pages:
                raise FlightError(
                    f"{self._name}: the rows of the last flight were not collected; collect or discard them", self._name
                )
            self._flights.clear()
        self._resumed = False
        flight = self._flight()
        self._flights.append(flight)
        status = self._status(self)

        def tell(started: Future[None]) -> None:
            error = started.exception()
            flight.told |= error is not None
            _end(status, error)

        flight.started.add_done_callback(tell)
        flight.launch()
        return status

    def complete(self) -> Status:
        """Wait for the end; the status ends when the rows have been read, or fails with the FlightError.

        Raises:
            FlightError: There is no flight.
        """
        if not self._flights:
            raise FlightError(f"{self._name}: complete without a kickoff", self._name)
        flight = self._flights[-1]
        status = self._status(self)
        if flight.paused:
            _end(status, FlightStoppedError(f"{self._name}: broken off by a pause and not started again", self._name))
            return status
        with self._lock:
            self._completing.append(status)
        flight.finish()
        flight.ended.add_done_callback(lambda ended: self._tell_end(flight, ended.result()))
        return status

    async def collect_pages(self) -> AsyncIterator[PartialEventPage]:
        """The rows of the flight, once: one page, and one more for each time that a pause has broken it off.

        Raises:
            FlightError: There is no flight; or, after the pages, what no status could tell: the flight was not at its
                end, or has doubtful data.
        """
        if not self._flights:
            raise FlightError(f"{self._name}: nothing to collect; there was no flight since the last time", self._name)
        flights, self._flights = self._flights, []
        self._resumed = False
        untold: FlightError | None = None
        for flight in flights:
            flight.break_off("its rows were collected before it was done")
            outcome = await asyncio.wrap_future(flight.ended)
            self._tell_end(flight, outcome)
            for page in outcome.pages:
                yield cast("PartialEventPage", page)
                # bluesky validates and emits a page without letting go of its loop.
                await asyncio.sleep(0)
            if outcome.error is not None and not (flight.told or flight.paused):
                untold = outcome.error
        self._end_all(FlightStoppedError(f"{self._name}: broken off by a pause", self._name))
        if untold is not None:
            raise untold

    def discard(self) -> None:
        """Forget the rows of a flight that is over, so that the next one can begin.

        Raises:
            FlightError: A flight is under way; stop it first.
        """
        if any(not flight.ended.done() for flight in self._flights):
            raise FlightError(f"{self._name}: a flight is under way", self._name)
        self._flights.clear()

    def stop(self, success: bool = True) -> None:  # noqa: ARG002 (bluesky's signature)
        """Break the flight off and return when it is disarmed; nothing where there is none.

        Raises:
            FlightError: It could not be disarmed within ``stop_timeout``.
        """
        self._break_off("stop() was called")

    def pause(self) -> None:
        """Break the flight off as ``stop`` does; a plan that goes on starts another one from its last checkpoint."""
        if self._flights and not self._flights[-1].ended.done():
            self._flights[-1].paused = True
            self._break_off("the plan was paused")

    def resume(self) -> None:
        """Let the plan start again; rows from before the pause are collected with the new ones."""
        self._resumed = True

    def stage(self) -> list[Any]:
        return [self]

    def unstage(self) -> list[Any]:
        """Break off a flight that is still under way."""
        self._break_off("the flyer was unstaged")
        return [self]

    def _break_off(self, why: str) -> None:
        if self._flights and not self._flights[-1].ended.done():
            self._flights[-1].break_off(why)
            bound = self._stop_timeout + _SLACK
            try:
                self._flights[-1].disarmed.result(bound)
            except TimeoutError:
                raise FlightError(f"{self._name}: not disarmed within {bound:g} s", self._name) from None

    def _tell_end(self, flight: Flight, outcome: Outcome) -> None:
        if not flight.paused:
            flight.told |= self._end_all(outcome.error)

    def _end_all(self, error: FlightError | None) -> bool:
        """End what waits for the end of a flight; whether anything did."""
        with self._lock:
            waiting, self._completing = self._completing, []
        for status in waiting:
            _end(status, error)
        return bool(waiting)


def _end(status: SettableStatus, error: BaseException | None) -> None:
    if error is None:
        status.set_finished()
    else:
        status.set_exception(error)


def _status_class(who: str) -> Callable[[Flyer], SettableStatus]:
    """Ophyd's Status; imported here, as ophyd takes a second and reads of many PVs do not need it."""
    try:
        return import_module("ophyd.status").Status
    except ModuleNotFoundError as error:
        raise ImportError(f"{who} needs ophyd; pip install 'epicsrs-bulk[sync]' brings it") from error
