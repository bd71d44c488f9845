"""Through pyepics, which is EPICS Base's own client library."""

import time
from threading import Event

import epics
import numpy as np
import pytest
from pyepics_channels import LIMIT, await_value

pytest_plugins = ["pyepics_channels"]


@pytest.mark.parametrize(
    ("name", "value", "ca_type"),
    [
        ("float1", 1.5, "double"),
        ("int10", 10, "long"),
        ("bool1", 1, "enum"),
        ("enum2", 2, "enum"),
        ("str3", "text 3", "string"),
        ("int64", 1234567890123, "double"),
        ("types:longin", -(2**31), "long"),
        ("types:int64out", 2.0**53, "double"),
        ("types:mbboDirect", 10, "long"),
        ("types:calc", 3, "double"),
        ("types:sel", 3, "double"),
        ("types:calcout:out", 12, "double"),
        ("infinite", float("inf"), "double"),
    ],
)
def test_a_record_has_its_value_and_type(channel, name, value, ca_type):
    record = channel(name)

    assert record.get() == value
    assert record.type.removeprefix("time_").removeprefix("ctrl_") == ca_type


@pytest.mark.parametrize(
    ("name", "states"),
    [
        ("enum1", ["zero", "one", "two", "three"]),
        ("enum:blank", ["first", "", "third", "fourth"]),
        ("enum:full", [f"state {i}" for i in range(16)]),
    ],
)
def test_an_enum_has_its_states_blank_ones_too(channel, name, states):
    record = channel(name)
    assert [
        state.decode() if isinstance(state, bytes) else state for state in record.get_ctrlvars()["enum_strs"]
    ] == states


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("wf:char", [1, -2, 3]),
        ("wf:uchar", [1, 200, 3]),
        ("wf:short", [1, -2, 3]),
        ("wf:ushort", [1, 65535, 3]),
        ("wf:long", [1, -2, 3]),
        ("wf:ulong", [1, 4294967295, 3]),
        ("wf:int64", [1, -2, 3]),
        ("wf:uint64", [1, 2, 3]),
        ("wf:float", [0.5, 1.5, 2.5]),
        ("wf:double", [0.5, 1.5, 2.5, 3.5]),
        ("wf:empty", []),
        ("types:aai", [1, 2, 3]),
        ("types:subArray", [1.5, 2.5, 3.5]),
    ],
)
def test_a_waveform_has_its_elements(channel, name, values):
    found = np.atleast_1d(channel(name).get(as_numpy=True))
    # Channel Access has one 8-bit type, and clients may read it unsigned.
    assert found.astype(np.int8).tolist() == values if name == "wf:char" else found.tolist() == values


def test_an_array_of_strings_comes_as_strings(channel):
    assert list(channel("wf:string").get()) == ["one", "two", "three"]


def test_a_million_doubles_come_back_as_they_were_put(channel):
    values = np.arange(1_000_000, dtype=float)
    big = channel("wf:big")

    big.put(values, wait=True, timeout=LIMIT)

    assert np.array_equal(big.get(timeout=LIMIT), values)
    assert big.nelm == 1_000_000


def test_a_long_string_is_more_than_forty_characters(channel):
    text = channel("longstr.VAL$").get(as_string=True)
    assert text == "a text of more than forty characters, which only a long string holds"


def test_limits_units_and_precision_come_with_the_value(channel):
    facts = channel("float2").get_ctrlvars()
    assert (facts["units"], facts["precision"]) == ("mm", 3)
    assert (facts["upper_ctrl_limit"], facts["lower_ctrl_limit"]) == (1000, -1000)


@pytest.mark.parametrize(
    ("value", "severity", "status"),
    [(11, 2, "HIHI"), (6, 1, "HIGH"), (0, 0, "NO_ALARM"), (-6, 1, "LOW"), (-11, 2, "LOLO")],
)
def test_a_value_beyond_a_limit_is_an_alarm(channel, value, severity, status):
    alarm = channel("alarm")
    alarm.put(value, wait=True)
    alarm.get(use_monitor=False)
    facts = alarm.get_timevars()
    numbers = {"NO_ALARM": 0, "HIHI": 3, "HIGH": 4, "LOLO": 5, "LOW": 6}
    assert (facts["severity"], facts["status"]) == (severity, numbers[status])


def test_a_protected_record_refuses_puts(channel):
    readonly = channel("protected:readonly")
    assert (readonly.read_access, readonly.write_access) == (True, False)

    with pytest.raises(Exception, match=r"(?i)write access|no write|cannot put"):
        if readonly.put(5, wait=True) != 1:
            raise AssertionError("no write: the put was not done")
    assert readonly.get(use_monitor=False) == 1


def test_a_hidden_record_gives_nothing(channel):
    hidden = channel("protected:hidden", auto_monitor=False)
    assert epics.ca.read_access(hidden.chid) == 0


def test_a_key_opens_a_locked_record(channel):
    locked, key = channel("protected:locked"), channel("protected:key")
    allowed = Event()
    key.put(0, wait=True)
    locked.access_callbacks.append(lambda read, write, **_: allowed.set() if write else None)

    key.put(1, wait=True)
    assert allowed.wait(LIMIT)
    locked.put(17, wait=True)
    assert locked.get(use_monitor=False) == 17
    key.put(0, wait=True)


@pytest.mark.parametrize(("name", "seconds"), [("slow:fifth", 0.2), ("slow:five", 5.0)])
def test_a_slow_record_answers_when_it_has_processed(channel, name, seconds):
    slow, done = channel(f"{name}:value"), channel(f"{name}:done")
    start = time.monotonic()

    slow.put(4.5, wait=True, timeout=LIMIT)

    assert seconds <= time.monotonic() - start < seconds + 1.0
    assert done.get(use_monitor=False) == 4.5


@pytest.mark.parametrize(("name", "rate"), [("counter:10Hz", 10), ("counter:1kHz", 1000), ("counter:10kHz", 10000)])
def test_a_counter_counts_at_its_rate(channel, name, rate):
    switch, counter = channel("counter:run"), channel(name, auto_monitor=False)
    switch.put(1, wait=True)
    try:
        first, start = counter.get(), time.monotonic()
        # The record says when it counted, the client's clock is not needed.
        counter.get_timevars()
        first, began = counter.value, counter.timestamp
        while time.monotonic() - start < 1.0:
            counter.get()
            counter.get_timevars()
        assert (counter.value - first) / (counter.timestamp - began) == pytest.approx(rate, rel=0.1)
    finally:
        switch.put(0, wait=True)


def test_the_scaler_counts_for_its_preset_time(channel):
    channel("scaler1.CONT").put(0, wait=True)
    channel("scaler1.TP").put(0.3, wait=True)
    start = time.monotonic()

    channel("scaler1.CNT").put(1, wait=True, timeout=LIMIT)

    assert 0.3 <= time.monotonic() - start < 1.0
    assert channel("scaler1.S1").get(use_monitor=False) == 3_000_000
    i0 = channel("scaler1.S2").get(use_monitor=False)
    assert i0 == pytest.approx(0.3e4 * channel("beam:intensity").get(use_monitor=False), rel=0.05)


def test_the_shutter_answers_when_it_has_arrived_and_stops_the_beam(channel):
    close, state, beam = channel("shutter:close"), channel("shutter:state"), channel("beam:intensity")
    start = time.monotonic()

    close.put(1, wait=True, timeout=LIMIT)

    assert 0.2 <= time.monotonic() - start < 2.0
    assert state.get(as_string=True, use_monitor=False) == "Closed"
    await_value(beam, 0)
    channel("shutter:open").put(1, wait=True, timeout=LIMIT)
    assert state.get(as_string=True, use_monitor=False) == "Open"


def test_the_current_decays_and_tops_up(channel):
    lifetime, current = channel("beam:lifetime"), channel("current")
    lifetime.put(5, wait=True)
    fell, rose = Event(), Event()
    seen = [current.get()]

    def watch(value, **_):
        (fell if value < seen[-1] else rose).set() if value != seen[-1] else None
        seen.append(value)

    index = current.add_callback(watch)
    try:
        assert fell.wait(LIMIT) and rose.wait(LIMIT)
        # A step of 0.1 s takes 2 % of what may be just above 480.
        assert all(470 < value <= 500 for value in seen)
    finally:
        current.remove_callback(index)
        lifetime.put(600, wait=True)


def test_a_detector_sees_the_peak_where_its_center_is(channel):
    motor, value = channel("m1.VAL"), channel("det1:value")
    for place, part in [(0, 1.0), (10, 0.0)]:
        motor.put(place, wait=True, timeout=LIMIT)
        # The detector reads the motor ten times a second.
        stamp = channel("m1.RBV").get_timevars() and channel("m1.RBV").timestamp
        end = time.monotonic() + LIMIT
        while value.timestamp <= stamp and time.monotonic() < end:
            value.get(use_monitor=False)
            value.get_timevars()
        current = channel("beam:intensity").get(use_monitor=False)
        assert value.get(use_monitor=False) == pytest.approx(part * current, abs=0.02 * current)
    motor.put(0, wait=True, timeout=LIMIT)


def test_a_slit_moves_its_blades(channel):
    channel("Slit1Hsync.PROC").put(1, wait=True)
    channel("Slit1Hsize").put(4.0, wait=True, timeout=LIMIT)
    channel("Slit1Hcenter").put(1.0, wait=True, timeout=LIMIT)
    for blade, place in [("slit1:xp", 3.0), ("slit1:xn", -1.0)]:
        await_value(channel(f"{blade}.DMOV"), 1)
        assert channel(f"{blade}.RBV").get(use_monitor=False) == pytest.approx(place, abs=0.01)
