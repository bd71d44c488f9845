"""Gets, puts, monitors and a cancellation under uvloop, and a signal of ophyd-async.

Usage: under_uvloop.py (LONG DOUBLE COUNTER)...
Each three are PVs of one protocol: an integer of -42, a double to put to, one that counts.
"""

import asyncio
import sys
from typing import Any

import uvloop

from epicsrs_native import get_context
from ophyd_epicsrs_async import epicsrs_signal_rw


async def use(long: str, double: str, counter: str) -> str:
    """What happened."""
    reading, writing = get_context().channel(long), get_context().channel(double)
    readings = await asyncio.gather(*(reading.get_async() for _ in range(1000)))
    assert {got.value for got in readings} == {-42}

    await writing.put_async(1.5)
    put = (await writing.get_async()).value

    subscription = await get_context().channel(counter).monitor_async()
    updates = [(await anext(subscription)).value for _ in range(3)]
    assert updates == sorted(set(updates))
    subscription.close()

    operation = reading.get_async()
    operation.cancel()
    how = "cancelled" if operation.cancelled() else "went on"
    return f"{len(readings)} gets, put {put}, {len(updates)} updates, {how}"


async def watch(double: str) -> str:
    """What a signal ended with."""
    signal = epicsrs_signal_rw(float, double, name="signal")
    await signal.connect(timeout=5.0)
    readings: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    signal.subscribe_reading(readings.put_nowait)
    await signal.set(2.5)
    async with asyncio.timeout(5.0):
        while (await readings.get())["signal"]["value"] != 2.5:
            pass
    signal.clear_sub(readings.put_nowait)
    return f"set and saw {await signal.get_value()}"


async def main() -> None:
    print(type(asyncio.get_running_loop()).__module__)
    for first in range(1, len(sys.argv), 3):
        print(await use(*sys.argv[first : first + 3]))
        print(await watch(sys.argv[first + 1]))


uvloop.run(main())
