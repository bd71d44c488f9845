"""Which events a monitor is told of, and which of them its callbacks."""

import pytest
from ophyd import EpicsSignalRO

from deadline import until
from epicsrs_native import DBE_ALARM, DBE_LOG, DBE_VALUE

USUAL = DBE_VALUE | DBE_ALARM


@pytest.fixture
def put(ioc, get_pv):
    """Put numbers to a record, one after the other, each processed before the next."""

    def put(record, *numbers):
        pv = get_pv(ioc.pv(record), auto_monitor=False)
        for number in numbers:
            pv.put(number, wait=True)

    return put


@pytest.mark.parametrize(
    ("mask", "seen"),
    [(True, [0.0, 2.0, 9.0]), (USUAL, [0.0, 2.0, 9.0]), (DBE_LOG, [0.0, 9.0]), (DBE_ALARM | DBE_LOG, [0.0, 9.0])],
)
def test_a_mask_chooses_the_events_of_a_signal(ioc, make, put, mask, seen):
    put("banded", 0.0)
    signal, every = make(EpicsSignalRO, ioc.pv("banded"), auto_monitor=mask), make(EpicsSignalRO, ioc.pv("banded"))
    values, others = [], []
    signal.subscribe(lambda value, **_: values.append(value))
    # On the same circuit: when it has the last, the other has had all of its.
    every.subscribe(lambda value, **_: others.append(value))
    until(lambda: values and others)

    put("banded", 0.5, 2.0, 9.0)

    until(lambda: others[-1] == 9.0)
    until(lambda: values == seen, what=lambda: values)
    assert signal._read_pv.auto_monitor_mask == (USUAL if mask is True else mask)  # noqa: SLF001 (only the signal has it)


def test_another_mask_ends_the_monitor_and_begins_a_new_one(ioc, get_pv, put):
    put("banded", 0.0)
    pv, values = get_pv(ioc.pv("banded"), auto_monitor=DBE_LOG), []
    pv.add_callback(lambda value, **_: values.append(value))
    until(lambda: values == [0.0])

    pv.auto_monitor = USUAL
    until(lambda: values == [0.0, 0.0])
    put("banded", 2.0)

    until(lambda: values == [0.0, 0.0, 2.0])
    assert (pv.auto_monitor, pv.auto_monitor_mask) == (USUAL, USUAL)


def test_without_a_word_a_pv_has_a_monitor_unless_it_is_a_long_array(ioc, get_pv):
    scalar, image = get_pv(ioc.pv("double"), connect=True), get_pv(ioc.pv("image"), connect=True)

    until(lambda: scalar.auto_monitor_mask == USUAL)
    assert (scalar.auto_monitor, image.auto_monitor, image.auto_monitor_mask) == (True, False, None)


@pytest.mark.parametrize("bad", ["yes", 2.0, -1, 16, float("nan")])
def test_what_is_no_mask_is_refused_with_the_pv(ioc, protocol, get_pv, bad):
    with pytest.raises(ValueError, match=rf"{ioc.pv('double', protocol)}: auto_monitor"):
        get_pv(ioc.pv("double", protocol), auto_monitor=bad)


def test_pvaccess_has_no_masks(ioc, get_pv):
    with pytest.raises(ValueError, match=r"double: auto_monitor .* pvAccess"):
        get_pv(ioc.pv("double", "pva"), auto_monitor=DBE_LOG)
    assert get_pv(ioc.pv("double", "pva"), auto_monitor=USUAL).wait_for_connection(5.0)


def test_callbacks_hear_of_no_change_below_the_delta(ioc, protocol, get_pv, put):
    put("put_double", 0.0)
    pv, values = get_pv(ioc.pv("put_double", protocol), auto_monitor=False, monitor_delta=1.0), []
    every, others = get_pv(ioc.pv("put_double", protocol), auto_monitor=False), []
    pv.add_callback(lambda value, **_: values.append(value))
    every.add_callback(lambda value, **_: others.append(value))
    until(lambda: values and others)

    put("put_double", 0.4, 0.9, 1.0, 1.9, 0.5, -0.5)

    until(lambda: others[-1] == -0.5)
    until(lambda: values == [0.0, 1.0, -0.5], what=lambda: values)
    assert pv.monitor_delta == 1.0
    # To read it is no matter of the delta.
    put("put_double", -0.4)
    until(lambda: pv.get() == -0.4)


def test_another_alarm_is_told_whatever_the_delta(ioc, get_pv, put):
    put("banded", 10.0)
    pv, seen = get_pv(ioc.pv("banded"), auto_monitor=False, monitor_delta=100.0), []
    pv.add_callback(lambda value, severity, **_: seen.append((value, severity)))
    until(lambda: seen == [(10.0, 0)])

    put("banded", 15.0, 20.0, 25.0, 10.0)

    until(lambda: seen == [(10.0, 0), (20.0, 1), (10.0, 0)], what=lambda: seen)


@pytest.mark.parametrize("bad", ["1", -1.0, float("nan"), float("inf")])
def test_what_is_no_delta_is_refused_with_the_pv(ioc, get_pv, bad):
    with pytest.raises(ValueError, match=rf"{ioc.pv('double')}: monitor_delta"):
        get_pv(ioc.pv("double"), monitor_delta=bad)
