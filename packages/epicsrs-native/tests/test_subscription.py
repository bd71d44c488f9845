"""monitor: the first update, later ones, close, pause, the asynchronous iterator."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from deadline import Stopwatch, eventually, until
from epicsrs_native import Delivery, EnumValue, Reading
from ioc import Ioc

Call = Callable[..., Any]


def test_monitor_gives_the_present_value_first(ioc: Ioc, protocol: str, call: Call, lane: Delivery) -> None:
    channel = ioc.channel("too_high", protocol)
    readings: list[Reading] = []

    subscription = call(channel.monitor, readings.append, delivery=lane)

    until(lambda: readings)
    assert readings[0].value == 12.0
    assert readings[0].severity == 2
    assert readings[0].timestamp_ns == channel.get().timestamp_ns
    assert subscription.pv == channel.pv
    assert (subscription.closed, subscription.paused, subscription.dropped) == (False, False, 0)
    subscription.close()
    assert subscription.closed


def test_monitor_gives_every_change_in_order(ioc: Ioc, protocol: str, call: Call, lane: Delivery) -> None:
    channel = ioc.channel("put_long", protocol)
    channel.put(0)
    values: list[int] = []
    subscription = call(channel.monitor, lambda reading: values.append(reading.value), delivery=lane)

    for value in range(1, 51):
        channel.put(value)
        until(lambda value=value: values and values[-1] == value)

    assert values == list(range(51))
    subscription.close()


def test_monitor_follows_the_clock_of_the_ioc(ioc: Ioc, protocol: str, call: Call, lane: Delivery) -> None:
    readings: list[Reading] = []
    subscription = call(ioc.channel("counter", protocol).monitor, readings.append, delivery=lane)

    until(lambda: len(readings) >= 6)

    first = readings[0].value
    assert [reading.value for reading in readings[:6]] == [first + n for n in range(6)]
    assert readings[5].timestamp - readings[1].timestamp == pytest.approx(0.4, abs=0.15)
    subscription.close()


def test_values_are_as_get_gives_them(ioc: Ioc, protocol: str, lane: Delivery) -> None:
    readings: dict[str, Reading] = {}

    def keep(record: str) -> Callable[[Reading], None]:
        return lambda reading: readings.update({record: reading})

    records = ["binary", "string", "long", "partial", "strings", "empty"]
    subscriptions = [ioc.channel(record, protocol).monitor(keep(record), delivery=lane) for record in records]

    until(lambda: len(readings) == len(records))
    assert type(readings["binary"].value) is EnumValue and readings["binary"].value.label == "Open"
    assert (readings["string"].value, readings["long"].value) == ("hello", -42)
    assert readings["partial"].value.tolist() == [1.5, 2.5, 3.5]
    assert not readings["partial"].value.flags.writeable
    assert readings["strings"].value == ["a", "", "bc"]
    assert readings["empty"].value.shape == (0,)
    for subscription in subscriptions:
        subscription.close()


def test_no_wait_returns_at_once(ioc: Ioc, protocol: str, call: Call, lane: Delivery) -> None:
    channel = ioc.channel("absent", protocol)
    watch = Stopwatch()

    subscription = call(channel.monitor, str, delivery=lane, wait=False)

    assert watch.elapsed <= 0.3
    assert not subscription.closed
    subscription.close()


def test_callbacks_of_monitor_run_in_the_default_delivery(ioc: Ioc, protocol: str) -> None:
    names: list[str] = []

    subscription = ioc.channel("double", protocol).monitor(
        lambda reading: names.append(threading.current_thread().name)
    )

    until(lambda: names)
    assert names == ["epicsrs-delivery"]
    subscription.close()


def test_callbacks_of_monitor_async_run_in_the_loop(ioc: Ioc, protocol: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loops: list[object] = []
        subscription = await ioc.channel("counter", protocol).monitor_async(
            lambda reading: loops.append(asyncio.get_running_loop())
        )
        await eventually(lambda: len(loops) >= 3)
        assert set(loops) == {loop}
        subscription.close()

    asyncio.run(main())


def test_a_subscription_is_an_asynchronous_iterator(ioc: Ioc, protocol: str) -> None:
    async def main() -> list[float]:
        subscription = await ioc.channel("counter", protocol).monitor_async()
        values: list[float] = []
        async for reading in subscription:
            values.append(reading.value)
            if len(values) == 5:
                subscription.close()
                break
        return values

    values = asyncio.run(asyncio.wait_for(main(), 5.0))
    assert values == [values[0] + n for n in range(5)]


def test_closing_ends_the_iterator(ioc: Ioc, protocol: str) -> None:
    async def main() -> list[float]:
        subscription = await ioc.channel("double", protocol).monitor_async()
        asyncio.get_running_loop().call_later(0.2, subscription.close)
        return [reading.value async for reading in subscription]

    assert asyncio.run(asyncio.wait_for(main(), 5.0)) == [3.25]


def test_no_callback_starts_after_close(ioc: Ioc, protocol: str, call: Call, lane: Delivery) -> None:
    channel = ioc.channel("put_long", protocol)
    values: list[int] = []
    kept: list[int] = []
    subscription = call(channel.monitor, lambda reading: values.append(reading.value), delivery=lane)
    other = channel.monitor(lambda reading: kept.append(reading.value), delivery=lane)
    gate = threading.Event()
    lane.call(gate.wait, 10.0)

    # Updates wait behind the gate when the subscription is closed.
    channel.put(101)
    channel.put(102)
    subscription.close()
    seen = len(values)
    gate.set()

    until(lambda: kept and kept[-1] == 102)
    assert len(values) == seen
    other.close()


def test_two_subscriptions_of_one_channel_are_independent(ioc: Ioc, protocol: str, lane: Delivery) -> None:
    channel = ioc.channel("put_long", protocol)
    channel.put(0)
    one: list[int] = []
    other: list[int] = []
    first = channel.monitor(lambda reading: one.append(reading.value), delivery=lane)
    second = channel.monitor(lambda reading: other.append(reading.value), delivery=lane)
    until(lambda: one == [0] and other == [0])

    first.close()
    channel.put(1)

    until(lambda: other == [0, 1])
    assert one == [0]
    second.close()


def test_pause_holds_back_and_resume_gives_the_latest(ioc: Ioc, protocol: str, lane: Delivery) -> None:
    channel = ioc.channel("put_long", protocol)
    channel.put(0)
    held: list[int] = []
    live: list[int] = []
    subscription = channel.monitor(lambda reading: held.append(reading.value), delivery=lane)
    other = channel.monitor(lambda reading: live.append(reading.value), delivery=lane)
    until(lambda: held == [0] and live == [0])

    subscription.pause()
    assert subscription.paused
    for value in range(1, 11):
        channel.put(value)
    until(lambda: live[-1] == 10)
    assert held == [0]
    subscription.resume()
    assert not subscription.paused
    until(lambda: held[-1] == 10)
    assert held == [0, 10]

    channel.put(11)
    until(lambda: held[-1] == 11)
    subscription.close()
    other.close()


def test_resume_without_news_gives_nothing_old_twice(ioc: Ioc, protocol: str, lane: Delivery) -> None:
    channel = ioc.channel("put_long", protocol)
    channel.put(0)
    values: list[int] = []
    subscription = channel.monitor(lambda reading: values.append(reading.value), delivery=lane)
    until(lambda: values == [0])

    subscription.pause()
    subscription.resume()
    channel.put(1)

    until(lambda: values[-1] == 1)
    # The latest may be given again on resume; what came before it may not.
    assert values in ([0, 1], [0, 0, 1])
    subscription.close()


def test_a_monitor_sees_an_alarm_without_a_change_of_value(ioc: Ioc, protocol: str, lane: Delivery) -> None:
    channel, limit = ioc.channel("put_double", protocol), ioc.channel("put_double.HIGH", "ca")
    severity = ioc.channel("put_double.HSV", "ca")
    severity.put("MINOR")
    limit.put(1000.0)
    channel.put(5.0)
    readings: list[Reading] = []
    subscription = channel.monitor(readings.append, delivery=lane)
    until(lambda: readings)
    assert readings[-1].severity == 0

    limit.put(4.0)
    channel.put(5.0)

    until(lambda: readings[-1].severity == 1)
    assert readings[-1].value == 5.0
    limit.put(1000.0)
    channel.put(5.0)
    subscription.close()


def test_a_reading_tells_when_the_ioc_made_it(ioc: Ioc, protocol: str, lane: Delivery) -> None:
    channel = ioc.channel("put_long", protocol)
    channel.put(0)
    readings: list[Reading] = []
    subscription = channel.monitor(readings.append, delivery=lane)

    before = time.time_ns()
    channel.put(77)
    after = time.time_ns()

    until(lambda: readings and readings[-1].value == 77)
    assert before - 10**6 <= (readings[-1].timestamp_ns or 0) <= after + 10**6
    subscription.close()
