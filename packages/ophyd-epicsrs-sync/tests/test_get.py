import threading

import numpy as np
import pytest
from ophyd import EpicsSignal, EpicsSignalRO
from ophyd.signal import ReadTimeoutError

from deadline import until


@pytest.mark.parametrize(
    ("record", "value", "text", "dtype"),
    [
        ("double", 3.25, "3.250", "number"),
        ("high", 8.0, "8", "number"),
        ("long", -42, "-42", "integer"),
        ("string", "hello", "hello", "string"),
        ("choice", 1, "Moving", "integer"),
    ],
)
def test_scalars_as_value_and_as_text(ioc, protocol, make, record, value, text, dtype):
    signal = make(EpicsSignalRO, ioc.pv(record, protocol))

    assert signal.get() == value
    assert type(signal.get()) is type(value)
    assert signal.describe()["thing"]["dtype"] == dtype
    assert signal.get(as_string=True) == text


def test_an_int64_is_exact_over_pvaccess(ioc, make):
    assert make(EpicsSignalRO, ioc.pv("int64", "pva")).get() == 9007199254740993


@pytest.mark.parametrize(
    ("record", "values"), [("partial", [1.5, 2.5, 3.5]), ("empty", []), ("strings", ["a", "", "bc"])]
)
def test_arrays_have_as_many_elements_as_the_record_holds(ioc, protocol, make, record, values):
    signal = make(EpicsSignalRO, ioc.pv(record, protocol))

    value = signal.get()

    assert isinstance(value, np.ndarray)
    assert value.tolist() == values
    assert signal.describe()["thing"]["shape"] == [len(values)]


@pytest.mark.parametrize("auto_monitor", [False, True])
def test_count_limits_an_array(ioc, protocol, make, auto_monitor):
    signal = make(EpicsSignalRO, ioc.pv("partial", protocol), auto_monitor=auto_monitor)
    signal.wait_for_connection(timeout=5.0)

    assert signal.get(count=2).tolist() == [1.5, 2.5]
    assert signal.get(count=5).tolist()[:3] == [1.5, 2.5, 3.5]


def test_an_array_that_was_read_may_be_written_into(ioc, protocol, make):
    value = make(EpicsSignalRO, ioc.pv("partial", protocol)).get()

    value[0] = 7.0

    assert value.tolist() == [7.0, 2.5, 3.5]


def test_characters_are_text_up_to_their_nul(ioc, protocol, make):
    signal = make(EpicsSignal, ioc.pv("text", protocol), string=True)
    path = "/data/2026/" + 60 * "x" + "/µ.h5"

    signal.set(path).wait(5.0)

    assert signal.get() == path
    assert signal.get(as_string=True) == path
    assert signal.describe()["thing"]["dtype"] == "string"


def test_without_a_monitor_each_get_is_fresh(ioc, protocol, make):
    signal, writer = make(EpicsSignalRO, ioc.pv("put_double", protocol)), make(EpicsSignal, ioc.pv("put_double"))

    for value in (1.0, 2.0, 3.0):
        writer.put(value, wait=True)
        assert signal.get() == value


def test_with_a_monitor_get_gives_its_last_update(ioc, protocol, make):
    signal = make(EpicsSignalRO, ioc.pv("put_double", protocol), auto_monitor=True)
    writer, seen = make(EpicsSignal, ioc.pv("put_double")), []
    writer.put(5.0, wait=True)
    signal.subscribe(lambda value, **_: seen.append(value))
    until(lambda: seen[-1:] == [5.0])

    with ioc.frozen():
        assert signal.get(timeout=0.5) == 5.0
        with pytest.raises(ReadTimeoutError, match=signal.pvname):
            signal.get(use_monitor=False, timeout=0.2)


def test_the_last_update_is_read_before_callbacks_have_had_it(ioc, protocol, make, get_pv):
    signal = make(EpicsSignalRO, ioc.pv("put_double", protocol), auto_monitor=True)
    writer, pv = make(EpicsSignal, ioc.pv("put_double")), get_pv(ioc.pv("put_double", protocol), auto_monitor=True)
    signal.wait_for_connection(timeout=5.0)
    pv.wait_for_connection(timeout=5.0)
    entered, left = threading.Event(), threading.Event()
    get_pv(ioc.pv("double"), auto_monitor=False).add_callback(lambda **_: (entered.set(), left.wait(20.0)))
    assert entered.wait(5.0)

    try:
        for value in (21.5, 22.5):
            writer.put(value, wait=True)
            until(lambda value=value: signal.get() == value)
            until(lambda value=value: (pv.value, pv.char_value) == (value, f"{value:.3f}"))
    finally:
        left.set()


def test_a_reading_has_the_iocs_time(ioc, protocol, make, get_pv):
    signal = make(EpicsSignalRO, ioc.pv("high", protocol))
    signal.wait_for_connection(timeout=5.0)
    connected_at = signal.timestamp

    signal.get(form="ctrl")

    assert signal.timestamp == connected_at == signal.read()["thing"]["timestamp"]
    fields = get_pv(signal.pvname).get_with_metadata()
    assert fields["posixseconds"] + fields["nanoseconds"] / 1e9 == pytest.approx(connected_at, abs=1e-6)
    assert fields["posixseconds"] == int(connected_at)


def test_an_enum_describes_its_labels(ioc, protocol, make):
    signal = make(EpicsSignalRO, ioc.pv("choice", protocol))
    signal.wait_for_connection(timeout=5.0)

    assert signal.enum_strs == ("Idle", "Moving", "Fault")
    assert signal.describe()["thing"]["enum_strs"] == ("Idle", "Moving", "Fault")


def test_a_read_that_times_out_names_its_pv(ioc, protocol, make):
    signal = make(EpicsSignalRO, ioc.pv("double", protocol))
    signal.wait_for_connection(timeout=5.0)

    with ioc.frozen(), pytest.raises(ReadTimeoutError, match=signal.pvname):
        signal.get(timeout=0.2)
