"""End the interpreter while things go on.

Usage: leaving.py HOW PV...
"""

import asyncio
import sys
import threading

from talk import say

from epicsrs_native import get_context, get_delivery

how, *pvs = sys.argv[1:]
channels = [get_context().channel(pv) for pv in pvs]
count = threading.Semaphore(0)


def update(reading: object) -> None:
    count.release()


if how in ("monitors", "callback", "exit"):
    subscriptions = [channel.monitor(update) for channel in channels]
    for _ in range(2 * len(channels)):
        assert count.acquire(timeout=10.0)

if how == "thread":
    # One blocked in a get of a PV that is not there, one that gets again and again.
    absent = get_context().channel(pvs[0] + "-absent")
    threading.Thread(target=lambda: absent.get(timeout=None), daemon=True).start()

    def read() -> None:
        while True:
            channels[0].get()
            count.release()

    threading.Thread(target=read, daemon=True).start()
    for _ in range(20):
        assert count.acquire(timeout=10.0)

if how == "pending":
    loop = asyncio.new_event_loop()

    async def leave() -> None:
        for channel in channels:
            await channel.connect_async()
            channel.monitor_async(update)
            for _ in range(100):
                channel.get_async()
                channel.put_async(0.0)

    # Neither awaited nor is the loop closed.
    loop.run_until_complete(leave())

if how == "callback":
    # Inside a callback that does not end.
    inside = threading.Event()

    def stay() -> None:
        inside.set()
        threading.Event().wait(60.0)

    get_delivery().call(stay)
    assert inside.wait(10.0)

say("leaving")
if how == "exit":
    sys.exit(7)
