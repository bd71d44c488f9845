"""A fly scan whose data waits in waveform records, as a flyer for bluesky."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from epicsrs_bulk._errors import FlightError, FlightStoppedError
from epicsrs_bulk._flight import Flight, Procedure
from epicsrs_bulk._layout import Layout
from epicsrs_bulk._nested import NestedFlyer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from concurrent.futures import Future

    from bluesky.protocols import Status
    from event_model import DataKey, PartialEventPage

    from epicsrs_bulk._columns import Column
    from epicsrs_bulk._flight import Outcome
    from epicsrs_bulk._times import TimeAxis

    class SettableStatus(Status, Protocol):
        """The part of ophyd's Status that a device ends it with."""

        def set_finished(self) -> None: ...
        def set_exception(self, exc: BaseException) -> None: ...


# A flight's thread answers a stop after this many seconds more than it needs for the writes.
_SLACK = 1.0


class WaveformFlyer:
    """Starts a fly scan, sees its end, reads its waveforms once and yields them as one EventPage.

    ``describe_collect`` is flat, for plans that say ``declare_stream(flyer, name=..., collect=True)``; ``bp.fly``
    takes ``flyer.nested()``. Each column ``key`` has a neighbour ``key_valid``, and the rows' times by the IOC's clock
    stand in ``timestamps`` and, in integer ns, in a column of their own.

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

    Raises:
        ImportError: ophyd is not installed, whose Status bluesky is given.
        TypeError: An argument of the wrong type.
        ValueError: No column, two columns of one name, a timeout that is negative or NaN.
    """

    # What bluesky asks every device for.
    parent = None

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
    ) -> None:
        if not columns:
            raise ValueError(f"{name}: a flyer needs at least one column")
        self._name = name
        self._layout = Layout(tuple(columns), times, time_key or f"{name}_time_ns", rows, spread)
        self._procedure = Procedure(
            tuple(arm), tuple(start), done, tuple(disarm), timeout, io_timeout, stop_timeout, settle
        )
        self._status = _status_class()
        self._flights: list[Flight] = []
        self._completing: list[SettableStatus] = []
        self._resumed = False

    def __repr__(self) -> str:
        return f"<WaveformFlyer {self._name}: {len(self._layout.columns)} columns>"

    @property
    def name(self) -> str:
        return self._name

    def nested(self, stream: str = "primary") -> NestedFlyer:
        """The same flyer for plans that declare no stream, as ``bp.fly``: its rows go to ``stream``."""
        return NestedFlyer(self, stream)

    def kickoff(self) -> Status:
        """Check all PVs, arm and start; the status ends when the IOC flies.

        Raises:
            FlightError: A flight is under way, or the rows of the last one have not been collected.
        """
        if self._flights and not self._resumed:
            last = self._flights[-1]
            if not last.ended.done():
                raise FlightError(f"{self._name}: a flight is under way", self._name)
            if last.ended.result().page is not None:
                raise FlightError(
                    f"{self._name}: the rows of the last flight were not collected; collect or discard them", self._name
                )
            self._flights.clear()
        self._resumed = False
        flight = Flight(self._name, self._procedure, self._layout)
        self._flights.append(flight)
        status = self._status(self)

        def tell(started: Future[None]) -> None:
            error = started.exception()
            flight.told |= error is not None
            _end(status, error)

        flight.started.add_done_callback(tell)
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
        self._completing.append(status)
        flight.ended.add_done_callback(lambda ended: self._tell_end(flight, ended.result()))
        return status

    def describe_collect(self) -> dict[str, DataKey]:
        """The data keys of the page that ``collect_pages`` will yield."""
        return self._layout.describe()

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
            if outcome.page is not None:
                yield cast("PartialEventPage", outcome.page.document())
            if outcome.error is not None and not (flight.told or flight.paused):
                untold = outcome.error
        while self._completing:
            _end(self._completing.pop(), FlightStoppedError(f"{self._name}: broken off by a pause", self._name))
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
            bound = self._procedure.stop_timeout + _SLACK
            try:
                self._flights[-1].disarmed.result(bound)
            except TimeoutError:
                raise FlightError(f"{self._name}: not disarmed within {bound:g} s", self._name) from None

    def _tell_end(self, flight: Flight, outcome: Outcome) -> None:
        if not flight.paused:
            while self._completing:
                flight.told = True
                _end(self._completing.pop(), outcome.error)


def _end(status: SettableStatus, error: BaseException | None) -> None:
    if error is None:
        status.set_finished()
    else:
        status.set_exception(error)


def _status_class() -> Callable[[WaveformFlyer], SettableStatus]:
    """Ophyd's Status; imported here, as ophyd takes a second and reads of many PVs do not need it."""
    try:
        return import_module("ophyd.status").Status
    except ModuleNotFoundError as error:
        raise ImportError("WaveformFlyer needs ophyd; pip install 'epicsrs-bulk[sync]' brings it") from error
