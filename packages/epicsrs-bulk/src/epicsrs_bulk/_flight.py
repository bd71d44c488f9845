"""One flight of a flyer, in a thread of its own."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from epicsrs_bulk._backstop import called_by_backstop
from epicsrs_bulk._errors import FlightError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Rows(Protocol):
    """Where a flight leaves its rows; called in the flight's thread."""

    def begin(self, expected: int | None) -> None:
        """Make ready for rows, of which so many are expected; before anything is written to the hardware.

        Raises:
            FlightError: They could not be kept.
        """
        ...

    def add(self, page: dict[str, Any]) -> None:
        """Take the rows of one partial EventPage.

        Raises:
            FlightError: They cannot be kept.
        """
        ...

    def end(self) -> None:
        """No more rows come; called once, whatever has happened before.

        Raises:
            FlightError: What was taken before is not safe.
        """
        ...


@dataclass(frozen=True)
class Outcome:
    """How a flight ended.

    Attributes:
        pages: Its rows, as partial EventPages; none where there are no rows.
        error: What went wrong, if anything did.
    """

    pages: Sequence[dict[str, Any]]
    error: FlightError | None


class Flight(ABC):
    """One flight, whose waits and reads do not hold up the RunEngine.

    Attributes:
        started: Done when the IOC is seen to fly, or has answered the start; or the reason why it does not fly.
        disarmed: Done when nothing is left to disarm; or the reason why that failed.
        ended: Done when the rows have been read and left, or could not be; what went wrong, if anything did.
        finishing: Done when somebody waits for the end.
        broken: Done when it shall be broken off; why.
        paused: Whether it was broken off by a pause; what waits for its end then waits for the next flight.
        told: Whether somebody has been told how it ended.
        rows: Where its rows go.
        gradual: Whether rows come during the flight.
    """

    gradual = False
    rows: Rows

    def __init__(self, name: str) -> None:
        self.started: Future[None] = Future()
        self.disarmed: Future[None] = Future()
        self.ended: Future[FlightError | None] = Future()
        self.paused = False
        self.told = False
        self.name = name
        self._after: Flight | None = None
        self.finishing: Future[None] = Future()
        self.broken: Future[str] = Future()

    def launch(self, rows: Rows, after: Flight | None = None) -> None:
        """Begin, and leave the rows there; after another flight has left its own, which the hardware still has."""
        self.rows = rows
        self._after = after
        threading.Thread(target=self._run, name=f"{self.name}-flight", daemon=True).start()

    def finish(self) -> None:
        """Somebody waits for the end, which may take its course."""
        settle(self.finishing, None)

    def break_off(self, why: str) -> None:
        """End it: disarm, then read what there is. Returns at once; nothing happens to a flight that has ended."""
        settle(self.broken, why)

    def goes_on_after_a_collect(self) -> bool:
        """Whether a plan that collects now wants what there is, and comes again for the rest.

        It does while it waits for the end, or where rows come all the time; not where it has died. To be asked within
        a collect.
        """
        flying = not (self.ended.done() or self.broken.done())
        return flying and (self.gradual or self.finishing.done()) and not called_by_backstop()

    @abstractmethod
    def fly(self) -> Outcome:
        """The whole flight, in its thread; it sets ``started`` and ``disarmed`` where the end would be too late."""

    def error(self, kind: type[FlightError], message: str, cause: BaseException | None = None) -> FlightError:
        """An error of this flight."""
        error = kind(f"{self.name}: {message}", self.name)
        error.__cause__ = cause
        return error

    def _run(self) -> None:
        failure, unsafe = self._attempt(self._fly_and_leave), self._attempt(self.rows.end)
        if failure is not None and unsafe is not None:
            failure.add_note(f"and {unsafe}")
        failure = failure or unsafe
        if failure is not None and not self.started.done():
            self.started.set_exception(failure)
        settle(self.started, None)
        settle(self.disarmed, None)
        self.ended.set_result(failure)

    def _attempt(self, step: Callable[[], None]) -> FlightError | None:
        try:
            step()
        except FlightError as error:
            return error
        except Exception as error:
            return self.error(FlightError, f"the flight failed: {error}", error)
        return None

    def _fly_and_leave(self) -> None:
        if self._after is not None:
            self._after.ended.result()
            self._after = None
        outcome = self.fly()
        try:
            for page in outcome.pages:
                self.rows.add(page)
        except FlightError as error:
            if outcome.error is not None:
                error.add_note(f"and {outcome.error}")
            raise
        if outcome.error is not None:
            raise outcome.error


def settle(future: Future[Any], result: Any) -> None:
    """Give a future its result, unless it has one: two threads may both have a reason."""
    try:
        future.set_result(result)
    except InvalidStateError:
        return
