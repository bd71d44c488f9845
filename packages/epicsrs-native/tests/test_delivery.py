"""Delivery: one lane in the order of the wire, lanes independent of each other."""

import logging
import select
import threading
from asyncio import CancelledError
from typing import Any

import pytest

from deadline import Stopwatch, until
from epicsrs_native import Delivery, Reading, Subscription, get_delivery
from ioc import Ioc


def test_functions_run_in_order_on_the_thread_of_the_lane(lane: Delivery) -> None:
    seen: list[tuple[int, str]] = []

    for number in range(1000):
        lane.call(lambda number: seen.append((number, threading.current_thread().name)), number)

    until(lambda: len(seen) == 1000)
    assert seen == [(number, "lane") for number in range(1000)]
    until(lambda: lane.pending == 0)


def test_a_lane_counts_what_is_pending(lane: Delivery) -> None:
    gate, inside = threading.Event(), threading.Event()
    lane.call(inside.set)
    lane.call(gate.wait, 10.0)
    inside.wait(5.0)
    lane.call(str)
    lane.call(str)

    assert 2 <= lane.pending <= 4
    gate.set()
    until(lambda: lane.pending == 0)


def test_there_is_one_default_delivery() -> None:
    assert get_delivery() is get_delivery()
    assert get_delivery().name == "epicsrs-delivery"


def test_close_ends_run() -> None:
    delivery = Delivery("short")
    thread = threading.Thread(target=delivery.run)
    thread.start()
    ran = threading.Event()
    delivery.call(ran.set)
    assert ran.wait(5.0)

    delivery.close()

    thread.join(5.0)
    assert not thread.is_alive()
    assert delivery.closed


def test_close_from_a_callback_ends_run() -> None:
    delivery = Delivery("short")
    thread = threading.Thread(target=delivery.run)
    thread.start()

    delivery.call(delivery.close)

    thread.join(5.0)
    assert not thread.is_alive()


def test_an_owner_with_a_loop_of_its_own_waits_on_fileno(ioc: Ioc, protocol: str) -> None:
    delivery = Delivery("select")
    readings: list[Reading] = []
    channel = ioc.channel("counter", protocol)
    subscription = channel.monitor(readings.append, delivery=delivery)

    while len(readings) < 4:
        ready, _, _ = select.select([delivery.fileno()], [], [], 5.0)
        assert ready, "nothing came"
        delivery.drain()

    first = readings[0].value
    assert [reading.value for reading in readings[:4]] == [first + n for n in range(4)]
    subscription.close()
    delivery.close()


def test_drain_without_work_returns_at_once() -> None:
    delivery = Delivery("idle")
    watch = Stopwatch()

    delivery.drain()

    assert watch.elapsed <= 0.2
    delivery.close()


def test_a_blocked_lane_delays_no_other(ioc: Ioc, protocol: str, lane: Delivery) -> None:
    """Neither callbacks elsewhere nor gets, for as long as 5 s."""
    channel = ioc.channel("counter", protocol)
    free, entered, seen = threading.Event(), threading.Event(), []

    def block(reading: Reading) -> None:
        entered.set()
        free.wait(5.0)

    blocked = channel.monitor(block, delivery=lane)
    assert entered.wait(5.0)
    other = channel.monitor(seen.append)
    watch = Stopwatch()
    until(lambda: len(seen) >= 15, 4.0)

    assert not free.is_set() and watch.elapsed < 4.0
    assert channel.get(timeout=1.0).value >= seen[-1].value
    free.set()
    blocked.close()
    other.close()


@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(3), KeyboardInterrupt(), CancelledError()], ids=repr)
def test_a_callback_that_raises_is_logged_and_stops_nothing(
    ioc: Ioc, protocol: str, lane: Delivery, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    channel = ioc.channel("put_long", protocol)
    channel.put(0)
    values: list[int] = []

    def broken(reading: Reading) -> None:
        values.append(reading.value)
        raise error

    with caplog.at_level(logging.ERROR, "epicsrs"):
        subscription = channel.monitor(broken, delivery=lane)
        for value in (1, 2):
            channel.put(value)
            until(lambda value=value: values and values[-1] == value)
        until(lambda: len(caplog.records) >= 3)

    assert values == [0, 1, 2]
    if isinstance(error, Exception):
        record = caplog.records[0]
        assert record.name == "epicsrs.delivery"
        assert channel.pv in record.getMessage()
        assert record.exc_info is not None and record.exc_info[1] is error
    subscription.close()


def test_a_function_that_raises_is_logged_and_stops_nothing(lane: Delivery, caplog: pytest.LogCaptureFixture) -> None:
    ran = threading.Event()

    with caplog.at_level(logging.ERROR, "epicsrs"):
        lane.call(lambda: 1 / 0)
        lane.call(ran.set)
        assert ran.wait(5.0)

    assert any(record.exc_info and record.exc_info[0] is ZeroDivisionError for record in caplog.records)


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, CancelledError])
def test_what_waits_behind_a_function_that_raises_still_runs(lane: Delivery, error: type[BaseException]) -> None:
    gate, seen = threading.Event(), []

    def fail() -> None:
        raise error

    lane.call(gate.wait, 10.0)
    for number in range(10):
        lane.call(fail)
        lane.call(seen.append, number)
    gate.set()

    until(lambda: len(seen) == 10)
    assert seen == list(range(10))


def test_a_callback_may_get_and_put(ioc: Ioc, protocol: str, lane: Delivery) -> None:
    channel, target = ioc.channel("put_long", protocol), ioc.channel("put_double", protocol)
    channel.put(0)
    seen: list[tuple[Any, ...]] = []

    def work(reading: Reading) -> None:
        target.put(float(reading.value), timeout=5.0)
        seen.append((reading.value, channel.get(timeout=5.0).value, target.get(timeout=5.0).value))

    subscription = channel.monitor(work, delivery=lane)
    until(lambda: seen == [(0, 0, 0.0)])
    channel.put(1)
    until(lambda: len(seen) == 2)

    assert seen[1] == (1, 1, 1.0)
    subscription.close()


def test_a_callback_may_monitor_and_close(ioc: Ioc, protocol: str, lane: Delivery) -> None:
    """Also its own subscription, and another one of its lane."""
    channel = ioc.channel("counter", protocol)
    seen: list[Reading] = []
    inner: list[Subscription] = []
    started = threading.Event()

    def once(reading: Reading) -> None:
        started.wait(5.0)
        inner.append(channel.monitor(seen.append, delivery=lane, timeout=5.0))
        outer.close()

    outer = channel.monitor(once, delivery=lane)
    started.set()
    until(lambda: len(seen) >= 4)

    assert len(inner) == 1
    assert outer.closed
    inner[0].close()


def test_a_callback_may_close_its_channel(ioc: Ioc, protocol: str, lane: Delivery) -> None:
    channel = ioc.channel("counter", protocol)
    closed = threading.Event()

    def close(reading: Reading) -> None:
        channel.close()
        closed.set()

    subscription = channel.monitor(close, delivery=lane)

    assert closed.wait(5.0)
    until(lambda: subscription.closed)
    assert channel.closed


def test_a_callback_may_take_its_watch_away(ioc: Ioc, protocol: str, lane: Delivery) -> None:
    channel = ioc.channel("double", protocol)
    channel.connect()
    seen: list[bool] = []
    ready = threading.Event()

    def once(connected: bool) -> None:
        ready.wait(5.0)
        seen.append(connected)
        watch.close()

    watch = channel.on_connection(once, delivery=lane)
    ready.set()

    until(lambda: watch.closed)
    assert seen == [True]
