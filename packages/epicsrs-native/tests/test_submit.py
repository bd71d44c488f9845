"""Delivery.submit: awaitable calls from a thread without an event loop."""

import gc
import threading
import weakref
from concurrent.futures import CancelledError

import pytest

from deadline import Stopwatch, until
from epicsrs_native import Delivery, NotConnectedError, Reading, Submitted, get_context
from ioc import Ioc


def test_the_result_comes_in_the_deliverys_thread(ioc: Ioc, protocol: str, lane: Delivery) -> None:
    threads: list[str] = []
    submitted = lane.submit(ioc.channel("double", protocol).get_async, form="ctrl")
    submitted.add_done_callback(lambda _: threads.append(threading.current_thread().name))

    assert isinstance(submitted, Submitted)
    reading = submitted.result(5.0)
    assert isinstance(reading, Reading)
    assert (reading.value, reading.metadata.units) == (3.25, "mbar")
    until(lambda: threads)
    submitted.add_done_callback(lambda _: threads.append(threading.current_thread().name))
    until(lambda: len(threads) == 2)
    assert threads == ["lane", "lane"]


def test_a_slow_put_does_not_block_and_completes(ioc: Ioc, protocol: str, lane: Delivery) -> None:
    slow = ioc.channel("slow.A", protocol)
    slow.connect()
    watch = Stopwatch()

    submitted = lane.submit(slow.put_async, 2.5, timeout=None)

    assert watch.elapsed < 0.3
    assert submitted.result(5.0) is None
    assert watch.elapsed >= 0.45
    assert ioc.channel("slow_done").get().value == 2.5


def test_submitted_puts_and_blocking_gets_keep_their_order(ioc: Ioc, protocol: str, lane: Delivery) -> None:
    channel = ioc.channel("put_long", protocol)
    channel.connect()

    for value in range(200):
        lane.submit(channel.put_async, value, wait=False)
        assert channel.get().value == value


def test_the_order_of_a_lane_holds_for_results_and_calls(ioc: Ioc, lane: Delivery) -> None:
    seen: list[object] = []
    lane.call(seen.append, "before")
    lane.submit(ioc.channel("double").connect_async).add_done_callback(lambda _: seen.append("connected"))
    until(lambda: len(seen) == 2)

    assert seen == ["before", "connected"]


def test_a_monitor_started_by_submit_delivers_to_the_lane(ioc: Ioc, protocol: str, lane: Delivery) -> None:
    seen: list[tuple[str, object]] = []

    def seen_in(reading: Reading) -> None:
        seen.append((threading.current_thread().name, reading.value))

    subscription = lane.submit(ioc.channel("double", protocol).monitor_async, seen_in).result(5.0)
    until(lambda: seen)
    subscription.close()

    assert seen == [("lane", 3.25)]


def test_bulk_calls_can_be_submitted(ioc: Ioc, lane: Delivery) -> None:
    readings = lane.submit(get_context().get_many_async, [ioc.channel("double"), ioc.channel("long", "pva")]).result(
        5.0
    )

    assert [reading.value for reading in readings] == [3.25, -42]


def test_an_error_is_the_futures_exception(ioc: Ioc, protocol: str, lane: Delivery) -> None:
    absent = ioc.channel("absent", protocol)

    error = lane.submit(absent.get_async, timeout=0.2).exception(5.0)

    assert isinstance(error, NotConnectedError)
    assert error.pv == absent.pv


def test_cancelling_withdraws_what_has_not_been_sent(ioc: Ioc, protocol: str, lane: Delivery) -> None:
    submitted = lane.submit(ioc.channel("absent", protocol).put_async, 1.0, timeout=None)

    assert submitted.cancel()
    with pytest.raises(CancelledError):
        submitted.result(1.0)


def test_bad_arguments_are_raised_at_once(ioc: Ioc, lane: Delivery) -> None:
    channel = ioc.channel("double")

    with pytest.raises(ValueError, match=f"{channel.pv}.*-1"):
        lane.submit(channel.get_async, timeout=-1)
    with pytest.raises(TypeError, match=r"lane.*awaitable"):
        lane.submit(channel.get)  # type: ignore[arg-type]
    # The target of a failed call is forgotten: the next one outside of a loop fails as ever.
    with pytest.raises(RuntimeError, match="event loop"):
        channel.get_async()


def test_what_is_closed_lets_go_of_its_callback(ioc: Ioc, protocol: str, lane: Delivery) -> None:
    class Holder:
        def seen(self, *_: object) -> None:
            seen.append(True)

    seen: list[bool] = []
    holder = Holder()
    channel = ioc.channel("double", protocol)
    holder.opened = [  # type: ignore[attr-defined]
        channel.monitor(holder.seen, delivery=lane),
        channel.on_connection(holder.seen, delivery=lane),
        channel.on_error(holder.seen, delivery=lane),
    ]
    until(lambda: len(seen) >= 2)
    gone = weakref.ref(holder)

    for opened in holder.opened:  # type: ignore[attr-defined]
        opened.close()
    lane.call(str)
    del holder, opened

    until(lambda: gc.collect() >= 0 and gone() is None)


def test_a_closed_delivery_takes_nothing(ioc: Ioc) -> None:
    delivery = Delivery("ended")
    delivery.close()

    with pytest.raises(ValueError, match=r"ended.*closed"):
        delivery.submit(ioc.channel("double").get_async)
