"""Many threads on one client at once: no error, no update lost for good, nothing left behind."""

import asyncio
import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deadline import until
from epicsrs_native import Channel, Delivery, Reading, Subscription, get_context, get_delivery
from footprint import resident
from ioc import Ioc

pytestmark = pytest.mark.slow

MIB = 1024 * 1024


def together(count: int, work: Callable[[int], None], timeout: float = 120.0) -> None:
    """Run work(0), work(1), ... in as many threads, begun at one moment; raise what the first of them raises."""
    start = threading.Barrier(count)

    def begin(number: int) -> None:
        start.wait(10.0)
        work(number)

    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(begin, number) for number in range(count)]:
            done.result(timeout)


def test_32_threads_on_one_pv(ioc: Ioc, protocol: str) -> None:
    """Each puts, gets and monitors; each reading was put by one of them, each monitor ends with the last value."""
    channel = ioc.channel("put_long", protocol)

    def storm(rounds: int) -> None:
        channel.put(0)
        last: list[list[int]] = [[] for _ in range(32)]

        def work(number: int) -> None:
            subscription = channel.monitor(lambda reading: last[number].append(reading.value), timeout=60.0)
            mine = range(1000 * number, 1000 * number + rounds)
            for value in mine:
                channel.put(value, wait=value % 2 == 0, timeout=60.0)
                assert 0 <= channel.get(timeout=60.0).value < 32_000
                assert 0 <= channel.get(cached=True, timeout=60.0).value < 32_000
            subscriptions.append(subscription)

        subscriptions: list[Subscription] = []
        together(32, work)
        channel.put(99_999)
        until(lambda: all(values and values[-1] == 99_999 for values in last), 30.0)
        for subscription in subscriptions:
            subscription.close()

    storm(20)
    before = resident()
    storm(200)
    assert resident() - before < 32 * MIB
    until(lambda: get_delivery().pending == 0)


def test_ten_thousand_pvs_made_and_dropped_by_threads(mortal_ioc: Ioc, protocol: str, tmp_path: Path) -> None:
    database = tmp_path / "many.db"
    database.write_text(
        "".join(f'record(longout, "$(P)m{number}") {{ field(VAL, "{number}") }}\n' for number in range(10_000))
    )
    mortal_ioc.databases.append(database)
    mortal_ioc.kill()
    mortal_ioc.start()

    def make(thread: int) -> None:
        numbers = range(thread, 10_000, 4)
        for chunk in range(0, len(numbers), 500):
            some = numbers[chunk : chunk + 500]
            # Not through the fixture, which keeps what it has opened.
            channels = [get_context().channel(mortal_ioc.pv(f"m{number}", protocol)) for number in some]
            readings = get_context().get_many(channels, timeout=60.0)
            assert [reading.value for reading in readings if isinstance(reading, Reading)] == list(some)
            # Every other one is closed, the rest is dropped as it is.
            for channel in channels[::2]:
                channel.close()

    together(4, make)
    gc.collect()
    before = resident()
    for _ in range(2):
        together(4, make)
    gc.collect()
    assert resident() - before < 32 * MIB


def test_monitors_opened_and_closed_by_threads_each_get_their_first_update(ioc: Ioc, protocol: str) -> None:
    """One thread's last monitor of a PV ends while another thread's first one begins."""
    channel = ioc.channel("counter", protocol)
    channel.connect()

    def work(number: int) -> None:
        for _ in range(3000):
            came = threading.Event()
            subscription = channel.monitor(lambda reading, came=came: came.set(), timeout=20.0)
            assert came.wait(20.0), "no first update"
            subscription.close()

    together(2, work)
    until(lambda: get_delivery().pending == 0)


def test_monitors_closed_by_others_while_updates_fly(ioc: Ioc, protocol: str, lane: Delivery) -> None:
    channel = ioc.channel("put_long", protocol)
    stop = threading.Event()
    seen: list[int] = []
    kept = channel.monitor(lambda reading: seen.append(reading.value), delivery=lane)
    handed: list[Subscription] = []

    def put(number: int) -> None:
        value = 0
        while not stop.is_set():
            value += 1
            channel.put(value, wait=False, timeout=60.0)

    def monitor(number: int) -> None:
        try:
            handed.extend(channel.monitor(str, delivery=lane, wait=False) for _ in range(500))
        finally:
            stop.set()

    def close(number: int) -> None:
        while not stop.is_set() or handed:
            try:
                subscription = handed.pop()
            except IndexError:
                continue
            subscription.close()
            assert subscription.closed

    together(5, lambda number: (put, monitor, close, close, close)[number](number))

    channel.put(-1)
    until(lambda: seen and seen[-1] == -1, 20.0)
    kept.close()
    until(lambda: lane.pending == 0)


def test_a_channel_closed_by_another_thread_leaves_no_monitor_open(ioc: Ioc, protocol: str) -> None:
    for _ in range(300):
        channel = get_context().channel(ioc.pv("double", protocol))
        channel.connect(timeout=20.0)
        opened: list[Subscription] = []

        def monitor(channel: Channel = channel, opened: list[Subscription] = opened) -> None:
            try:
                while True:
                    opened.append(channel.monitor(str, wait=False))
            except ValueError as error:
                assert "closed" in str(error)

        def close(channel: Channel = channel, opened: list[Subscription] = opened) -> None:
            until(lambda: opened)
            channel.close()

        together(2, lambda number: (monitor, close)[number]())
        assert opened and all(subscription.closed for subscription in opened)


def test_loops_in_several_threads_beside_blocking_calls(ioc: Ioc, protocol: str) -> None:
    channel = ioc.channel("long", protocol)

    async def main() -> None:
        for _ in range(5):
            readings = await asyncio.gather(*(channel.get_async(timeout=60.0) for _ in range(200)))
            assert {reading.value for reading in readings} == {-42}
            subscription = await ioc.channel("counter", protocol).monitor_async(timeout=20.0)
            first = (await asyncio.wait_for(anext(subscription), 20.0)).value
            assert (await asyncio.wait_for(anext(subscription), 20.0)).value > first
            subscription.close()
            cancelled = [channel.get_async(timeout=60.0) for _ in range(50)]
            for operation in cancelled:
                operation.cancel()

    def work(number: int) -> None:
        if number < 4:
            asyncio.run(asyncio.wait_for(main(), 100.0))
        else:
            for _ in range(500):
                assert channel.get(timeout=60.0).value == -42

    together(8, work)


def test_two_threads_that_iterate_one_subscription_are_told(ioc: Ioc, protocol: str, lane: Delivery) -> None:
    """One awaits the next reading, the other is refused; neither waits for ever."""
    channel = ioc.channel("counter", protocol)

    for _ in range(20):
        subscription = channel.monitor(timeout=20.0)
        outcomes: list[object] = []

        def work(number: int, subscription: Subscription = subscription, outcomes: list[object] = outcomes) -> None:
            for _ in range(3):
                try:
                    outcomes.append(lane.submit(subscription.__anext__).result(20.0))
                except ValueError as error:
                    assert "awaited already" in str(error)
                    outcomes.append(error)

        together(2, work)
        assert len(outcomes) == 6 and any(isinstance(outcome, Reading) for outcome in outcomes)
        subscription.close()
