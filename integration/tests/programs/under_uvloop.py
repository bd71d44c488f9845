"""Gets, puts, monitors and a cancellation under uvloop.

Usage: under_uvloop.py (LONG DOUBLE COUNTER)...
Each three are PVs of one protocol: an integer of -42, a double to put to, one that counts.
"""

import asyncio
import sys

import uvloop

from epicsrs_native import get_context


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


async def main() -> None:
    print(type(asyncio.get_running_loop()).__module__)
    for first in range(1, len(sys.argv), 3):
        print(await use(*sys.argv[first : first + 3]))


uvloop.run(main())
