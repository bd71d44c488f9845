"""Interrupt an event loop that awaits one call. The server is frozen meanwhile.

Usage: interrupted_loop.py OPERATION PV
"""

import asyncio
import os
import signal
import sys
import threading
import time

from talk import hear, say

from epicsrs_native import get_context

operation, pv = sys.argv[1:]
# On stderr, where the test looks: a monitor that was interrupted before its start has no updates to give.
arguments = {"put": [1.0], "monitor": [lambda reading: print("an update", file=sys.stderr)]}.get(operation, [])
channel = get_context().channel(pv)
channel.get()
say("ready")
hear()

pressed: list[float] = []


def press() -> None:
    pressed.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)


async def main() -> None:
    await getattr(channel, f"{operation}_async")(*arguments, timeout=30.0)


timer = threading.Timer(0.3, press)
timer.start()
try:
    asyncio.run(main())
    outcome = "returned"
except BaseException as error:
    outcome = type(error).__name__
say([outcome, time.monotonic() - pressed[0] if pressed else None])
timer.join()
hear()
channel.put(2.5, timeout=20.0)
say([type(channel.get().value).__name__, channel.get().value])
