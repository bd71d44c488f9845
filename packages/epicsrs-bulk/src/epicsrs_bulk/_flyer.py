"""What all flyers have in common: who may call what when, and who is told what."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from epicsrs_bulk._errors import FlightError, FlightStoppedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from bluesky.protocols import Reading, Status
    from event_model import DataKey

    from epicsrs_bulk._flight import Flight, Rows

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
    def _rows(self) -> Rows:
        """Where the next flight leaves its rows."""

    @abstractmethod
    def _uncollected(self) -> bool:
        """Whether rows of flights that are over would be lost to the documents by the next flight."""

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

    def kickoff(self) -> Status:
        """Check all PVs and start; the status ends when the flight is under way.

        Raises:
            FlightError: A flight is under way, or the rows of the last one have not been collected.
        """
        if self._flights and not self._resumed:
            if not self._flights[-1].ended.done():
                raise FlightError(f"{self._name}: a flight is under way", self._name)
            if self._uncollected():
                raise FlightError(
                    f"{self._name}: the rows of the last flight were not collected; collect or discard them", self._name
                )
            self._flights.clear()
        self._resumed = False
        rows = self._rows()
        paused = self._flights[-1] if self._flights else None
        flight = self._flight()
        self._flights.append(flight)
        status = self._status(self)

        def tell(started: Future[None]) -> None:
            error = started.exception()
            flight.told |= error is not None
            _end(status, error)

        flight.started.add_done_callback(tell)
        flight.launch(rows, paused)
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

    def _tell_end(self, flight: Flight, error: FlightError | None) -> None:
        if not flight.paused:
            flight.told |= self._end_all(error)

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
