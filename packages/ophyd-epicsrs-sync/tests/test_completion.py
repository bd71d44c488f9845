import threading

import pytest
from ophyd import Component, Device, EpicsSignal
from ophyd.status import Status
from ophyd.utils import StatusTimeoutError

from deadline import Stopwatch, until
from epicsrs_native import NotConnectedError, RemoteError


def test_two_slow_sets_take_the_time_of_one(ioc, protocol, make):
    signals = [
        make(EpicsSignal, ioc.pv(f"{name}.A", protocol), name=name, put_complete=True) for name in ("slow_a", "slow_b")
    ]
    for signal in signals:
        signal.wait_for_connection(timeout=5.0)
    watch = Stopwatch()

    statuses = [signal.set(1) for signal in signals]
    assert watch.elapsed < 0.3
    assert not any(status.done for status in statuses)
    for status in statuses:
        status.wait(5.0)

    assert 0.45 < watch.elapsed < 0.9


@pytest.mark.parametrize("data", [None, 5, {"axis": "x", "n": 2}])
def test_a_callback_is_called_once_on_get_put(ioc, protocol, get_pv, data):
    pv, called = get_pv(ioc.pv("slow_a.A", protocol), connect=True), []
    watch = Stopwatch()

    pv.put(1, callback=lambda **k: called.append((threading.current_thread().name, k)), callback_data=data)

    assert watch.elapsed < 0.3
    assert pv.put_complete is False
    until(lambda: called)
    expected = data if isinstance(data, dict) else {"data": data}
    assert called == [("get_put", {"pvname": pv.pvname, **expected})]
    assert pv.put_complete is True


def test_fast_completions_run_on_get_put_too(ioc, protocol, make):
    signal, threads = make(EpicsSignal, ioc.pv("put_double", protocol)), []

    for value in range(200):
        signal.put(value, callback=lambda **_: threads.append(threading.current_thread().name))

    until(lambda: len(threads) == 200)
    assert set(threads) == {"get_put"}


def test_a_put_that_waits_calls_back_as_well(ioc, protocol, make):
    signal, called = make(EpicsSignal, ioc.pv("put_double", protocol)), []

    signal.put(1, wait=True, callback=lambda **k: called.append(k))

    until(lambda: called)
    assert called == [{"pvname": signal.pvname, "data": None}]


def test_a_refused_set_fails_its_status(ioc, protocol, make):
    signal = make(EpicsSignal, ioc.pv("locked", protocol), put_complete=True)

    status = signal.set(1)

    with pytest.raises(RemoteError, match="locked"):
        status.wait(5.0)
    assert not status.success


def test_a_set_that_loses_its_ioc_fails_its_status(mortal_ioc, protocol, make):
    signal = make(EpicsSignal, mortal_ioc.pv("slower.A", protocol), put_complete=True)
    signal.wait_for_connection(timeout=5.0)

    status = signal.set(1)
    mortal_ioc.kill()

    with pytest.raises(NotConnectedError) as lost:
        status.wait(5.0)
    assert lost.value.pv == signal.pvname


class Counter(Device):
    count = Component(EpicsSignal, "", trigger_value=1)


def test_a_trigger_ends_when_its_put_is_answered(ioc, protocol, make):
    counter = make(Counter, ioc.pv("slow_a.A", protocol))
    counter.wait_for_connection(timeout=5.0)

    for _ in range(2):
        status = counter.trigger()
        assert not status.done
        status.wait(5.0)


def test_a_trigger_that_loses_its_ioc_fails_its_status(mortal_ioc, protocol, make):
    counter = make(Counter, mortal_ioc.pv("slower.A", protocol))
    counter.wait_for_connection(timeout=5.0)

    status = counter.trigger()
    mortal_ioc.kill()

    with pytest.raises(NotConnectedError) as lost:
        status.wait(5.0)
    assert lost.value.pv == counter.count.pvname


def test_a_status_that_a_put_calls_back_hears_of_a_failure(ioc, protocol, make):
    signal = make(EpicsSignal, ioc.pv("locked", protocol))
    status = Status()

    signal.put(1, callback=status._finished)  # noqa: SLF001 (as devices do)

    with pytest.raises(RemoteError, match="locked"):
        status.wait(5.0)


def test_a_set_that_takes_too_long_times_out(ioc, protocol, make):
    signal = make(EpicsSignal, ioc.pv("slow_a.A", protocol), put_complete=True)

    status = signal.set(1, timeout=0.1)

    with pytest.raises(StatusTimeoutError):
        status.wait(5.0)


def test_a_value_that_does_not_fit_raises_from_set(ioc, make):
    signal = make(EpicsSignal, ioc.pv("put_choice"), put_complete=True)

    with pytest.raises(ValueError, match="Idle"):
        signal.set("Broken")


def test_a_failed_put_without_status_is_logged_and_not_called_a_success(ioc, make, caplog):
    signal, called = make(EpicsSignal, ioc.pv("locked")), []

    signal.put(1, callback=lambda **k: called.append(k))

    until(lambda: f"{signal.pvname}: the put of 1.0 failed" in caplog.text)
    assert called == []
