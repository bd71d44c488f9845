"""A slow consumer of a fast source: bounded memory, counted drops, and always the last value."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from deadline import eventually, until
from epicsrs_native import Delivery, get_delivery
from footprint import resident
from ioc import Ioc
from program import Program

Call = Callable[..., Any]

MIB = 1024 * 1024
COUNT = 30_000


@contextmanager
def source(ioc: Ioc) -> Iterator[Program]:
    """Another process, ready to put 1 to COUNT to the record fast."""
    with Program("source.py", ioc.pv("fast"), str(COUNT)) as program:
        assert program.hear() == "ready"
        yield program
        assert program.finish().code == 0


def everything(ioc: Ioc, protocol: str) -> Callable[[], bool]:
    """Whether the source's last value has come to this process, for all who monitor it."""
    last: list[int] = []
    ioc.channel("fast", protocol).monitor(lambda reading: last.append(reading.value), queue=1)
    return lambda: bool(last) and last[-1] == COUNT


@contextmanager
def blocked(lane: Delivery) -> Iterator[None]:
    """The lane runs nothing meanwhile."""
    free, inside = threading.Event(), threading.Event()
    lane.call(inside.set)
    lane.call(free.wait, 60.0)
    assert inside.wait(10.0)
    try:
        yield
    finally:
        free.set()


def test_a_slow_callback_gets_the_last_value_and_counts_what_it_missed(
    ioc: Ioc, protocol: str, call: Call, lane: Delivery
) -> None:
    values: list[int] = []
    pause = threading.Event()

    def slow(reading: Any) -> None:
        values.append(reading.value)
        pause.wait(0.02)

    with source(ioc) as program:
        subscription = call(ioc.channel("fast", protocol).monitor, slow, delivery=lane, queue=20)
        program.say()
        assert program.hear(60.0) == "done"
        until(lambda: values[-1] == COUNT, 20.0, lambda: values[-3:])

    assert values == sorted(set(values))
    assert subscription.dropped > 0
    assert len(values) + subscription.dropped <= COUNT + 1
    subscription.close()


def test_a_blocked_lane_keeps_no_more_than_its_queue(ioc: Ioc, protocol: str, lane: Delivery) -> None:
    values: list[int] = []
    with source(ioc) as program:
        with blocked(lane):
            subscription = ioc.channel("fast", protocol).monitor(
                lambda reading: values.append(reading.value), delivery=lane, queue=100
            )
            arrived = everything(ioc, protocol)
            program.say()
            assert program.hear(60.0) == "done"
            until(arrived, 20.0)
            assert subscription.dropped > 100
            assert lane.pending <= 102
            assert values == []
        until(lambda: values and values[-1] == COUNT)

    # The newest survive, the oldest are gone.
    assert values == sorted(set(values))
    assert len(values) <= 110
    subscription.close()


def test_a_lane_with_room_drops_nothing(ioc: Ioc, protocol: str, lane: Delivery) -> None:
    channel = ioc.channel("put_long", protocol)
    channel.put(0)
    values: list[int] = []
    with blocked(lane):
        subscription = channel.monitor(lambda reading: values.append(reading.value), delivery=lane, queue=1000)
        for value in range(1, 201):
            channel.put(value)

    until(lambda: values and values[-1] == 200)
    assert subscription.dropped == 0
    assert values == list(range(201))
    subscription.close()


def test_queue_of_one_is_latest_wins(ioc: Ioc, protocol: str, call: Call, lane: Delivery) -> None:
    channel = ioc.channel("put_long", protocol)
    channel.put(0)
    values: list[int] = []
    with blocked(lane):
        subscription = call(channel.monitor, lambda reading: values.append(reading.value), delivery=lane, queue=1)
        for value in range(1, 101):
            channel.put(value)
        until(lambda: subscription.dropped >= 90, what=lambda: subscription.dropped)
        assert lane.pending <= 2

    until(lambda: values and values[-1] == 100)
    # One, but for an update that was still on its way.
    assert len(values) <= 3
    subscription.close()


def test_the_survivors_of_two_pvs_keep_the_order_of_the_wire(ioc: Ioc, lane: Delivery) -> None:
    first, second = ioc.channel("first"), ioc.channel("second")
    seen: list[tuple[str, int]] = []
    with blocked(lane):
        subscriptions = [
            channel.monitor(lambda reading, name=name: seen.append((name, reading.value)), delivery=lane, queue=10)
            for name, channel in (("first", first), ("second", second))
        ]
        for value in range(1, 101):
            first.put(value)
            second.put(value)
        until(lambda: all(subscription.dropped == 91 for subscription in subscriptions))

    until(lambda: len(seen) == 20)
    assert seen == [(name, value) for value in range(91, 101) for name in ("first", "second")]
    for subscription in subscriptions:
        subscription.close()


def test_a_slow_subscription_costs_no_other_of_its_lane(ioc: Ioc, protocol: str, lane: Delivery) -> None:
    """Dropped updates are those of the fast PV: the other PV loses none."""
    quiet = ioc.channel("put_long", protocol)
    quiet.put(0)
    values: list[int] = []
    with source(ioc) as program:
        with blocked(lane):
            fast = ioc.channel("fast", protocol).monitor(str, delivery=lane, queue=10)
            subscription = quiet.monitor(lambda reading: values.append(reading.value), delivery=lane, queue=100)
            program.say()
            for value in range(1, 51):
                quiet.put(value, timeout=30.0)
            assert program.hear(60.0) == "done"
            until(lambda: fast.dropped > 0)
        until(lambda: values and values[-1] == 50)

    assert values == list(range(51))
    assert subscription.dropped == 0
    fast.close()
    subscription.close()


def test_queue_bytes_bounds_the_memory_of_large_arrays(ioc: Ioc, protocol: str, lane: Delivery) -> None:
    """200 updates of 0.8 MB, of which a lane may keep 4 MiB."""
    channel = ioc.channel("large", protocol)
    values: list[float] = []
    channel.put(np.full(100_000, -1.0))
    for _ in range(10):
        channel.get()
    with blocked(lane):
        subscription = channel.monitor(
            lambda reading: values.append(reading.value[-1]), delivery=lane, queue=1000, queue_bytes=4 * MIB
        )
        before = resident()
        for value in range(200):
            channel.put(np.full(100_000, float(value)), timeout=30.0)
        until(lambda: subscription.dropped >= 150)
        assert resident() - before < 48 * MIB

    until(lambda: values and values[-1] == 199.0)
    assert len(values) <= 8
    assert values == sorted(values)
    subscription.close()


def test_one_update_larger_than_queue_bytes_is_still_delivered(ioc: Ioc, protocol: str, lane: Delivery) -> None:
    channel = ioc.channel("large", protocol)
    channel.put(np.full(100_000, 5.0))
    lengths: list[int] = []

    subscription = channel.monitor(lambda reading: lengths.append(len(reading.value)), delivery=lane, queue_bytes=1000)

    until(lambda: lengths == [100_000])
    subscription.close()


def test_a_loop_that_does_not_run_is_bounded_too(ioc: Ioc, protocol: str) -> None:
    async def main() -> None:
        values: list[int] = []
        with source(ioc) as program:
            subscription = await ioc.channel("fast", protocol).monitor_async(
                lambda reading: values.append(reading.value), queue=100
            )
            # The loop stands still until the source has done.
            arrived = everything(ioc, protocol)
            program.say()
            assert program.hear(60.0) == "done"
            until(arrived, 20.0)
            assert subscription.dropped > 0
            await eventually(lambda: values and values[-1] == COUNT)
            assert values == sorted(set(values))
            assert len(values) <= 210
            subscription.close()

    asyncio.run(main())


def test_an_iterator_is_bounded_and_ends_at_the_latest(ioc: Ioc, protocol: str) -> None:
    channel = ioc.channel("put_long", protocol)
    channel.put(0)

    async def main() -> list[int]:
        subscription = await channel.monitor_async(queue=5)
        for value in range(1, 51):
            await channel.put_async(value)
        await eventually(lambda: subscription.dropped >= 40)
        values: list[int] = []
        async for reading in subscription:
            values.append(reading.value)
            if values[-1] == 50:
                break
        subscription.close()
        return values

    values = asyncio.run(asyncio.wait_for(main(), 10.0))
    assert values == sorted(set(values))
    assert len(values) <= 8


def test_many_events_of_one_channel_are_never_dropped(ioc: Ioc, lane: Delivery) -> None:
    """Functions and errors are not updates: no bound throws them away."""
    channel = ioc.channel("locked")
    channel.connect()
    errors: list[Exception] = []
    ran: list[int] = []
    watch = channel.on_error(errors.append, delivery=lane)
    with blocked(lane):
        for number in range(3000):
            channel.put(float(number), wait=False, timeout=30.0)
            lane.call(ran.append, number)
        until(lambda: channel.refused == 3000, 20.0)

    until(lambda: len(errors) == 3000 and len(ran) == 3000)
    assert ran == list(range(3000))
    watch.close()


@pytest.mark.parametrize("queue", [1, 10])
def test_the_default_delivery_is_empty_after_a_burst(ioc: Ioc, protocol: str, queue: int) -> None:
    channel = ioc.channel("put_long", protocol)
    channel.put(0)
    values: list[int] = []
    subscription = channel.monitor(lambda reading: values.append(reading.value), queue=queue)
    for value in range(1, 101):
        channel.put(value, wait=False)

    until(lambda: values and values[-1] == 100)
    until(lambda: get_delivery().pending == 0)
    subscription.close()
