"""`get` of a monitored signal: the value of the last update, which is all that ophyd takes of it."""

import logging

import pytest
from ophyd import EpicsSignal, EpicsSignalRO

from deadline import until


@pytest.mark.parametrize(
    "record", ["double", "high", "long", "int64", "string", "choice", "partial", "empty", "strings"]
)
def test_it_is_what_the_ioc_says(ioc, protocol, make, record):
    asked = make(EpicsSignalRO, ioc.pv(record, protocol))
    monitored = make(EpicsSignalRO, ioc.pv(record, protocol), name="monitored", auto_monitor=True)
    monitored.wait_for_connection(timeout=5.0)
    until(lambda: monitored._read_pv.last_value() is not None)  # noqa: SLF001

    for options in ({}, {"as_string": True}, {"form": "ctrl"}, {"use_monitor": False}):
        value, expected = monitored.get(**options), asked.get(**options)
        assert type(value) is type(expected)
        assert (value == expected) if not hasattr(value, "tolist") else (value.tolist() == expected.tolist())


def test_an_array_is_the_callers_own(ioc, protocol, make):
    signal = make(EpicsSignalRO, ioc.pv("partial", protocol), auto_monitor=True)
    signal.wait_for_connection(timeout=5.0)
    until(lambda: signal._read_pv.last_value() is not None)  # noqa: SLF001

    value = signal.get()
    value[0] = 7.0

    assert signal.get().tolist() == [1.5, 2.5, 3.5]


@pytest.mark.parametrize("string", [False, True])
def test_read_gives_it_with_its_own_time(ioc, protocol, make, string):
    monitored = make(EpicsSignal, ioc.pv("put_double", protocol), name="monitored", auto_monitor=True, string=string)
    writer = make(EpicsSignal, ioc.pv("put_double", protocol), name="writer")
    for signal in (monitored, writer):
        signal.wait_for_connection(timeout=5.0)
    until(lambda: monitored._read_pv.last_value() is not None)  # noqa: SLF001

    for place in range(20):
        writer.put(float(place), wait=True)
        expected = writer.read()["writer"]
        until(lambda: float(monitored.read()["monitored"]["value"]) == place)  # noqa: B023 (called here)
        assert monitored.read()["monitored"]["timestamp"] == expected["timestamp"]


def test_texts_are_a_list_of_all_of_them(ioc, protocol, make):
    signal = make(EpicsSignalRO, ioc.pv("strings", protocol), auto_monitor=True, string=True)
    signal.wait_for_connection(timeout=5.0)

    assert signal.get() == "['a', '', 'bc']"
    assert signal._read_pv.get(as_string=True) == signal._read_pv.char_value == ["a", "", "bc"]  # noqa: SLF001


def test_all_subscribers_are_given_the_same_and_none_can_change_it(ioc, protocol, make):
    signal = make(EpicsSignalRO, ioc.pv("strings", protocol), auto_monitor=True)
    signal.wait_for_connection(timeout=5.0)
    seen = []
    signal.subscribe(lambda value, **_: seen.append(value), run=True)
    until(lambda: seen)

    with pytest.raises(ValueError, match="read-only"):
        seen[0][0] = "other"


def test_with_metadata_come_its_text_and_its_length(ioc, protocol, get_pv):
    pv = get_pv(ioc.pv("partial", protocol), auto_monitor=True)
    until(lambda: pv.last_value() is not None)

    known = pv.get_with_metadata()

    assert (known["count"], known["char_value"]) == (3, "<array size=3, type=time_double>")


def test_a_setpoint_has_its_own(ioc, protocol, make):
    signal = make(
        EpicsSignal, ioc.pv("aim_RBV", protocol), write_pv=ioc.pv("aim", protocol), auto_monitor=True, limits=False
    )
    signal.wait_for_connection(timeout=5.0)

    # The record does not go beyond 5, and its readback follows.
    signal.put(3.0)
    until(lambda: (signal.get(), signal.get_setpoint()) == (3.0, 3.0))

    with ioc.frozen():
        assert signal.get(timeout=0.5) == signal.get_setpoint(timeout=0.5) == 3.0


def test_it_is_never_what_it_was_before_the_connection_was_lost(mortal_ioc, protocol, make):
    signal = make(EpicsSignal, mortal_ioc.pv("put_double", protocol), auto_monitor=True)
    signal.wait_for_connection(timeout=5.0)
    signal.put(4.0, wait=True)
    until(lambda: signal.get() == 4.0)

    mortal_ioc.kill()
    until(lambda: not signal.connected)
    with pytest.raises(TimeoutError, match=signal.pvname):
        signal.get(connection_timeout=0.1)
    assert signal._read_pv.last_value() is None  # noqa: SLF001

    mortal_ioc.start()
    signal.wait_for_connection(timeout=30.0)
    assert signal.get() == 0.0


def test_a_destroyed_signal_has_none(ioc, make):
    signal = make(EpicsSignalRO, ioc.pv("double"), auto_monitor=True)
    signal.wait_for_connection(timeout=5.0)
    until(lambda: signal._read_pv.last_value() is not None)  # noqa: SLF001

    signal.destroy()

    with pytest.raises(RuntimeError):
        signal.get()


def test_ophyd_still_logs_each_get(ioc, make, caplog):
    signal = make(EpicsSignalRO, ioc.pv("double"), auto_monitor=True)
    signal.wait_for_connection(timeout=5.0)
    until(lambda: signal._read_pv.last_value() is not None)  # noqa: SLF001

    with caplog.at_level(logging.DEBUG, logger="ophyd.control_layer"):
        assert signal.get() == 3.25

    assert sum("get_with_metadata" in record.message for record in caplog.records) == 2


def test_who_asks_the_pv_gets_every_word(ioc, protocol, make):
    """`get` of the signal takes less out of it."""
    signal = make(EpicsSignalRO, ioc.pv("double", protocol), auto_monitor=True)
    signal.wait_for_connection(timeout=5.0)
    pv = signal._read_pv  # noqa: SLF001
    until(lambda: pv.last_value() is not None)
    assert signal.get() == 3.25

    known = pv.get_with_metadata(as_string=False, count=None, form="time", timeout=1.0, use_monitor=True)

    assert {"value", "units", "severity", "timestamp", "posixseconds", "upper_ctrl_limit", "host"} <= set(known)
    assert (known["value"], known["units"], known["severity"], known["upper_ctrl_limit"]) == (3.25, "mbar", 0, 20.0)
