"""`EpicsSignal.set` without put completion: until the readback is there, or can come no more."""

from itertools import cycle

import pytest
from ophyd import EpicsSignal, Signal

from deadline import Stopwatch, until
from epicsrs_native import NotConnectedError, RemoteError


@pytest.fixture
def elsewhere(ioc, protocol, make):
    """A connected signal whose readback is of another record than its setpoint, and never comes."""
    signal = make(EpicsSignal, ioc.pv("double", protocol), ioc.pv("put_double", protocol), name="elsewhere")
    signal.wait_for_connection(timeout=5.0)
    return signal


@pytest.mark.parametrize("auto_monitor", [False, True])
def test_it_ends_with_the_readback(ioc, protocol, make, auto_monitor):
    signal = make(EpicsSignal, ioc.pv("stage_RBV", protocol), ioc.pv("stage", protocol), auto_monitor=auto_monitor)
    signal.wait_for_connection(timeout=5.0)

    for place in (3.0, -3.0):
        signal.set(place).wait(5.0)
        assert signal.get() == pytest.approx(place, abs=1e-3)


def test_an_update_ends_it_without_another_look(ioc, protocol, make, monkeypatch):
    monkeypatch.setattr("ophyd_epicsrs_sync._readback._FIRST", 60.0)
    signal = make(EpicsSignal, ioc.pv("stage_RBV", protocol), ioc.pv("stage", protocol), auto_monitor=True)
    signal.wait_for_connection(timeout=5.0)

    for place in (5.0, -5.0):
        signal.set(place).wait(10.0)


@pytest.mark.parametrize("auto_monitor", [False, True])
@pytest.mark.parametrize("before", [[], [5.0], [5.0, 6.0]])
def test_an_array_is_there_when_all_of_it_is(ioc, protocol, make, auto_monitor, before):
    setpoint = make(EpicsSignal, ioc.pv("put_doubles", protocol), name="setpoint")
    readback = make(EpicsSignal, ioc.pv("read_doubles", protocol), name="readback")
    signal = make(
        EpicsSignal, ioc.pv("read_doubles", protocol), ioc.pv("put_doubles", protocol), auto_monitor=auto_monitor
    )
    for each in (setpoint, readback, signal):
        each.wait_for_connection(timeout=5.0)
    readback.put(before, wait=True)
    until(lambda: signal.get(use_monitor=auto_monitor).tolist() == before)

    status = signal.set([5.0, 5.0, 5.0])
    until(lambda: setpoint.get().tolist() == [5.0, 5.0, 5.0])
    assert not status.done
    readback.put([5.0, 5.0, 5.0])

    status.wait(5.0)
    assert signal.get().tolist() == [5.0, 5.0, 5.0]


@pytest.mark.parametrize("auto_monitor", [False, True])
def test_a_state_without_a_label_is_not_what_was_set(ioc, protocol, make, auto_monitor):
    signal = make(EpicsSignal, ioc.pv("put_choice", protocol), auto_monitor=auto_monitor)
    unlabel = make(EpicsSignal, ioc.pv("unlabel.PROC", protocol), name="unlabel")
    for each in (signal, unlabel):
        each.wait_for_connection(timeout=5.0)

    for _ in range(5):
        unlabel.put(1, wait=True)
        until(lambda: signal.get() == 9)
        signal.set(1).wait(5.0)
        assert signal.get() == 1


def test_a_readback_within_tolerance_is_there_when_the_time_is_over(ioc, protocol, make):
    readback = make(EpicsSignal, ioc.pv("read_double", protocol), name="readback")
    signal = make(
        EpicsSignal, ioc.pv("read_double", protocol), ioc.pv("put_double", protocol), auto_monitor=True, tolerance=0.01
    )
    for each in (readback, signal):
        each.wait_for_connection(timeout=5.0)
    readback.put(1.002, wait=True)
    until(lambda: signal.get() == 1.002)

    # Each update may be followed by a nearer one, until the time is over.
    status = signal.set(1.0, timeout=0.1)
    places = cycle((1.003, 1.002))
    until(lambda: readback.put(next(places), wait=True) or status.done)

    status.wait(5.0)


@pytest.mark.parametrize("auto_monitor", [False, True])
def test_a_refusal_fails_it(ioc, protocol, make, caplog, auto_monitor):
    signal = make(EpicsSignal, ioc.pv("locked", protocol), auto_monitor=auto_monitor)
    signal.wait_for_connection(timeout=5.0)

    status = signal.set(signal.get() + 1)

    with pytest.raises(RemoteError, match="locked"):
        status.wait(5.0)
    assert "no caller waits for it" not in caplog.text


@pytest.mark.parametrize("auto_monitor", [False, True])
def test_a_lost_connection_fails_it(mortal_ioc, protocol, make, auto_monitor):
    names = (mortal_ioc.pv(record, protocol) for record in ("double", "put_double"))
    signal = make(EpicsSignal, *names, auto_monitor=auto_monitor, connection_timeout=60.0)
    signal.wait_for_connection(timeout=5.0)

    status = signal.set(7.0)
    mortal_ioc.kill()

    with pytest.raises(NotConnectedError, match=mortal_ioc.prefix):
        status.wait(5.0)
    # It does not wait for the IOC to come back.
    until(lambda: signal._set_thread is None)  # noqa: SLF001 (only the signal knows)


def test_its_timeout_says_what_was_read(elsewhere):
    watch = Stopwatch()
    status = elsewhere.set(7.0, timeout=0.3)

    with pytest.raises(TimeoutError, match=r"elsewhere.* to 7\.0.* 3\.25 .*0\.3 s"):
        status.wait(5.0)
    assert 0.25 < watch.elapsed < 3.0


def test_a_value_that_does_not_fit_fails_it(ioc, protocol, make):
    signal = make(EpicsSignal, ioc.pv("put_choice", protocol))

    with pytest.raises(ValueError, match="Idle"):
        signal.set("Broken").wait(5.0)


def test_only_one_at_a_time(elsewhere):
    first = elsewhere.set(7.0, timeout=0.5)

    with pytest.raises(RuntimeError, match="in progress"):
        elsewhere.set(8.0)

    with pytest.raises(TimeoutError):
        first.wait(5.0)


def test_nothing_is_left_of_it(ioc, protocol, make):
    signal = make(EpicsSignal, ioc.pv("stage_RBV", protocol), ioc.pv("stage", protocol), auto_monitor=True)
    signal.wait_for_connection(timeout=5.0)
    pvs = signal._read_pv, signal._write_pv  # noqa: SLF001 (only the signal has them)
    listening = [(len(pv.connection_callbacks), len(pv.putter.refusal_callbacks), len(pv.callbacks)) for pv in pvs]

    signal.set(1.0).wait(5.0)

    assert [
        (len(pv.connection_callbacks), len(pv.putter.refusal_callbacks), len(pv.callbacks)) for pv in pvs
    ] == listening
    assert not any(signal._callbacks.values())  # noqa: SLF001 (nothing else tells)


def test_a_signal_without_a_pv_is_set_as_before(layer):
    signal = Signal(name="soft", value=1)

    signal.set(5).wait(5.0)

    assert signal.get() == 5
