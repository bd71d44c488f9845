import pytest
from ophyd import Component, EpicsSignal, EpicsSignalRO, PVPositionerPC

from deadline import Stopwatch, until
from epicsrs_native import NotConnectedError, RemoteError


class Locked(PVPositionerPC):
    """Refuses to move."""

    setpoint = Component(EpicsSignal, "locked")
    readback = Component(EpicsSignalRO, "stage_RBV")


class Slow(PVPositionerPC):
    """Moves for longer than its IOC lives."""

    setpoint = Component(EpicsSignal, "slower.A")
    readback = Component(EpicsSignalRO, "stage_RBV")


def test_a_move_ends_where_it_should(stage):
    for position in (1.5, -2.0, 0.0, 3.25):
        watch = Stopwatch()
        status = stage.set(position)
        status.wait(10.0)
        assert watch.elapsed > 0.15
        assert status.success
        assert stage.readback.get() == position
        until(lambda position=position: stage.position == position)


@pytest.mark.parametrize("stage", ["done"], indirect=True)
def test_at_the_end_of_a_move_by_its_done_pv_the_position_is_the_last(stage):
    """Its last value is posted before its end, and both come on one thread in that order."""
    positions = []

    for position in (1.0, 2.0, 3.0):
        status = stage.set(position)
        status.add_callback(lambda _: positions.append(stage.position))
        status.wait(10.0)

    until(lambda: len(positions) == 3)
    assert positions == [1.0, 2.0, 3.0]


def test_a_move_tells_its_start_and_its_end(stage):
    events = []
    for event in ("start_moving", "done_moving"):
        stage.subscribe(lambda sub_type, **_: events.append(sub_type), event, run=False)

    stage.set(7.0).wait(10.0)

    until(lambda: len(events) == 2)
    assert events == ["start_moving", "done_moving"]
    assert not stage.moving


def test_a_position_beyond_the_limits_is_refused(stage):
    with pytest.raises(ValueError, match="101"):
        stage.set(101.0)
    assert stage.limits == (-100.0, 100.0)


@pytest.mark.parametrize("stage", ["completion"], indirect=True)
def test_stop_writes_the_stop_pv(stage):
    status = stage.set(9.0)
    stage.stop()

    assert not status.success
    until(lambda: stage.stop_signal.get() == 1)
    until(lambda: not stage.moving)


def test_a_refused_move_fails_with_its_reason(ioc, protocol, make):
    stage = make(Locked, ioc.pv("", protocol), name="stage")
    stage.wait_for_connection(timeout=5.0)

    with pytest.raises(RemoteError, match="locked"):
        stage.set(1.0).wait(5.0)
    assert not stage.moving


def test_a_move_that_loses_its_ioc_fails(mortal_ioc, protocol, make):
    stage = make(Slow, mortal_ioc.pv("", protocol), name="stage")
    stage.wait_for_connection(timeout=5.0)

    status = stage.set(1.0)
    mortal_ioc.kill()

    with pytest.raises(NotConnectedError):
        status.wait(5.0)
