"""Puts: completion, refusals, values that do not fit."""

import asyncio
import logging

import numpy as np
import pytest
from ophyd_async.core import Array1D, StrictEnum

from deadline import Stopwatch, eventually
from epicsrs_native import AccessDeniedError, EpicsError, NotConnectedError, RemoteError
from ophyd_epicsrs_async import epicsrs_signal_rw, epicsrs_signal_w, epicsrs_signal_x


class Abc(StrictEnum):
    A = "Aaa"
    B = "Bbb"
    C = "Ccc"


def test_a_set_is_done_when_the_record_is(ioc, run, protocol):
    async def main():
        slow = epicsrs_signal_w(float, ioc.pv("slow.A", protocol))
        done = epicsrs_signal_rw(float, ioc.pv("slow_done", protocol))
        await asyncio.gather(slow.connect(), done.connect())
        value = await done.get_value() + 1
        watch = Stopwatch()
        await slow.set(value)
        assert 0.45 <= watch.elapsed < 2.0
        assert await done.get_value() == value

    run(main())


@pytest.mark.parametrize("wait", [False, lambda value: value < 0], ids=["never", "by-value"])
def test_a_set_without_wait_is_done_at_once(ioc, run, protocol, wait):
    async def main():
        slow = epicsrs_signal_w(float, ioc.pv("slow.A", protocol), wait=wait)
        done = epicsrs_signal_rw(float, ioc.pv("slow_done", protocol))
        await asyncio.gather(slow.connect(), done.connect())
        value = await done.get_value() + 1
        watch = Stopwatch()
        await slow.set(value)
        assert watch.elapsed < 0.4
        # The record processes all the same.
        while await done.get_value() != value:
            assert watch.elapsed < 5.0
            await asyncio.sleep(0.01)

    run(main())


def test_wait_by_value_waits_where_it_says_so(ioc, run, protocol):
    async def main():
        slow = epicsrs_signal_w(float, ioc.pv("slow.A", protocol), wait=lambda value: value == 7)
        await slow.connect()
        watch = Stopwatch()
        await slow.set(7)
        assert watch.elapsed >= 0.45

    run(main())


def test_a_set_times_out_by_the_name_of_the_write_pv_and_is_tried_again(ioc, run, protocol):
    async def main():
        slow = epicsrs_signal_w(float, ioc.pv("slow.A", protocol), timeout=0.1, attempts=2)
        await slow.connect()
        watch = Stopwatch()
        with pytest.raises(TimeoutError, match=rf"{protocol}://{ioc.prefix}slow\.A"):
            await slow.set(1.0)
        assert 0.18 <= watch.elapsed < 1.0
        await slow.set(2.0, timeout=5.0)

    run(main())


def test_a_refused_set_raises_and_the_status_tells(ioc, run, protocol):
    async def main():
        signal = epicsrs_signal_rw(float, ioc.pv("locked", protocol))
        await signal.connect()
        status = signal.set(1.0)
        with pytest.raises(RemoteError, match="locked") as refusal:
            await status
        assert status.done and not status.success
        assert bool(refusal.value)
        assert refusal.value.pv == f"{protocol}://{ioc.prefix}locked"
        assert await signal.get_value() == 0.0

    run(main())


def test_a_set_without_the_right_to_write_raises(ioc, run, protocol):
    async def main():
        gate = epicsrs_signal_rw(float, ioc.pv("gate"))
        gated = epicsrs_signal_rw(float, ioc.pv("gated", protocol), timeout=5.0)
        await asyncio.gather(gate.connect(), gated.connect())
        await gate.set(1.0)
        try:
            with pytest.raises(EpicsError, match="gated") as refusal:
                await gated.set(5.0)
            assert isinstance(refusal.value, AccessDeniedError if protocol == "ca" else RemoteError)
        finally:
            await gate.set(0.0)

    run(main())


def test_a_late_refusal_of_a_set_without_wait_is_logged(ioc, run, caplog):
    async def main():
        signal = epicsrs_signal_w(float, ioc.pv("locked", "ca"), wait=False)
        await signal.connect()
        with caplog.at_level(logging.ERROR, logger="ophyd_async"):
            await signal.set(1.0)
            ours = await eventually(lambda: [r for r in caplog.records if r.name == "ophyd_async.epicsrs"])
        assert f"{ioc.prefix}locked: the server refused a put" in ours[0].getMessage()

    run(main())


@pytest.mark.parametrize("datatype", [str, Abc])
def test_an_unknown_label_is_refused_with_those_there_are(ioc, run, protocol, datatype):
    async def main():
        signal = epicsrs_signal_rw(datatype, ioc.pv("put_enum", protocol))
        await signal.connect()
        await signal.set("Bbb")
        with pytest.raises(ValueError, match=rf"Ddd is not a valid choice for {protocol}://.*put_enum") as refusal:
            await signal.set("Ddd")
        assert "valid choices: ['Aaa', 'Bbb', 'Ccc']" in str(refusal.value)
        assert await signal.get_value() == "Bbb"

    run(main())


def test_an_enum_takes_labels_members_and_indices(ioc, run, protocol):
    async def main():
        signal = epicsrs_signal_rw(Abc, ioc.pv("put_enum", protocol))
        await signal.connect()
        for value, expected in (("Ccc", Abc.C), (Abc.B, Abc.B), (2, Abc.C), ("Aaa", Abc.A)):
            await signal.set(value)
            assert await signal.get_value() is expected
        with pytest.raises(ValueError, match="put_enum"):
            await signal.set(-1)

    run(main())


@pytest.mark.parametrize(
    ("datatype", "name", "value", "error"),
    [
        (int, "put_int", 3.5, ValueError),
        (int, "put_int", float("nan"), ValueError),
        (int, "put_int", 2**40, ValueError),
        (int, "put_int", "three", TypeError),
        (float, "put_float", "three", TypeError),
        (bool, "put_bool", "Open", ValueError),
        (bool, "put_bool", 2, ValueError),
        (str, "put_string", 3, TypeError),
        (Array1D[np.int16], "put_shorts", np.array([1, 70000]), ValueError),
        (Array1D[np.int16], "put_shorts", ["a"], TypeError),
    ],
)
def test_what_the_pv_cannot_hold_is_refused_by_its_name(ioc, run, protocol, datatype, name, value, error):
    async def main():
        signal = epicsrs_signal_rw(datatype, ioc.pv(name, protocol))
        await signal.connect()
        before = await signal.get_value()
        with pytest.raises(error, match=name):
            await signal.set(value)
        np.testing.assert_array_equal(await signal.get_value(), before)

    run(main())


def test_none_writes_the_value_of_connect_and_processes_the_record(ioc, run, protocol):
    async def main():
        signal = epicsrs_signal_rw(float, ioc.pv("put_float", protocol), name="signal")
        await signal.connect()
        await signal.set(1.5)
        await signal.connect(force_reconnect=True)
        before = (await signal.read())["signal"]
        await signal.set(2.5)
        await signal.set(None)
        after = (await signal.read())["signal"]
        assert after["value"] == before["value"] == 1.5
        assert after["timestamp"] > before["timestamp"]

    run(main())


def test_none_writes_back_what_no_bool_could_be(ioc, run):
    async def main():
        number = epicsrs_signal_rw(int, ioc.pv("put_int", "pva"), name="number")
        flag = epicsrs_signal_rw(bool, ioc.pv("put_int", "pva"), name="flag")
        await number.connect()
        await number.set(5)
        await flag.connect()
        before = (await number.read())["number"]
        await flag.set(None)
        after = (await number.read())["number"]
        assert after["value"] == 5 and after["timestamp"] > before["timestamp"]

    run(main())


def test_a_signal_x_triggers_with_the_value_of_connect(ioc, run, protocol):
    async def main():
        with pytest.warns(DeprecationWarning, match="epicsrs_triggerable_command"):
            signal = epicsrs_signal_x(ioc.pv("trigger", protocol))
        count = epicsrs_signal_rw(float, ioc.pv("count", protocol))
        await asyncio.gather(signal.connect(), count.connect())
        before = await count.get_value()
        await signal.trigger()
        assert await count.get_value() == before + 1

    run(main())


def test_a_cancelled_set_leaves_the_pv_usable(ioc, run, protocol):
    async def main():
        slow = epicsrs_signal_w(float, ioc.pv("slow.A", protocol), timeout=None)
        await slow.connect()
        status = slow.set(1.0)
        await asyncio.sleep(0.05)
        status.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await status
        await slow.set(2.0, timeout=5.0)

    run(main())


def test_a_set_under_way_when_the_ioc_dies_raises_at_once(mortal_ioc, run, protocol):
    async def main():
        slow = epicsrs_signal_w(float, mortal_ioc.pv("slow.A", protocol), timeout=None)
        await slow.connect()
        status = slow.set(1.0)
        await asyncio.sleep(0.1)
        mortal_ioc.kill()
        with pytest.raises(NotConnectedError, match="slow"):
            await asyncio.wait_for(status, 5.0)

    run(main())


def test_a_set_waits_for_an_ioc_that_comes_back(mortal_ioc, run, protocol):
    async def main():
        signal = epicsrs_signal_rw(float, mortal_ioc.pv("put_float", protocol))
        await signal.connect()
        mortal_ioc.kill()
        with pytest.raises(TimeoutError, match="put_float"):
            await signal.set(1.0, timeout=0.3)
        mortal_ioc.start()
        await signal.set(2.0, timeout=30.0)
        assert await signal.get_value() == 2.0

    run(main())


@pytest.mark.slow
def test_a_set_without_a_timeout_waits_as_long_as_it_takes(ioc, run, protocol):
    async def main():
        slow = epicsrs_signal_w(float, ioc.pv("very_slow.A", protocol), timeout=None)
        done = epicsrs_signal_rw(float, ioc.pv("very_slow_done", protocol))
        await asyncio.gather(slow.connect(), done.connect())
        value = await done.get_value() + 1
        watch = Stopwatch()
        await slow.set(value)
        assert watch.elapsed >= 309.0
        assert await done.get_value() == value

    run(main())
