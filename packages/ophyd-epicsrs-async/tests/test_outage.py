"""Callbacks while an IOC is gone, and after."""

import asyncio
import time
from typing import Any

from deadline import eventually
from epicsrs_native import get_context
from ophyd_epicsrs_async import EpicsRsSignalBackend


async def connected(pv: str) -> EpicsRsSignalBackend[float]:
    backend: EpicsRsSignalBackend[float] = EpicsRsSignalBackend(float, pv, pv)
    await backend.connect(5.0)
    return backend


def test_updates_go_on_after_the_ioc_came_back(mortal_ioc, run, protocol):
    async def main():
        backend = await connected(mortal_ioc.pv("counter", protocol))
        times: list[float] = []
        backend.set_callback(lambda reading: times.append(reading["timestamp"]))
        await eventually(lambda: len(times) > 1)
        mortal_ioc.kill()
        before = len(times)
        mortal_ioc.start()
        await eventually(lambda: len(times) > before + 1)
        backend.set_callback(None)

    run(main())


def test_a_lost_server_is_told_where_that_is_wanted(mortal_ioc, run, protocol):
    async def main():
        backend = await connected(mortal_ioc.pv("float", protocol))
        backend.mark_disconnected = True
        readings: list[Any] = []
        backend.set_callback(readings.append)
        await eventually(lambda: readings)
        assert readings[-1]["alarm_severity"] == 0
        killed = time.time()
        mortal_ioc.kill()
        await eventually(lambda: readings[-1]["alarm_severity"] == -1)
        assert readings[-1]["value"] == 3.25
        assert readings[-1]["timestamp"] >= killed
        mortal_ioc.start()
        await eventually(lambda: readings[-1]["alarm_severity"] == 0)
        backend.set_callback(None)

    run(main())


def test_a_lost_server_leaves_the_last_reading_by_default(mortal_ioc, run, protocol):
    async def main():
        backend = await connected(mortal_ioc.pv("float", protocol))
        readings: list[Any] = []
        backend.set_callback(readings.append)
        await eventually(lambda: readings)
        lost = asyncio.Event()
        loop = asyncio.get_running_loop()
        channel = get_context().channel(mortal_ioc.pv("float", protocol))
        channel.on_connection(lambda up: None if up else loop.call_soon_threadsafe(lost.set))
        await channel.connect_async()
        lost.clear()
        mortal_ioc.kill()
        await asyncio.wait_for(lost.wait(), 5.0)
        channel.close()
        backend.set_callback(None)
        assert len(readings) == 1

    run(main())
