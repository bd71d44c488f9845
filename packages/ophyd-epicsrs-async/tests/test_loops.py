"""Several event loops: one after the other, and each in a thread of its own."""

import asyncio
import gc
import threading
from typing import Any

from ophyd_async.core import NotConnectedError

from deadline import eventually, until
from footprint import descriptors, growth, threads
from ophyd_epicsrs_async import epicsrs_signal_rw


def test_signals_of_several_loops_in_threads_do_not_disturb_each_other(ioc, protocol):
    failures: list[BaseException] = []

    def work(number: int) -> None:
        async def main() -> None:
            signal = epicsrs_signal_rw(float, ioc.pv("put_float", protocol), name="signal")
            shared = epicsrs_signal_rw(float, ioc.pv("counter", protocol), name="shared")
            await asyncio.gather(signal.connect(), shared.connect())
            seen: list[Any] = []
            called_in: set[threading.Thread] = set()

            def update(reading: Any) -> None:
                seen.append(reading)
                called_in.add(threading.current_thread())

            shared.subscribe_reading(update)
            for _ in range(20):
                await signal.set(float(number))
            await eventually(lambda: len(seen) > 2)
            shared.clear_sub(update)
            assert called_in == {threading.current_thread()}

        try:
            asyncio.run(main(), debug=True)
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join(30.0)
        assert not thread.is_alive()
    assert failures == []


def test_a_loop_that_ends_with_a_monitor_leaves_the_next_one_alone(ioc, protocol):
    signal = epicsrs_signal_rw(float, ioc.pv("counter", protocol), name="signal")
    readings: list[Any] = []

    async def leave() -> None:
        await signal.connect()
        signal.subscribe_reading(readings.append)
        await eventually(lambda: readings)

    async def go_on() -> None:
        signal.clear_sub(readings.append)
        signal.subscribe_reading(readings.append)
        count = len(readings)
        await eventually(lambda: len(readings) > count + 1)
        signal.clear_sub(readings.append)

    asyncio.run(leave(), debug=True)
    asyncio.run(go_on(), debug=True)


def test_absent_pvs_leave_nothing(ioc, protocol):
    def look() -> None:
        async def main() -> None:
            signals = [epicsrs_signal_rw(float, ioc.pv(f"absent{n}", protocol)) for n in range(200)]
            outcomes = await asyncio.gather(
                *(signal.connect(timeout=0.2) for signal in signals), return_exceptions=True
            )
            assert all(isinstance(outcome, NotConnectedError) for outcome in outcomes)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())
        gc.collect()

    look()
    before = threads() + descriptors()
    for _ in range(3):
        look()
    until(lambda: not growth(before), what=lambda: growth(before))


def test_signals_that_are_gone_leave_neither_descriptor_nor_thread(ioc, protocol):
    def rounds(count: int) -> None:
        async def once() -> None:
            signal = epicsrs_signal_rw(float, ioc.pv("counter", protocol), name="signal")
            await signal.connect()
            readings: list[Any] = []
            signal.subscribe_reading(readings.append)
            await eventually(lambda: readings)
            signal.clear_sub(readings.append)

        async def main() -> None:
            for _ in range(count):
                await once()

        asyncio.run(main())
        gc.collect()

    rounds(1)
    before = threads() + descriptors()
    rounds(20)
    until(lambda: not growth(before), what=lambda: growth(before))
