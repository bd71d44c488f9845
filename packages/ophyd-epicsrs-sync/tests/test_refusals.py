"""Two signals of one PV, whose puts that nobody waits for are refused: each hears of its own.

Channel Access tells a refusal to the PV's name, not to who has put. Over pvAccess the put itself raises.
"""

import threading

import pytest
from ophyd import EpicsSignal

from deadline import until
from epicsrs_native import RemoteError

# A link that is none: the record refuses this value, and no other.
BROKEN = "{no link}"


@pytest.fixture
def lock(ioc):
    """Lock (1) or open (0) the record of these tests for everybody who puts; open afterwards."""
    lock = ioc.channel("put_double.DISP")
    yield lock.put
    lock.put(0)


@pytest.fixture
def pair(ioc, make):
    """Two signals that set one PV and wait for a readback each, which comes when the test puts it."""
    signals = [
        make(EpicsSignal, ioc.pv(readback), write_pv=ioc.pv("put_double"), name=readback)
        for readback in ("num", "put_long")
    ]
    for signal in signals:
        ioc.channel(signal.name).put(0)
        signal.wait_for_connection(timeout=5.0)
    return signals


def refusals(caplog):
    return [record.message for record in caplog.records if "refused by the server" in record.message]


def test_a_refused_put_of_one_leaves_the_set_of_the_other(ioc, make, pair, lock, caplog):
    setting, _ = pair
    other = make(EpicsSignal, ioc.pv("put_double"), name="other")
    other.wait_for_connection(timeout=5.0)
    target = ioc.channel("put_double")
    for number in (7.0, 8.0):
        # The first time nobody else has ever put; the second time somebody has.
        status = setting.set(number)
        until(lambda number=number: target.get().value == number)
        lock(1)

        caplog.clear()
        other.put(3.0)

        until(lambda: refusals(caplog))
        assert not status.done
        assert len(refusals(caplog)) == 1
        lock(0)
        ioc.channel("num").put(int(number))
        status.wait(5.0)


def test_of_two_sets_the_refused_one_fails(ioc, pair, lock, caplog):
    first, second = pair
    accepted = first.set(7)
    until(lambda: ioc.channel("put_double").get().value == 7.0)
    lock(1)

    refused = second.set(8)

    with pytest.raises(RemoteError, match="put_double"):
        refused.wait(1.0)
    assert not accepted.done
    assert not refusals(caplog)
    ioc.channel("num").put(7)
    accepted.wait(5.0)


def test_puts_and_sets_at_once_are_told_apart(ioc, make, caplog):
    links = ioc.pv("put_long.DOL")
    setting, other = make(EpicsSignal, links, name="setting"), make(EpicsSignal, links, name="other")
    setting.wait_for_connection(timeout=5.0)
    other.wait_for_connection(timeout=5.0)
    ended = threading.Event()
    sent = 0

    def all_are_told():
        return len(refusals(caplog)) >= sent

    def disturb():
        nonlocal sent
        while not ended.is_set():
            for _ in range(10):
                other.put(BROKEN)
                sent += 1
            # Each refusal is logged: a lane that does not keep up would tell the sets of theirs some seconds later.
            until(all_are_told)

    disturbing = threading.Thread(target=disturb)
    disturbing.start()
    try:
        for number in range(100):
            setting.set(str(number)).wait(5.0)
        for _ in range(20):
            with pytest.raises(RemoteError, match="DOL"):
                setting.set(BROKEN).wait(5.0)
    finally:
        ended.set()
        disturbing.join(5.0)

    # Those of the sets are told to them alone.
    until(lambda: len(refusals(caplog)) == sent, what=lambda: (len(refusals(caplog)), sent))


def test_a_pv_that_is_released_does_not_count(ioc, make, get_pv):
    setting = make(EpicsSignal, ioc.pv("locked"), name="setting")
    gone = get_pv(ioc.pv("locked"), connect=True)
    gone.put(1.0)
    gone.disconnect()

    with pytest.raises(RemoteError, match="locked"):
        setting.set(5.0).wait(5.0)
