"""The order of the calls is the order of the wire, and nothing is lost."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np

from deadline import until
from epicsrs_native import Delivery
from ioc import Ioc

Call = Callable[..., Any]

COUNT = 20_000


def arrived(ioc: Ioc, expected: int) -> list[int]:
    """Every value that the record sequence was given, in order, as the record history kept them."""
    history = ioc.channel("history", "pva")
    until(lambda: len(history.get().value) >= expected, 30.0, lambda: len(history.get().value))
    return history.get().value.astype(int).tolist()


def emptied(ioc: Ioc) -> None:
    ioc.channel("history.RES").put(1)
    assert len(ioc.channel("history", "pva").get().value) == 0


def test_puts_that_nobody_awaits_all_arrive_in_order(ioc: Ioc, protocol: str) -> None:
    emptied(ioc)
    channel = ioc.channel("sequence", protocol)
    channel.connect()

    async def main() -> None:
        for value in range(COUNT - 1):
            channel.put_async(value, wait=False, timeout=60.0)
        await channel.put_async(COUNT - 1, timeout=60.0)

    asyncio.run(main())

    assert arrived(ioc, COUNT) == list(range(COUNT))


def test_completions_that_nobody_awaits_arrive_in_order(ioc: Ioc, protocol: str) -> None:
    emptied(ioc)
    channel = ioc.channel("sequence", protocol)
    channel.connect()

    async def main() -> None:
        for value in range(COUNT - 1):
            channel.put_async(value, timeout=60.0)
        await channel.put_async(COUNT - 1, timeout=60.0)

    asyncio.run(main())

    assert arrived(ioc, COUNT) == list(range(COUNT))


def test_all_of_many_awaited_puts_succeed(ioc: Ioc, protocol: str) -> None:
    emptied(ioc)
    channel = ioc.channel("sequence", protocol)
    channel.connect()

    async def main() -> list[None]:
        return await asyncio.gather(*(channel.put_async(value, timeout=60.0) for value in range(2000)))

    assert asyncio.run(main()) == [None] * 2000
    assert arrived(ioc, 2000) == list(range(2000))


def test_puts_without_wait_all_arrive_in_order(ioc: Ioc, protocol: str) -> None:
    emptied(ioc)
    channel = ioc.channel("sequence", protocol)
    channel.connect()

    for value in range(COUNT):
        channel.put(value, wait=False, timeout=30.0)

    assert arrived(ioc, COUNT) == list(range(COUNT))
    assert channel.refused == 0


def test_a_blocking_put_goes_after_what_its_thread_submitted(ioc: Ioc, protocol: str) -> None:
    emptied(ioc)
    channel = ioc.channel("sequence", protocol)
    channel.connect()

    async def main() -> None:
        for round_ in range(100):
            channel.put_async(3 * round_, wait=False)
            channel.put_async(3 * round_ + 1)
            channel.put(3 * round_ + 2, wait=round_ % 2 == 0)

    asyncio.run(main())

    assert arrived(ioc, 300) == list(range(300))


def test_a_blocking_get_sees_what_its_thread_submitted(ioc: Ioc, protocol: str) -> None:
    channel = ioc.channel("put_long", protocol)
    channel.connect()

    async def main() -> None:
        for value in range(100):
            channel.put_async(value)
            assert channel.get().value == value

    asyncio.run(main())


def test_requests_to_two_channels_of_one_server_keep_their_order_over_ca(ioc: Ioc) -> None:
    """A put to one, then a get of the other that is linked to it: 'count' counts the puts to 'counted'."""
    counted, count = ioc.channel("counted"), ioc.channel("count")
    counted.connect()
    start = count.get().value

    async def main() -> list[float]:
        operations = []
        for value in range(200):
            counted.put_async(float(value), wait=False)
            operations.append(count.get_async())
        return [(await operation).value for operation in operations]

    assert asyncio.run(main()) == [start + 1 + n for n in range(200)]


def test_a_cancelled_get_disturbs_no_other(ioc: Ioc, protocol: str) -> None:
    channel = ioc.channel("put_long", protocol)
    channel.connect()

    async def main() -> None:
        for value in range(200):
            channel.put_async(value)
            lost = channel.get_async()
            kept = channel.get_async()
            lost.cancel()
            assert (await kept).value == value
            assert lost.cancelled()

    asyncio.run(main())


def test_order_across_pvs_is_the_order_of_the_wire_over_ca(ioc: Ioc, call: Call, lane: Delivery) -> None:
    first, second = ioc.channel("first"), ioc.channel("second")
    first.put(0)
    second.put(0)
    seen: list[tuple[str, int]] = []
    one = first.monitor(lambda reading: seen.append(("first", reading.value)), delivery=lane)
    other = second.monitor(lambda reading: seen.append(("second", reading.value)), delivery=lane)
    until(lambda: len(seen) == 2)

    for value in range(1, 201):
        call(first.put, value)
        call(second.put, value)

    until(lambda: len(seen) == 402)
    assert seen[2:] == [(name, value) for value in range(1, 201) for name in ("first", "second")]
    one.close()
    other.close()


def test_a_large_put_keeps_its_place(ioc: Ioc, protocol: str) -> None:
    """A small request right behind a large one is not answered before it."""
    channel = ioc.channel("large", protocol)
    channel.connect()

    async def main() -> None:
        for number in range(5):
            channel.put_async(np.full(100_000, float(number)), wait=False)
            reading = await channel.get_async()
            assert len(reading.value) == 100_000 and set(reading.value.tolist()) == {float(number)}

    asyncio.run(main())
