"""A move that waits for its done PV fails with the connection, and the positioner goes on with the next one."""

import pytest
from ophyd import Component, EpicsSignal, EpicsSignalRO, PVPositioner

from deadline import Stopwatch, until
from epicsrs_native import NotConnectedError


class Stage(PVPositioner):
    """Has arrived when the test puts 1 to its done PV."""

    setpoint = Component(EpicsSignal, "put_double")
    readback = Component(EpicsSignalRO, "put_double")
    done = Component(EpicsSignalRO, "put_long")


@pytest.fixture
def stage(mortal_ioc, protocol, make):
    stage = make(Stage, mortal_ioc.pv("", protocol), name="stage")
    stage.wait_for_connection(timeout=5.0)
    return stage


@pytest.fixture
def arrive(mortal_ioc, make):
    """Say 0, on its way, or 1, arrived."""
    done = make(EpicsSignal, mortal_ioc.pv("put_long"))
    return lambda value: done.put(value, wait=True)


def test_a_move_that_loses_its_done_pv_fails_and_the_next_one_arrives(mortal_ioc, stage, arrive):
    status = stage.set(1.0)
    mortal_ioc.kill()
    watch = Stopwatch()
    with pytest.raises(NotConnectedError, match=stage.done.pvname) as lost:
        status.wait(5.0)
    assert watch.elapsed < 1.0
    assert lost.value.pv == stage.done.pvname
    assert not status.success

    mortal_ioc.start()
    until(lambda: stage.connected, 30.0)
    later = stage.set(2.0)
    for value in (1, 0, 1):
        arrive(value)
    later.wait(10.0)
    assert stage.readback.get() == 2.0
    assert not status.success


def test_a_move_that_has_arrived_stays_a_success(mortal_ioc, stage, arrive):
    arrive(1)
    until(lambda: not stage.moving)
    status = stage.set(1.0)
    arrive(0)
    arrive(1)
    status.wait(10.0)

    mortal_ioc.kill()

    until(lambda: not stage.done.connected)
    assert status.success
