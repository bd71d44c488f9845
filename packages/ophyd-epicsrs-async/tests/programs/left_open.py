"""Ends with a monitor open and a put under way. Usage: left_open.py pv of the counter, pv of the slow record, how."""

import asyncio
import sys
from typing import Any

from deadline import eventually
from ophyd_epicsrs_async import epicsrs_signal_r, epicsrs_signal_w

counter, slow, how = sys.argv[1:]
kept: list[Any] = []


async def main() -> None:
    monitored, put = epicsrs_signal_r(float, counter), epicsrs_signal_w(float, slow, timeout=None)
    await asyncio.gather(monitored.connect(timeout=5.0), put.connect(timeout=5.0))
    readings: list[Any] = []
    monitored.subscribe_reading(readings.append)
    kept.extend((monitored, put, put.set(1.0)))
    await eventually(lambda: readings)
    if how == "exit":
        sys.exit(3)


asyncio.run(main())
