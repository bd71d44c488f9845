"""Callbacks: when they come, in what order, on which thread, and when no more."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ophyd_async.core import NotConnectedError, observe_value

from deadline import eventually, until
from epicsrs_native import get_context
from footprint import threads
from ophyd_epicsrs_async import EpicsRsSignalBackend, epicsrs_signal_rw


async def connected(pv: str, datatype: Any = int) -> EpicsRsSignalBackend[Any]:
    backend: EpicsRsSignalBackend[Any] = EpicsRsSignalBackend(datatype, pv, pv)
    await backend.connect(5.0)
    return backend


@contextmanager
def loop_held_until_it_came(pv: str, value: int) -> Iterator[None]:
    """Keep the loop's thread from taking updates until another subscription has seen this one."""
    seen: list[int] = []
    channel = get_context().channel(pv)
    channel.monitor(lambda reading: seen.append(reading.value))
    yield
    until(lambda: value in seen)
    channel.close()


def test_the_present_value_comes_first_and_then_each_update_in_order(ioc, run, protocol):
    async def main():
        backend = await connected(ioc.pv("stream", protocol))
        await backend.put(-1)
        values: list[int] = []
        threads: set[threading.Thread] = set()

        def callback(reading: Any) -> None:
            values.append(reading["value"])
            threads.add(threading.current_thread())

        backend.set_callback(callback)
        assert values == []
        await eventually(lambda: values == [-1])
        for value in range(100):
            await backend.put(value)
        await eventually(lambda: values == list(range(-1, 100)))
        assert threads == {threading.current_thread()}
        assert backend.dropped == 0
        backend.set_callback(None)

    run(main())


def test_a_second_callback_is_refused_and_the_first_goes_on(ioc, run, protocol):
    async def main():
        backend = await connected(ioc.pv("int", protocol))
        values: list[int] = []
        backend.set_callback(lambda reading: values.append(reading["value"]))
        with pytest.raises(RuntimeError, match="Cannot set a callback when one is already set"):
            backend.set_callback(print)
        await eventually(lambda: values == [42])
        backend.set_callback(None)
        backend.set_callback(None)

    run(main())


def test_a_callback_needs_a_running_loop_and_a_connected_pv(ioc, run, protocol):
    backend = run(connected(ioc.pv("int", protocol)))
    with pytest.raises(RuntimeError, match="no running event loop"):
        backend.set_callback(print)

    async def main():
        unconnected: EpicsRsSignalBackend[Any] = EpicsRsSignalBackend(int, ioc.pv("int", protocol))
        with pytest.raises(NotConnectedError, match="connect"):
            unconnected.set_callback(print)

    run(main())


def test_nothing_comes_after_none_not_even_what_waits(ioc, run, protocol):
    async def main():
        backend = await connected(ioc.pv("stream", protocol))
        values: list[int] = []
        backend.set_callback(lambda reading: values.append(reading["value"]))
        await eventually(lambda: values)
        other = get_context().channel(ioc.pv("stream", protocol))
        with loop_held_until_it_came(ioc.pv("stream", protocol), 19):
            for value in range(20):
                other.put(value)
        backend.set_callback(None)
        count = len(values)
        other.put(100)
        await asyncio.sleep(0.2)
        assert len(values) == count
        other.close()

    run(main())


def test_a_callback_may_end_itself(ioc, run, protocol):
    async def main():
        backend = await connected(ioc.pv("counter", protocol), float)
        values: list[float] = []

        def once(reading: Any) -> None:
            values.append(reading["value"])
            backend.set_callback(None)

        backend.set_callback(once)
        await eventually(lambda: values)
        await asyncio.sleep(0.3)
        assert len(values) == 1

    run(main())


def test_a_callback_that_raises_is_reported_to_the_loop_and_the_next_update_comes(ioc, protocol):
    reported: list[dict[str, Any]] = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
        backend = await connected(ioc.pv("stream", protocol))
        values: list[int] = []

        def callback(reading: Any) -> None:
            values.append(reading["value"])
            raise RuntimeError(f"refused {reading['value']}")

        backend.set_callback(callback)
        await eventually(lambda: values)
        for value in (1, 2, 3):
            await backend.put(value)
        await eventually(lambda: values[-3:] == [1, 2, 3])
        backend.set_callback(None)
        assert [str(context["exception"]) for context in reported] == [f"refused {value}" for value in values]
        assert f"{protocol}://{ioc.prefix}stream" in reported[0]["message"]

    asyncio.run(main(), debug=True)


def test_every_update_is_kept_while_the_loop_is_busy(ioc, run, protocol):
    async def main():
        backend = await connected(ioc.pv("stream", protocol))
        values: list[int] = []
        backend.set_callback(lambda reading: values.append(reading["value"]))
        await eventually(lambda: values)
        other = get_context().channel(ioc.pv("stream", protocol))
        for value in range(1000, 2000):
            other.put(value)
        await eventually(lambda: values[-1] == 1999)
        other.close()
        backend.set_callback(None)
        # A pvAccess server may merge updates of its own accord; their order stays.
        assert values[1:] == (list(range(1000, 2000)) if protocol == "ca" else sorted(values[1:]))

    run(main())


@pytest.mark.slow
def test_20000_updates_of_a_loop_that_is_held_all_come(ioc, run, protocol):
    async def main():
        backend = await connected(ioc.pv("stream", protocol))
        await backend.put(0)
        values: list[int] = []
        backend.set_callback(lambda reading: values.append(reading["value"]))
        await eventually(lambda: values)
        other = get_context().channel(ioc.pv("stream", "ca"))
        with loop_held_until_it_came(ioc.pv("stream", protocol), 29_999):
            for value in range(10_000, 30_000):
                other.put(value)
        await eventually(lambda: values[-1] == 29_999, 30.0)
        other.close()
        assert backend.dropped == 0
        backend.set_callback(None)
        if protocol == "ca":
            assert values[1:] == list(range(10_000, 30_000))
        else:
            # What the server merged of its own accord.
            assert len(values[1:]) >= 19_977
            assert values[1:] == sorted(values[1:])

    run(main())


def test_many_monitors_add_no_thread(ioc, run, protocol):
    names = [f"{record}.{field}" for record in ("count", "slow", "motor") for field in "ABCDEFGHIJKLMNOPQRSTU"]

    async def main():
        first = await connected(ioc.pv("float", protocol), float)
        readings: list[Any] = []
        first.set_callback(readings.append)
        await eventually(lambda: readings)
        before = threads()
        backends = await asyncio.gather(*(connected(ioc.pv(name, protocol), float) for name in names))
        for backend in backends:
            backend.set_callback(readings.append)
        await eventually(lambda: len(readings) > len(names))
        assert threads() == before
        for backend in (first, *backends):
            backend.set_callback(None)

    run(main())


def test_only_the_latest_is_kept_where_the_environment_says_so(ioc, run, monkeypatch):
    monkeypatch.setenv("OPHYD_ASYNC_EPICS_CA_KEEP_ALL_UPDATES", "False")

    async def main():
        backend = await connected(ioc.pv("stream", "ca"))
        values: list[int] = []
        backend.set_callback(lambda reading: values.append(reading["value"]))
        await eventually(lambda: values)
        other = get_context().channel(ioc.pv("stream", "ca"))
        with loop_held_until_it_came(ioc.pv("stream", "ca"), 1099):
            for value in range(1000, 1100):
                other.put(value)
        await eventually(lambda: values[-1] == 1099)
        assert len(values) < 50
        assert backend.dropped > 0
        other.close()
        backend.set_callback(None)

    run(main())


def test_observe_value_and_staging_work_over_it(ioc, run, protocol):
    async def main():
        signal = epicsrs_signal_rw(int, ioc.pv("stream", protocol), name="stream")
        await signal.connect()
        await signal.set(0)
        seen: list[int] = []
        async for value in observe_value(signal, timeout=5.0):
            seen.append(value)
            if value == 3:
                break
            await signal.set(value + 1)
        assert seen == [0, 1, 2, 3]
        await signal.stage()
        assert (await signal.read(cached=True))["stream"]["value"] == 3
        await signal.unstage()

    run(main())
