import os
import socket
import threading
import time
from pathlib import Path

import numpy as np
import ophyd
import pytest
from ophyd import Component, Device, EpicsSignal, EpicsSignalRO, EpicsSignalWithRBV
from ophyd.device import required_for_connection

from deadline import Stopwatch, until

RECORDS = Path(__file__).parent / "records.db"


def received_bytes() -> int:
    """What has come over the TCP connections that this process has."""
    total = 0
    for entry in Path("/proc/self/fd").iterdir():
        if not (entry.is_symlink() and os.readlink(entry).startswith("socket:")):
            continue
        with socket.socket(fileno=os.dup(int(entry.name))) as connection:
            if connection.type == socket.SOCK_STREAM and connection.family != socket.AF_UNIX:
                # tcpi_bytes_received of struct tcp_info (linux/tcp.h).
                counted = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)[128:136]
                total += int.from_bytes(counted, "little")
    return total


class Source(Device):
    """A device of signals of every kind."""

    pressure = Component(EpicsSignal, "double")
    temperature = Component(EpicsSignalRO, "high", auto_monitor=True)
    current = Component(EpicsSignalWithRBV, "current")
    mode = Component(EpicsSignalRO, "choice", string=True)
    label = Component(EpicsSignalRO, "string")
    trace = Component(EpicsSignalRO, "partial")


def test_a_device_connects_at_once_and_reads(ioc, protocol, make):
    source = make(Source, ioc.pv("", protocol), name="source")

    source.wait_for_connection(timeout=5.0)

    reading = source.read()
    assert {name: reading[f"source_{name}"]["value"] for name in ("pressure", "temperature", "mode", "label")} == {
        "pressure": 3.25,
        "temperature": 8.0,
        "mode": "Moving",
        "label": "hello",
    }
    assert list(reading["source_trace"]["value"]) == [1.5, 2.5, 3.5]
    assert all(abs(part["timestamp"] - time.time()) < 3600.0 for part in reading.values())


class Late(EpicsSignalRO):
    """Is subscribed to when its first value is history."""

    def subscribe(self, callback, event_type=None, run=True):
        until(lambda: self._args_cache["value"] is not None)
        return super().subscribe(callback, event_type, run=False)


class Required(Device):
    """Is connected when its method has run."""

    readback = Component(Late, "double", auto_monitor=True)

    @readback.sub_value
    @required_for_connection
    def moved(self, value, **_):
        self.values.append(value)

    def __init__(self, *args, **kwargs):
        self.values = []
        super().__init__(*args, **kwargs)


def test_a_device_does_not_wait_for_ever_for_a_value_that_came_too_early(ioc, protocol, make):
    device = make(Required, ioc.pv("", protocol), name="device")

    device.wait_for_connection(timeout=5.0)

    assert device.values == [3.25]


def test_the_users_name_is_what_he_sees(ioc, protocol, make):
    signal = make(EpicsSignal, ioc.pv("double", protocol))
    signal.wait_for_connection(timeout=5.0)

    assert signal.pvname == ioc.pv("double", protocol)
    assert signal.describe()["thing"]["source"] == f"PV:{ioc.pv('double', protocol)}"


def test_metadata_are_there_with_the_connection(ioc, protocol, make):
    signal = make(EpicsSignal, ioc.pv("double", protocol), limits=True)
    signal.wait_for_connection(timeout=5.0)

    assert signal.limits == (-20.0, 20.0)
    assert signal.precision == 3
    assert signal.alarm_severity == 0
    assert signal.metadata["units"] == "mbar"
    with pytest.raises(ophyd.utils.LimitError):
        signal.put(21.0)


def test_limits_are_those_of_the_setpoint(ioc, protocol, make):
    signal = make(EpicsSignalWithRBV, ioc.pv("current", protocol))
    signal.wait_for_connection(timeout=5.0)

    assert signal.limits == (0.0, 100.0)
    assert signal.precision == 4


@pytest.mark.parametrize(
    ("record", "status", "severity"), [("double", "NO_ALARM", 0), ("high", "HIGH", 1), ("undefined", "UDF", 3)]
)
def test_alarms_have_channel_accesss_numbers(ioc, protocol, make, record, status, severity):
    signal = make(EpicsSignalRO, ioc.pv(record, protocol))
    signal.wait_for_connection(timeout=5.0)

    assert signal.alarm_status.name == status
    assert signal.alarm_severity == severity


def test_an_absent_pv_is_named_and_nothing_hangs(protocol, make):
    name = ("pva://" if protocol == "pva" else "") + "no:such:pv"
    signal, watch = make(EpicsSignal, name), Stopwatch()

    with pytest.raises(TimeoutError, match=name):
        signal.wait_for_connection(timeout=0.3)
    with pytest.raises(TimeoutError, match=name):
        signal.get(timeout=0.3, connection_timeout=0.3)
    with pytest.raises(TimeoutError, match=name):
        signal.put(1, connection_timeout=0.3)

    assert not signal.connected
    assert watch.elapsed < 3.0


@pytest.mark.parametrize("name", ["", "tango://x", "a" * 10_000, "nul\0"])
def test_a_bad_name_is_refused_when_the_signal_is_made(layer, name):
    with pytest.raises(ValueError):
        EpicsSignal(name, name="thing")


def test_no_timeout_waits_until_the_ioc_is_there(mortal_ioc, protocol, make):
    mortal_ioc.kill()
    signal = make(EpicsSignal, mortal_ioc.pv("follow", protocol))
    waiting = threading.Thread(target=signal.wait_for_connection, kwargs={"timeout": None}, daemon=True)
    waiting.start()
    waiting.join(1.0)
    assert waiting.is_alive()

    mortal_ioc.start()

    waiting.join(30.0)
    assert not waiting.is_alive()
    assert signal.connected


def test_a_long_array_is_not_read_to_connect(ioc, protocol, get_pv):
    # Zeros: a server that is asked for few elements does not tell them from those that are not there.
    get_pv(ioc.pv("image")).put(np.zeros(1_000_000), wait=True)
    before = received_bytes()

    image = get_pv(ioc.pv("image", protocol), connect=True)
    image.get_ctrlvars()

    assert 0 < received_bytes() - before < 1_000_000
    with ioc.frozen():
        # What is known of the value without asking the IOC: nothing.
        assert image.get(timeout=0.1) is None


def test_metadata_alarm_and_time_of_an_array_are_there_with_the_connection(ioc, protocol, make):
    signal = make(EpicsSignalRO, ioc.pv("profile", protocol))
    signal.wait_for_connection(timeout=5.0)

    assert (signal.metadata["units"], signal.precision) == ("counts", 2)
    assert (signal.alarm_severity, signal.alarm_status.name) == (0, "NO_ALARM")
    at_connection = signal.timestamp
    assert signal.read()["thing"]["timestamp"] == at_connection


def test_the_connection_is_told_after_get_pv_returned(ioc, protocol, get_pv):
    """Even where another PV has connected the channel already."""
    told, made = [], []
    first = get_pv(ioc.pv("double", protocol), connect=True)

    def connected(pvname, conn, pv):
        told.append((pvname, conn, pv in made))

    made.extend(get_pv(first.pvname, connection_callback=connected) for _ in range(50))

    until(lambda: len(told) == 50)
    assert told == [(first.pvname, True, True)] * 50


def test_access_rights_are_told_at_connection(ioc, get_pv):
    told = []
    pv = get_pv(ioc.pv("double"), access_callback=lambda read, write, pv: told.append((read, write, pv)))

    until(lambda: told)
    assert told == [(True, True, pv)]


def test_a_change_of_access_rights_reaches_the_signal(ioc, make):
    gate, gated = make(EpicsSignal, ioc.pv("gate")), make(EpicsSignal, ioc.pv("gated"))
    gated.wait_for_connection(timeout=5.0)
    assert gated.write_access

    gate.put(1)
    try:
        until(lambda: not gated.write_access)
        with pytest.raises(ophyd.utils.ReadOnlyError):
            gated.put(2)
    finally:
        gate.put(0)
    until(lambda: gated.write_access)


def test_a_restart_brings_value_state_and_new_metadata(mortal_ioc, protocol, make, tmp_path):
    monitored = make(EpicsSignal, mortal_ioc.pv("follow", protocol), name="monitored", auto_monitor=True)
    plain = make(EpicsSignal, mortal_ioc.pv("follow", protocol), name="plain")
    values, states = [], []
    monitored.subscribe(lambda value, **_: values.append(value))
    for signal in (monitored, plain):
        signal.subscribe(
            lambda obj, connected, **md: states.append((obj.name, connected, md["precision"], md["units"])),
            event_type="meta",
        )
        signal.wait_for_connection(timeout=5.0)
    until(lambda: values == [1.0])

    mortal_ioc.kill()
    until(lambda: not monitored.connected and not plain.connected)
    records = RECORDS.read_text().replace("$(EGU=mm)", "deg").replace("$(PREC=3)", "5")
    mortal_ioc.databases = [tmp_path / "restarted.db"]
    mortal_ioc.databases[0].write_text(records)
    mortal_ioc.start()
    until(lambda: monitored.connected and plain.connected, 30.0)
    until(lambda: len(states) == 6)

    for signal in (monitored, plain):
        assert [state[1:] for state in states if state[0] == signal.name] == [
            (True, 3, "mm"),
            (False, 3, "mm"),
            (True, 5, "deg"),
        ]
        assert signal.precision == 5
        assert signal.metadata["units"] == "deg"
        assert signal.read_access and signal.write_access
        assert signal.get() == 1.0
    until(lambda: values == [1.0, 1.0])
