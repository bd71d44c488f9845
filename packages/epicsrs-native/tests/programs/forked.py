"""Fork after use: every call of the child is an error at once, the parent goes on.

Usage: forked.py PV COUNTER
"""

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from talk import say

from epicsrs_native import Delivery, get_context

pv, counter = sys.argv[1:]
context = get_context()
channel = context.channel(pv)
channel.get()
updates = threading.Semaphore(0)
subscription = context.channel(counter).monitor(lambda reading: updates.release())
lane = Delivery("before")


async def get_async() -> None:
    await channel.get_async()


CALLS: dict[str, Callable[[], Any]] = {
    "get_context": get_context,
    "channel": lambda: context.channel(pv),
    "connect": channel.connect,
    "get": channel.get,
    "get for ever": lambda: channel.get(timeout=None),
    "put": lambda: channel.put(1.0),
    "put no wait": lambda: channel.put(1.0, wait=False),
    "monitor": lambda: channel.monitor(print),
    "info": channel.info,
    "get_async": lambda: asyncio.run(get_async()),
}


def outcome(call: Callable[[], Any]) -> list[Any]:
    start = time.monotonic()
    try:
        call()
        return ["returned", "", time.monotonic() - start]
    except BaseException as error:
        return [type(error).__name__, str(error), time.monotonic() - start]


reader, writer = os.pipe()
child = os.fork()
if child == 0:
    os.close(reader)
    os.write(writer, json.dumps({name: outcome(call) for name, call in CALLS.items()}).encode())
    os._exit(5)
os.close(writer)
with os.fdopen(reader) as answer:
    say(json.loads(answer.read()))
say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

# The parent: gets, puts, updates as before.
channel.get()
channel.put(2.0)
while updates.acquire(blocking=False):
    pass
say([channel.get().value, all(updates.acquire(timeout=5.0) for _ in range(5))])
