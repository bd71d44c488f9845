"""Through ophyd, with pyepics below it: motors, the scaler, the monochromator."""

import math
import time

import pytest
from ophyd import Component as Cpt
from ophyd import EpicsMotor, PseudoPositioner, PseudoSingle
from ophyd.pseudopos import pseudo_position_argument, real_position_argument
from ophyd.status import wait
from ophyd.utils import LimitError, UnknownStatusFailure

from epicsrs_beamline.ophyd_devices import (
    FaultyMotor,
    FlyCounter,
    Monochromator,
    PointDetector,
    Scaler,
    Shutter,
    Slit,
)

LIMIT = 10.0


def connected(device):
    device.wait_for_connection(timeout=LIMIT)
    return device


@pytest.fixture
def motor(pv):
    motor = connected(EpicsMotor(pv("m1"), name="motor"))
    yield motor
    motor.move(0, timeout=LIMIT)


def test_a_move_ends_at_its_place(motor):
    for place in (2.0, 2.001, 2.001, -1.0):
        status = motor.move(place, wait=True, timeout=LIMIT)
        assert status.success
        assert motor.position == pytest.approx(place, abs=1e-6)
        assert not motor.moving


def test_a_stopped_move_ends_on_its_way(pv):
    motor = connected(EpicsMotor(pv("m5"), name="slow"))
    status = motor.move(20, wait=False)
    end = time.monotonic() + LIMIT
    while not motor.moving:
        assert time.monotonic() < end
    motor.stop()
    end = time.monotonic() + LIMIT
    while not status.done or motor.moving:
        assert time.monotonic() < end
    assert motor.position < 10


def test_a_place_beyond_the_limits_is_refused(motor):
    with pytest.raises(LimitError):
        motor.move(1000)


def test_the_position_can_be_redefined(motor):
    motor.move(1.0, wait=True, timeout=LIMIT)
    for place in (5.0, 1.0):
        motor.set_current_position(place)
        end = time.monotonic() + LIMIT
        while motor.position != pytest.approx(place):
            assert time.monotonic() < end, motor.position


def test_four_motors_move_at_once(pv):
    motors = [connected(EpicsMotor(pv(f"m{i}"), name=f"m{i}")) for i in (1, 2, 3, 4)]
    statuses = [motor.move(3, wait=False) for motor in motors]
    for status in statuses:
        wait(status, timeout=LIMIT)
    assert [motor.position for motor in motors] == [3, 3, 3, 3]
    for motor in motors:
        motor.move(0, wait=True, timeout=LIMIT)


def test_a_motor_fails_as_it_is_told(pv):
    motor = connected(FaultyMotor(pv("m7"), name="m7"))
    motor.fault.set("High limit").wait(LIMIT)
    status = motor.move(10, wait=False)
    with pytest.raises(UnknownStatusFailure):
        wait(status, timeout=LIMIT)
    assert motor.high_limit_switch.get() == 1
    motor.fault.set("None").wait(LIMIT)
    motor.move(0, wait=True, timeout=LIMIT)


def test_the_scaler_counts(pv):
    scaler = connected(Scaler(pv("scaler1"), name="scaler"))
    scaler.stage_sigs.clear()
    scaler.preset_time.set(0.1).wait(LIMIT)
    for _ in range(3):
        status = scaler.trigger()
        wait(status, timeout=LIMIT)
        assert scaler.channels.chan1.get() == 1_000_000
    assert scaler.channels.chan2.get() > 100_000


def test_the_monochromator_goes_to_energies(pv):
    dcm = connected(Monochromator(pv(""), name="dcm"))
    for energy in (8.0, 10.0, 10.01, 12.0):
        dcm.energy.move(energy, wait=True, timeout=LIMIT)
        assert dcm.energy.position == pytest.approx(energy, abs=2e-3)
        assert dcm.wavelength.get() == pytest.approx(12.39842 / energy, abs=1e-3)
        assert not (dcm.theta.moving or dcm.y.moving or dcm.z.moving)


def test_a_pseudo_positioner_drives_real_motors(pv):
    class Polar(PseudoPositioner):
        radius = Cpt(PseudoSingle, limits=(0, 50))
        angle = Cpt(PseudoSingle, limits=(-math.pi, math.pi))
        x = Cpt(EpicsMotor, "m1")
        y = Cpt(EpicsMotor, "m2")

        @pseudo_position_argument
        def forward(self, place):
            return self.RealPosition(x=place.radius * math.cos(place.angle), y=place.radius * math.sin(place.angle))

        @real_position_argument
        def inverse(self, place):
            return self.PseudoPosition(radius=math.hypot(place.x, place.y), angle=math.atan2(place.y, place.x))

    polar = connected(Polar(pv(""), name="polar"))
    polar.move(5.0, 0.5, wait=True, timeout=LIMIT)
    assert tuple(polar.position) == pytest.approx((5.0, 0.5), abs=1e-3)
    polar.move(0.0, 0.0, wait=True, timeout=LIMIT)


def test_slit_shutter_detector_and_counter_connect_and_read(pv):
    slit = connected(Slit(pv("Slit1V"), name="slit"))
    shutter = connected(Shutter(pv("shutter:"), name="shutter"))
    detector = connected(PointDetector(pv("det2:"), name="det2"))
    counter = connected(FlyCounter(pv("mcs1:"), name="counter"))
    shutter.close.set(1).wait(LIMIT)
    assert shutter.state.get() == "Closed"
    shutter.open.set(1).wait(LIMIT)
    assert shutter.state.get() == "Open"
    counter.points.set(4).wait(LIMIT)
    counter.acquire.set(1).wait(LIMIT)
    assert len(counter.encoder.get()) == 4
    assert {"slit_size", "slit_center"} < set(slit.read())
    assert set(detector.read()) == {"det2_value"}
