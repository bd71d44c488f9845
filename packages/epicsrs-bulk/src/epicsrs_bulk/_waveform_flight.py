"""One flight: what is written to the hardware, how its end is seen, what is read then."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from epicsrs_bulk._errors import FlightDataError, FlightError, FlightStoppedError, FlightTimeoutError
from epicsrs_bulk._flight import Flight, Outcome, settle
from epicsrs_bulk._harvest import Harvest, Page
from epicsrs_bulk._read import BulkRead
from epicsrs_native import Channel, EnumValue, EpicsError, get_context

if TYPE_CHECKING:
    from collections.abc import Sequence

    from epicsrs_bulk._layout import Layout
    from epicsrs_native import Subscription


# Between two reads of records that are late, in seconds.
_PAUSE = 0.02


@dataclass(frozen=True)
class Procedure:
    """How to fly.

    Attributes:
        arm: Written one after the other, each to its end, before the start.
        start: Written in order; the last one may take as long as the flight.
        done: The PV that tells the end, and the value it has then, a label for an enum. During the flight it has
            another value. None where the flight ends when somebody waits for its end.
        disarm: Written in order where a flight is broken off.
        timeout: Seconds from kickoff to done; None waits for ever.
        io_timeout: Seconds for connecting and the first read, for each write to arm, and for the read at the end.
        stop_timeout: Seconds for all of ``disarm``.
        settle: Seconds after done in which records may still come in.
    """

    arm: Sequence[tuple[str, object]]
    start: Sequence[tuple[str, object]]
    done: tuple[str, object] | None
    disarm: Sequence[tuple[str, object]]
    timeout: float | None
    io_timeout: float
    stop_timeout: float
    settle: float

    def __post_init__(self) -> None:
        for pv in self.pvs:
            if not isinstance(pv, str):  # pyright: ignore[reportUnnecessaryIsInstance] (callers need not be typed)
                raise TypeError(f"what is written or watched is a PV and a value; {pv!r} is no PV")
        for name, seconds in (
            ("timeout", self.timeout),
            ("io_timeout", self.io_timeout),
            ("stop_timeout", self.stop_timeout),
            ("settle", self.settle),
        ):
            if seconds is None and name == "timeout":
                continue
            if isinstance(seconds, bool) or not isinstance(seconds, int | float):
                raise TypeError(f"{self._who}: {name} is a number of seconds, not {seconds!r}")
            if not (math.isfinite(seconds) and (seconds > 0 or (seconds == 0 and name == "settle"))):
                raise ValueError(f"{self._who}: {name} is positive, not {seconds!r}")

    @property
    def _who(self) -> str:
        """What a message about a timeout begins with."""
        return self.done[0] if self.done is not None else "flight"

    @property
    def pvs(self) -> list[str]:
        """All that is written or watched."""
        done = [self.done] if self.done is not None else []
        return [pv for pv, _ in (*self.arm, *self.start, *done, *self.disarm)]


class WaveformFlight(Flight):
    """A flight that the IOC makes by itself, and whose data waits in waveforms at its end."""

    def __init__(self, name: str, procedure: Procedure, layout: Layout) -> None:
        super().__init__(name)
        self._procedure = procedure
        self._layout = layout
        self._channels: dict[str, Channel] = {}
        self._before = BulkRead([])
        self._last: object = None
        self._armed = False

    def fly(self) -> Outcome:
        return asyncio.run(self._fly())

    async def _fly(self) -> Outcome:
        try:
            for pv in dict.fromkeys([*self._layout.pvs, *self._procedure.pvs]):
                self._channels[pv] = get_context().channel(pv)
            return await self._from_check_to_rows()
        finally:
            for channel in self._channels.values():
                channel.close()

    async def _from_check_to_rows(self) -> Outcome:
        failure = await self._until_done()
        if failure is not None:
            if not self._armed:
                return Outcome((), failure)
            await self._disarm(failure)
        settle(self.disarmed, None)
        page = await self._harvest(done=failure is None)
        if failure is None and page.problems:
            told = "; ".join(page.problems)
            failure = FlightDataError(f"{self.name}: data missing or doubtful: {told}", self.name, *page.problems)
        return Outcome([page.document()] if len(page.times) else (), failure)

    async def _harvest(self, *, done: bool) -> Page:
        """What is read at the end."""
        readings = await (self._read_all() if done else self._read(self._layout.pvs))
        return Harvest(self._layout, readings, self._before, done=done).page()

    async def _listen(self) -> None:
        """What a flight hears during it, from before anything is written."""

    async def _check(self) -> None:
        """All PVs are there and of types that fit, before anything is written."""
        channels = list(self._channels.values())
        for error in await get_context().connect_many_async(channels, timeout=self._procedure.io_timeout):
            if error is not None:
                raise error
        self._before = await self._read(self._layout.pvs)
        self._before.raise_first()
        self._layout.check(self._before)
        if self._procedure.done is None:
            return
        pv, wanted = self._procedure.done
        value = (await self._channels[pv].get_async(timeout=self._procedure.io_timeout)).value
        if isinstance(wanted, str) is not isinstance(value, str) and not isinstance(value, EnumValue):
            raise TypeError(f"{pv}: done is {wanted!r}, but the PV holds {value!r}")

    async def _until_done(self) -> FlightError | None:
        """Fly; None when it is done, else why it is not."""
        flying = asyncio.create_task(self._from_check_to_done())
        broken = asyncio.wrap_future(self.broken)
        try:
            await asyncio.wait({flying, broken}, timeout=self._procedure.timeout, return_when="FIRST_COMPLETED")
            if flying.done():
                return await flying
            if broken.done():
                return self.error(FlightStoppedError, f"broken off: {broken.result()}")
            return self._timed_out()
        except FlightError as error:
            return error
        except Exception as error:
            # Whatever it is, the hardware is disarmed.
            return self.error(FlightError, f"{'broken off' if self._armed else 'not started'}: {error}", error)
        finally:
            flying.cancel()
            broken.cancel()
            await asyncio.wait({flying})

    async def _from_check_to_done(self) -> None:
        await self._check()
        self.rows.begin(self._layout.rows if isinstance(self._layout.rows, int) else None)
        await self._listen()
        self._armed = True
        for pv, value in self._procedure.arm:
            await self._channels[pv].put_async(value, timeout=self._procedure.io_timeout)
        if self._procedure.done is None:
            await self._start()
            settle(self.started, None)
            await asyncio.wrap_future(self.finishing)
            return
        pv, wanted = self._procedure.done
        # Before the start, so that no flight is too short to be seen.
        subscription = await self._channels[pv].monitor_async(timeout=self._procedure.io_timeout)
        watch = asyncio.create_task(self._watch(subscription, wanted))
        start = asyncio.create_task(self._start())
        try:
            await asyncio.wait({watch, start}, return_when="FIRST_COMPLETED")
            if start.done():
                await start
                settle(self.started, None)
            await watch
        finally:
            subscription.close()
            watch.cancel()
            start.cancel()
            await asyncio.wait({watch, start})

    async def _watch(self, subscription: Subscription, wanted: object) -> None:
        """Until the PV has left the value that says done, and has come back to it."""
        flying = False
        async for reading in subscription:
            self._last = reading.value
            done = _equal(reading.value, wanted)
            if flying and done:
                return
            if not done:
                flying = True
                settle(self.started, None)

    async def _start(self) -> None:
        for pv, value in self._procedure.start:
            await self._channels[pv].put_async(value, timeout=None)

    async def _disarm(self, failure: FlightError) -> None:
        try:
            async with asyncio.timeout(self._procedure.stop_timeout):
                for pv, value in self._procedure.disarm:
                    await self._channels[pv].put_async(value, timeout=None)
        except (EpicsError, TypeError, ValueError, TimeoutError) as error:
            told = str(error) or f"no answer within {self._procedure.stop_timeout:g} s"
            failure.add_note(f"and it could not be disarmed: {told}")
            self.disarmed.set_exception(self.error(FlightError, f"could not be disarmed: {told}", error))

    async def _read_all(self) -> BulkRead:
        """All PVs; those that are late again, until they are there or ``settle`` is over."""
        readings = await self._read(self._layout.pvs)
        end = asyncio.get_running_loop().time() + self._procedure.settle
        while (
            late := Harvest(self._layout, readings, self._before, done=True).late()
        ) and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(min(_PAUSE, self._procedure.settle))
            readings = BulkRead([*readings.values(), *(await self._read(late)).values()])
        return readings

    async def _read(self, pvs: Sequence[str]) -> BulkRead:
        channels = [self._channels[pv] for pv in pvs]
        answers = await get_context().get_many_async(channels, timeout=self._procedure.io_timeout)
        return BulkRead.of(pvs, answers)

    def _timed_out(self) -> FlightError:
        if self._procedure.done is None:
            return self.error(FlightTimeoutError, f"nobody has ended it within {self._procedure.timeout:g} s")
        pv, wanted = self._procedure.done
        state = f"{pv} is {self._last!r}, not {wanted!r}" if self._last is not None else f"{pv} was not seen"
        if self._last is not None and _equal(self._last, wanted):
            state = f"{pv} has been {wanted!r} all the time"
        if not self._channels[pv].connected:
            state += ", and it is disconnected"
        return self.error(FlightTimeoutError, f"not done within {self._procedure.timeout:g} s: {state}")


def _equal(value: object, wanted: object) -> bool:
    if isinstance(value, EnumValue) and isinstance(wanted, str):
        return value.label == wanted
    return value == wanted
