"""From any callback, everything that blocks works, and at once."""

import pytest
from ophyd import EpicsSignal, EpicsSignalRO

from deadline import Stopwatch, until


@pytest.fixture
def everything(ioc, protocol, make):
    """Do all that blocks, from inside a callback; the results are asserted outside of it."""
    signal = make(EpicsSignal, ioc.pv("double", protocol), name="everything")
    signal.wait_for_connection(timeout=5.0)
    done = []

    def everything(**_):
        if done:
            return
        done.append("begun")
        watch = Stopwatch()
        try:
            new = make(EpicsSignal, ioc.pv("put_long", protocol), name=f"new{len(done)}")
            new.wait_for_connection(timeout=5.0)
            new.put(5, wait=True)
            other = make(EpicsSignalRO, ioc.pv("choice", protocol), name="other", auto_monitor=True)
            other.wait_for_connection(timeout=5.0)
            done.append((signal.get(), new.get(), new.describe()["new1"]["dtype"], other.enum_strs[1]))
        except Exception as error:
            done.append(error)
        done.append(watch.elapsed)

    everything.done = done
    return everything


def check(everything):
    until(lambda: len(everything.done) == 3, 15.0)
    assert everything.done[1] == (3.25, 5, "integer", "Moving")
    # A stall would last for one of the timeouts.
    assert everything.done[2] < 1.0


@pytest.mark.parametrize("event", ["value", "meta"])
def test_from_a_subscription(ioc, protocol, make, everything, event):
    make(EpicsSignal, ioc.pv("put_double", protocol)).subscribe(everything, event)

    check(everything)


def test_from_a_connection_callback(ioc, protocol, get_pv, everything):
    get_pv(ioc.pv("put_double", protocol), connection_callback=everything)

    check(everything)


def test_from_an_access_callback(ioc, protocol, get_pv, everything):
    get_pv(ioc.pv("put_double", protocol), access_callback=lambda *_, **__: everything())

    check(everything)


def test_from_a_put_callback(ioc, protocol, make, everything):
    make(EpicsSignal, ioc.pv("put_double", protocol)).put(1, callback=everything)

    check(everything)


def test_from_a_status_callback(ioc, protocol, make, everything):
    status = make(EpicsSignal, ioc.pv("put_double", protocol), put_complete=True).set(1)
    status.add_callback(lambda _: everything())

    check(everything)


def test_from_a_metadata_callback(ioc, protocol, get_pv, everything):
    get_pv(ioc.pv("put_double", protocol)).get_all_metadata_callback(lambda *_: everything(), timeout=5.0)

    check(everything)


def test_a_callback_that_takes_long_delays_no_connection(ioc, protocol, make, get_pv):
    import threading

    held, begun = threading.Event(), threading.Event()
    slow = get_pv(ioc.pv("put_double", protocol), auto_monitor=False)
    slow.add_callback(lambda **_: (begun.set(), held.wait(20.0)))
    assert begun.wait(5.0)
    try:
        watch = Stopwatch()
        signal = make(EpicsSignal, ioc.pv("put_long", protocol))
        signal.wait_for_connection(timeout=5.0)
        signal.set(7).wait(5.0)
        assert watch.elapsed < 1.0
    finally:
        held.set()
