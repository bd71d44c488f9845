"""Devices of many signals, and many devices."""

import threading

import ophyd
import pytest
from ophyd import Component, Device, DynamicDeviceComponent, EpicsMotor, EpicsSignal, EpicsSignalRO

from deadline import Stopwatch, until
from epicsrs_beamline import Beamline
from ioc import NETWORK


class Leaf(Device):
    """Lazy signals, made with the record's own metadata fields for want of so many records."""

    value = Component(EpicsSignal, "", lazy=True, auto_monitor=True)
    units = Component(EpicsSignalRO, ".EGU", lazy=True)
    precision = Component(EpicsSignalRO, ".PREC", lazy=True)
    limits = DynamicDeviceComponent(
        {name: (EpicsSignal, f".{name}", {"lazy": True}) for name in ("LOPR", "HOPR", "DRVL", "DRVH")}
    )


class Tree(Device):
    """A device of lazy devices of lazy signals; 42 of them, 35 PVs."""

    first = Component(Leaf, "double", lazy=True)
    second = Component(Leaf, "tuned")
    third = Component(Leaf, "current", lazy=True)
    others = DynamicDeviceComponent(
        {name: (EpicsSignalRO, name, {"lazy": True}) for name in ("long", "string", "choice", "partial", "profile")}
    )
    image = Component(EpicsSignalRO, "image", lazy=True)


def signals(device):
    return [walk.item for walk in device.walk_signals(include_lazy=False)]


def test_all_lazy_signals_are_made_before_the_first_is_waited_for(ioc, protocol, make):
    tree = make(Tree, ioc.pv("", protocol), name="tree")
    connecting = threading.Thread(target=tree.wait_for_connection, args=(True, 60.0), daemon=True)

    # It answers nobody.
    with ioc.frozen():
        connecting.start()
        until(lambda: len(signals(tree)) == 27, what=lambda: len(signals(tree)))
        assert not any(signal.connected for signal in signals(tree))

    connecting.join(30.0)
    assert not connecting.is_alive()
    assert all(signal.connected for signal in signals(tree))
    assert (tree.first.units.get(), tree.first.limits.DRVH.get()) == ("mbar", 20.0)


def test_lazy_signals_go_on_to_wait_when_they_are_first_used(ioc, make):
    waiting, patient = make(Tree, ioc.pv(""), name="waiting"), make(Tree, ioc.pv(""), name="patient")
    patient.lazy_wait_for_connection = False

    waiting.wait_for_connection(timeout=5.0)
    patient.wait_for_connection(all_signals=True, timeout=5.0)

    assert waiting.image.connected
    assert (waiting.lazy_wait_for_connection, patient.lazy_wait_for_connection) == (True, False)


class Broken(Device):
    """Half of it is not served."""

    there = Component(EpicsSignalRO, "double", lazy=True)
    missing = Component(EpicsSignalRO, "no_such", lazy=True)
    absent = Component(EpicsSignalRO, "nor_this", lazy=True)


def test_those_that_are_missing_are_named_together_and_in_time(ioc, protocol, make):
    broken, watch = make(Broken, ioc.pv("", protocol), name="broken"), Stopwatch()

    with pytest.raises(TimeoutError) as late:
        broken.wait_for_connection(all_signals=True, timeout=0.5)

    assert 0.45 < watch.elapsed < 4.0
    assert all(ioc.pv(name, protocol) in str(late.value) for name in ("no_such", "nor_this"))
    assert ioc.pv("double", protocol) not in str(late.value)


def test_without_a_timeout_a_device_waits_until_its_ioc_is_there(mortal_ioc, protocol, make):
    mortal_ioc.kill()
    tree = make(Tree, mortal_ioc.pv("", protocol), name="tree")
    connecting = threading.Thread(target=tree.wait_for_connection, args=(True, None), daemon=True)
    connecting.start()
    connecting.join(0.5)
    assert connecting.is_alive()

    mortal_ioc.start()

    connecting.join(30.0)
    assert not connecting.is_alive()
    assert tree.connected


def test_from_a_connection_callback(ioc, protocol, make, get_pv):
    """On the lane that brings connections, where each PV has to be asked on the spot."""
    tree, done = make(Tree, ioc.pv("", protocol), name="tree"), []

    def connect(conn, **_):
        try:
            tree.wait_for_connection(all_signals=True, timeout=20.0)
        finally:
            done.append(tree.connected)

    get_pv(ioc.pv("put_double", protocol), connection_callback=connect)

    until(lambda: done, 30.0)
    assert done == [True]


def test_some_thousand_monitored_signals_of_one_ioc_connect_at_once(ioc, make):
    """More than a circuit takes requests at a time."""
    watch = Stopwatch()
    many = [make(EpicsSignalRO, ioc.pv("double"), name=f"s{n}", auto_monitor=True) for n in range(500)]
    seen = set()
    for signal in many:
        signal.subscribe(lambda obj, **_: seen.add(obj.name))

    for signal in many:
        signal.wait_for_connection(timeout=30.0)

    until(lambda: len(seen) == len(many), 30.0)
    assert watch.elapsed < 30.0


@pytest.fixture(scope="module")
def beamline():
    """Motors, where this process's client looks for them."""
    ports = NETWORK.iocs[6]
    with Beamline(ca_port=ports.ca, pva_port=ports.pva, pva_broadcast_port=ports.search) as beamline:
        yield beamline


@pytest.mark.parametrize("number", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_motor_of_many_is_stuck_while_they_move(beamline, make, number):
    """Connection, first value and wait_for_connection race; each motor needs the first value of its DMOV."""
    moving = [make(EpicsMotor, beamline.pv(f"m{axis}"), name=f"moving{axis}") for axis in (3, 4)]
    for motor in moving:
        motor.wait_for_connection(timeout=20.0)
    ended = threading.Event()
    monitor = ophyd.get_cl().get_dispatcher().get_thread_context("monitor")

    def move():
        """As fast as callbacks keep up: else a new motor's first value comes behind what has to be told for minutes."""
        place = 1.0
        while not ended.wait(0.05):
            for motor in moving:
                motor.user_setpoint.put(place)
            place = -place
            told = threading.Event()
            monitor.run(told.set)
            while not (told.wait(0.1) or ended.is_set()):
                pass

    load = threading.Thread(target=move)
    load.start()
    try:
        motors = [make(EpicsMotor, beamline.pv(f"m{1 + n % 4}"), name=f"motor{n}") for n in range(number)]
        for motor in motors:
            motor.wait_for_connection(timeout=60.0)
    finally:
        ended.set()
        load.join()

    assert all(motor.connected for motor in motors)
    assert all(motor.position == motor.user_readback.get() for motor in motors[::4])
