"""One flight whose waveforms are read while they are being filled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np

from epicsrs_bulk._columns import frozen
from epicsrs_bulk._harvest import INVALID, Page
from epicsrs_bulk._tails import Tails
from epicsrs_bulk._waveform_flight import WaveformFlight

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from epicsrs_bulk._layout import Layout
    from epicsrs_bulk._tails import Tail
    from epicsrs_bulk._waveform_flight import Procedure
    from epicsrs_native import Subscription

# Seconds between two looks at what has come, and that last updates may take longer than an answer to a read.
_PAUSE, _ON_THEIR_WAY = 0.05, 0.2


class GrowingFlight(WaveformFlight):
    """A flight that gives rows as its waveforms gain them."""

    gradual = True

    def __init__(self, name: str, procedure: Procedure, layout: Layout) -> None:
        super().__init__(name, procedure, layout)
        self._tails = Tails(layout.columns, name, layout.time_key)
        self._subscriptions: dict[str, Subscription] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._problems: dict[str, str] = {}

    async def _listen(self) -> None:
        for tail in self._tails.tails:
            pv = tail.column.pv
            subscription = await self._channels[pv].monitor_async(timeout=self._procedure.io_timeout)
            self._subscriptions[tail.column.key] = subscription
            # What the waveform holds before the flight.
            tail.take(await anext(subscription))
            self._follow(self._take(tail, subscription))
        self._follow(self._give())

    def _follow(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.append(task)
        task.add_done_callback(self._break_off_where_it_failed)

    def _break_off_where_it_failed(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.break_off(str(error))

    async def _take(self, tail: Tail, subscription: Subscription) -> None:
        async for reading in subscription:
            if reading.severity == INVALID:
                self._problems[tail.column.pv] = f"{tail.column.pv}: the record has said that its value is INVALID"
            tail.take(reading)

    async def _give(self) -> None:
        while True:
            await asyncio.sleep(_PAUSE)
            for data, times in self._tails.pages():
                self.rows.add(Page(data, frozen(times / 1e9), ()).document())

    async def _harvest(self, *, done: bool) -> Page:
        """The last rows: of updates that are on their way, and of what a read of the waveforms finds."""
        await self._catch_up()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        parts = self._tails.pages(last=True)
        self._judge(done=done)
        keys = list(parts[0][0]) if parts else []
        data: dict[str, NDArray[Any]] = {key: frozen(np.concatenate([part[key] for part, _ in parts])) for key in keys}
        times = np.concatenate([stamps for _, stamps in parts]) if parts else np.empty(0)
        return Page(data, frozen(times / 1e9), tuple(self._problems.values()))

    async def _catch_up(self) -> None:
        readings = await self._read([tail.column.pv for tail in self._tails.tails])
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _ON_THEIR_WAY
        answered = [tail for tail in self._tails.tails if readings[tail.column.pv].error is None]
        while any(tail.stamp < (readings[tail.column.pv].timestamp_ns or 0) for tail in answered):
            if loop.time() > deadline:
                break
            await asyncio.sleep(_PAUSE / 10)
        self._problems |= {pv: str(error) for pv, error in readings.errors.items()}
        for tail in answered:
            try:
                tail.take(readings[tail.column.pv])
            except (TypeError, ValueError) as error:
                self._problems[tail.column.pv] = str(error)

    def _judge(self, *, done: bool) -> None:
        for tail in self._tails.tails:
            dropped = self._subscriptions[tail.column.key].dropped
            if dropped:
                pv = tail.column.pv
                self._problems[f"{pv}: dropped"] = (
                    f"{pv}: {dropped} updates had no room here; rows before a reset may be missing"
                )
        lengths = {tail.column.pv: len(tail.fillings[-1]) for tail in self._tails.tails}
        if done and len(set(lengths.values())) > 1:
            shortest = min(lengths, key=lengths.__getitem__)
            self._problems["lengths"] = (
                f"{shortest}: {lengths[shortest]} rows at the end, where others have {max(lengths.values())}"
            )
