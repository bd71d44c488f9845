"""shutdown_all with everything in use, then a client anew.

Usage: closing.py PV COUNTER
"""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from talk import say

from epicsrs_native import get_context, shutdown_all

pv, counter = sys.argv[1:]


def outcome(call: Callable[[], Any]) -> list[str]:
    try:
        call()
        return ["returned", ""]
    except Exception as error:
        return [type(error).__name__, str(error)]


channel = get_context().channel(pv)
channel.put(1.5)
updates = threading.Semaphore(0)
subscription = get_context().channel(counter).monitor(lambda reading: updates.release())
assert updates.acquire(timeout=5.0)
absent = get_context().channel(pv + "-absent")
blocked: list[list[str]] = []
thread = threading.Thread(target=lambda: blocked.append(outcome(lambda: absent.get(timeout=30.0))))
thread.start()

start = time.monotonic()
shutdown_all()
say(time.monotonic() - start)
thread.join(5.0)
say([thread.is_alive(), *blocked])


async def get_async() -> None:
    await channel.get_async()


while updates.acquire(blocking=False):
    pass
say(
    {
        "connect": outcome(channel.connect),
        "get": outcome(channel.get),
        "put": outcome(lambda: channel.put(1.0)),
        "monitor": outcome(lambda: channel.monitor(print)),
        "info": outcome(channel.info),
        "get_async": outcome(lambda: asyncio.run(get_async())),
    }
)
say([subscription.closed, updates.acquire(timeout=0.3)])
say(outcome(shutdown_all))

# A fresh client, three times over; the number of threads and files stays.
sizes: list[tuple[int, int]] = []
for _ in range(3):
    channel = get_context().channel(pv)
    value = channel.get().value
    fresh = threading.Event()
    subscription = get_context().channel(counter).monitor(lambda reading, fresh=fresh: fresh.set())
    assert fresh.wait(5.0)
    sizes.append((len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))))
    shutdown_all()
say([value, sizes[-1][0] <= sizes[0][0], sizes[-1][1] <= sizes[0][1], sizes])
