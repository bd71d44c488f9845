"""Connecting: what is found, what is not, and what happens before."""

import asyncio
import subprocess
import sys

import pytest
from ophyd_async.core import Device, NotConnectedError, SignalRW
from ophyd_async.epics.core import EpicsOptions

from deadline import Stopwatch
from ophyd_epicsrs_async import EpicsRsSignalBackend, epicsrs_signal_r, epicsrs_signal_rw, epicsrs_signal_rw_rbv


def test_source_is_the_pv_with_its_scheme_before_connect():
    signal = epicsrs_signal_rw(float, "A", "B")
    assert signal.source == "ca://A"
    backend = EpicsRsSignalBackend(float, "pva://A", "pva://B")
    assert backend.source("", read=True) == "pva://A"
    assert backend.source("", read=False) == "pva://B"


def test_an_absent_pv_is_named_at_the_timeout(ioc, run, protocol):
    async def main():
        signal = epicsrs_signal_r(float, ioc.pv("absent", protocol))
        watch = Stopwatch()
        with pytest.raises(NotConnectedError) as refusal:
            await signal.connect(timeout=0.3)
        assert 0.25 <= watch.elapsed < 1.0
        assert str(refusal.value) == f" {protocol}://{ioc.prefix}absent\n"

    run(main())


@pytest.mark.parametrize(("write", "missing"), [("setpoint", {"read_pv"}), ("absent", {"read_pv", "write_pv"})])
def test_of_two_pvs_the_missing_side_is_named(ioc, run, protocol, write, missing):
    async def main():
        signal = epicsrs_signal_rw(float, ioc.pv(write + "_ABSENT", protocol), ioc.pv(write, protocol))
        with pytest.raises(NotConnectedError) as refusal:
            await signal.connect(timeout=0.3)
        assert set(refusal.value.sub_errors) == missing
        assert f"read_pv: NotConnectedError: {protocol}://{ioc.prefix}{write}_ABSENT" in str(refusal.value)

    run(main())


def test_only_the_write_pv_missing_is_named(ioc, run, protocol):
    async def main():
        signal = epicsrs_signal_rw(float, ioc.pv("setpoint_RBV", protocol), ioc.pv("absent", protocol))
        with pytest.raises(NotConnectedError) as refusal:
            await signal.connect(timeout=0.3)
        assert str(refusal.value) == f"\nwrite_pv: NotConnectedError: {protocol}://{ioc.prefix}absent\n"

    run(main())


def test_readback_and_setpoint_of_two_pvs(ioc, run, protocol):
    async def main():
        signal = epicsrs_signal_rw_rbv(float, ioc.pv("setpoint", protocol))
        assert signal.source == f"{protocol}://{ioc.prefix}setpoint_RBV"
        await signal.connect()
        await signal.set(2.5)
        assert await signal.locate() == {"setpoint": 2.5, "readback": -2.5}
        with_field = epicsrs_signal_rw_rbv(float, ioc.pv("setpoint.VAL", protocol))
        assert with_field.source == f"{protocol}://{ioc.prefix}setpoint_RBV.VAL"
        await with_field.connect()
        assert await with_field.get_value() == -2.5

    run(main())


def test_pvs_and_options_may_be_set_after_the_backend_was_made(ioc, run, protocol):
    async def main():
        backend = EpicsRsSignalBackend(float)
        backend.read_pv = ioc.pv("setpoint_RBV", protocol)
        backend.write_pv = ioc.pv("setpoint", protocol)
        backend.options = EpicsOptions(wait=lambda value: value > 0)
        await backend.connect(2.0)
        await backend.put(1.25)
        assert await backend.get_value() == -1.25
        backend.write_pv = ioc.pv("put_float", protocol)
        await backend.put(4.5)
        assert await backend.get_setpoint() == 4.5

    run(main())


def test_a_write_pv_changed_to_an_absent_one_times_out_by_its_name(ioc, run, protocol):
    async def main():
        backend = EpicsRsSignalBackend(float, ioc.pv("put_float", protocol), ioc.pv("put_float", protocol))
        signal = SignalRW(backend)
        await signal.connect()
        backend.write_pv = ioc.pv("absent", protocol)
        with pytest.raises(TimeoutError, match=f"{protocol}://{ioc.prefix}absent"):
            await signal.set(1.0, timeout=0.2)

    run(main())


def test_connect_may_be_repeated_in_any_loop(ioc, run, protocol):
    signal = epicsrs_signal_rw(float, ioc.pv("float", protocol))

    async def main():
        await signal.connect()
        await signal.connect(force_reconnect=True)
        assert await signal.get_value() == 3.25

    run(main())
    run(main())


def test_a_pv_that_was_absent_is_found_by_the_next_connect(mortal_ioc, run, protocol):
    signal = epicsrs_signal_r(float, mortal_ioc.pv("float", protocol))
    mortal_ioc.stop()

    async def absent():
        with pytest.raises(NotConnectedError):
            await signal.connect(timeout=0.2)

    run(absent())
    mortal_ioc.start()

    async def present():
        await signal.connect(timeout=10.0)
        assert await signal.get_value() == 3.25

    run(present())


def test_one_device_connects_many_signals_at_once_and_names_those_that_are_absent(ioc, run, protocol):
    class Many(Device):
        def __init__(self) -> None:
            self.there = epicsrs_signal_r(float, ioc.pv("float", protocol))
            self.absent = epicsrs_signal_r(float, ioc.pv("absent", protocol))
            self.wrong = epicsrs_signal_r(int, ioc.pv("string", protocol))
            super().__init__(name="many")

    async def main():
        with pytest.raises(NotConnectedError) as refusal:
            await Many().connect(timeout=0.4)
        assert set(refusal.value.sub_errors) == {"absent", "wrong"}

    run(main())


def test_cancelling_a_connect_leaves_nothing(ioc, run, protocol):
    async def main():
        absent = ioc.pv("absent", protocol)
        connecting = asyncio.ensure_future(EpicsRsSignalBackend(float, absent, absent).connect(60.0))
        await asyncio.sleep(0)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting

    run(main())


def test_before_connect_nothing_can_be_read(ioc, run):
    async def main():
        backend = EpicsRsSignalBackend(float, ioc.pv("float"), ioc.pv("float"))
        for use in (backend.get_value(), backend.get_reading(), backend.put(1.0), backend.get_datakey("")):
            with pytest.raises(NotConnectedError, match="connect"):
                await use

    run(main())


def test_making_signals_and_mocking_them_opens_no_client():
    program = """
import asyncio, os, threading
from ophyd_async.core import DeviceVector, set_mock_value
from ophyd_epicsrs_async import epicsrs_signal_rw

def sockets():
    descriptors = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return sum(os.readlink(fd).startswith("socket:") for fd in descriptors if os.path.exists(fd))

async def main():
    before = sockets(), threading.active_count()
    signals = [epicsrs_signal_rw(float, f"{scheme}X{n}") for n in range(500) for scheme in ("", "pva://")]
    device = DeviceVector(dict(enumerate(signals)))
    await device.connect(mock=True)
    set_mock_value(signals[0], 2.5)
    assert await signals[0].get_value() == 2.5
    assert signals[1].source == "mock+pva://X0"
    assert (sockets(), threading.active_count()) == before, (sockets(), threading.active_count(), before)

asyncio.run(main())
assert [t for t in os.listdir("/proc/self/task") if "epicsrs" in open(f"/proc/self/task/{t}/comm").read()] == []
"""
    subprocess.run([sys.executable, "-W", "error::RuntimeWarning", "-c", program], check=True, timeout=60.0)
