"""Loops come and go, each with monitors whose updates nobody takes any more: nothing stays."""

import asyncio
import gc
import weakref

import pytest

from deadline import until
from epicsrs_native import Channel, Reading, Subscription
from footprint import descriptors
from ioc import Ioc

LOOPS = 20


async def monitored(channel: Channel, callback: bool) -> Subscription:
    """A running monitor of this loop."""
    if not callback:
        subscription = await channel.monitor_async()
        await anext(subscription)
        return subscription
    readings: list[Reading] = []
    return await channel.monitor_async(readings.append)


@pytest.mark.parametrize(
    ("callback", "closing"),
    [
        (True, True),
        (False, True),
        (False, False),
    ],
    ids=["callback", "iterator", "iterator left open"],
)
def test_a_loop_that_ends_keeps_nothing(ioc: Ioc, protocol: str, callback: bool, closing: bool) -> None:
    channel, put = ioc.channel("put_long", protocol), ioc.channel("put_long")
    put.put(0)
    channel.connect()
    before = descriptors()["socket of another kind"]
    loops = []

    for value in range(1, LOOPS + 1):
        loop = asyncio.new_event_loop()
        subscription = loop.run_until_complete(monitored(channel, callback))
        loop.close()
        # An update for a loop that is no more.
        put.put(value)
        if closing:
            subscription.close()
        loops.append(weakref.ref(loop))
        del loop, subscription
    if not closing:
        channel.close()

    until(lambda: gc.collect() >= 0 and not any(loop() for loop in loops))
    assert descriptors()["socket of another kind"] <= before
