"""What an event loop starts in one turn goes out together, and nothing is held for long."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from deadline import until
from epicsrs_native import Channel, Reading
from ioc import Ioc
from segments import sent_to

Read = Callable[[Channel], Any]


def port(ioc: Ioc, protocol: str) -> int:
    return ioc.ports.ca if protocol == "ca" else ioc.ports.pva


def channels(ioc: Ioc, protocol: str) -> list[Channel]:
    names = [f"count.{last}{field}" for last in ("", "L") for field in "ABCDEFGHIJKL"]
    return [ioc.channel(name, protocol) for name in names * 8]


def not_alone() -> None:
    """Have the loop run another callback when this one is over."""
    asyncio.get_running_loop().call_soon(int)


async def in_a_task(channel: Channel) -> Reading:
    return await channel.get_async()


async def under_a_timeout(channel: Channel) -> Reading:
    return await asyncio.wait_for(channel.get_async(), 5.0)


@pytest.mark.parametrize(
    ("read", "most"),
    [
        (in_a_task, 1),
        (under_a_timeout, 1),
        # The first four go at once, since nobody knows that more follow.
        (Channel.get_async, 5),
    ],
    ids=["tasks", "timeouts", "futures"],
)
def test_the_reads_of_a_gather_leave_in_one_packet(ioc: Ioc, protocol: str, read: Read, most: int) -> None:
    reading = channels(ioc, protocol)

    async def main() -> list[int]:
        # pvAccess first asks for the way to get, and only then gets.
        await asyncio.gather(*map(read, reading))
        packets: list[int] = []
        for _ in range(40):
            before = sent_to(port(ioc, protocol))
            assert len(await asyncio.gather(*map(read, reading))) == len(reading)
            packets.append(sent_to(port(ioc, protocol)) - before)
        return packets

    # A turn of the loop is cut where its thread has to wait for a processor.
    assert sum(sent <= most for sent in asyncio.run(main())) >= 10


def test_a_loop_that_is_blocked_holds_nothing_back(second_ioc: Ioc, protocol: str) -> None:
    channel = second_ioc.channel("put_long", protocol)
    channel.put(1)

    async def main() -> None:
        with second_ioc.frozen():
            not_alone()
            written = channel.put_async(2)
            until(lambda: second_ioc.unread(protocol))
        await written

    asyncio.run(main())

    assert channel.get().value == 2


def test_a_loop_that_ends_in_its_turn_holds_nothing_back(second_ioc: Ioc, protocol: str) -> None:
    channel = second_ioc.channel("put_long", protocol)
    channel.put(1)
    loop = asyncio.new_event_loop()

    async def turn() -> None:
        not_alone()
        channel.put_async(2)
        loop.stop()

    task = loop.create_task(turn())
    with second_ioc.frozen():
        loop.run_forever()
        loop.close()
        until(lambda: second_ioc.unread(protocol))

    assert task.done()
    assert channel.get().value == 2


def test_another_thread_gets_behind_what_the_loop_has_put(ioc: Ioc, protocol: str) -> None:
    channel = ioc.channel("put_long", protocol)
    channel.put(0)
    seen: list[int] = []

    async def main() -> None:
        for value in range(1, 51):
            not_alone()
            channel.put_async(-value)
            channel.put_async(value)
            other = threading.Thread(target=lambda: seen.append(channel.get().value))
            other.start()
            other.join(5.0)

    asyncio.run(main())

    assert seen == list(range(1, 51))


def test_a_monitor_starts_behind_what_its_loop_has_put(ioc: Ioc) -> None:
    channel = ioc.channel("put_long")
    channel.put(0)

    async def main() -> list[int]:
        first: list[int] = []
        for value in range(1, 51):
            not_alone()
            channel.put_async(-value, wait=False)
            channel.put_async(value, wait=False)
            subscription = await channel.monitor_async()
            first.append((await anext(subscription)).value)
            subscription.close()
        return first

    assert asyncio.run(main()) == list(range(1, 51))


def test_calls_cancelled_in_their_turn_disturb_no_other(ioc: Ioc, protocol: str) -> None:
    channel = ioc.channel("put_long", protocol)
    channel.put(0)

    async def main() -> None:
        for value in range(1, 51):
            kept, *lost = [channel.get_async() for _ in range(20)]
            written = channel.put_async(value)
            for operation in lost:
                assert operation.cancel()
            await written
            assert (await kept).value == value - 1
            assert all(operation.cancelled() for operation in lost)
            assert (await channel.get_async()).value == value

    asyncio.run(main())


def test_loops_in_threads_each_get_their_own(ioc: Ioc, protocol: str) -> None:
    reading = channels(ioc, protocol)
    done: list[list[int]] = []

    async def main() -> None:
        done.append([len(await asyncio.gather(*map(in_a_task, reading))) for _ in range(20)])

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)

    assert done == [[len(reading)] * 20] * 4
