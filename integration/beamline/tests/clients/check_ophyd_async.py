"""Through ophyd-async's stock classes, over aioca and p4p."""

import asyncio
import contextlib

import h5py
import numpy as np
import pytest
from ophyd_async.core import StaticFilenameProvider, StaticPathProvider, TriggerInfo
from ophyd_async.epics.motor import Motor

from epicsrs_beamline.ophyd_async_devices import (
    Camera,
    Fault,
    FaultyMotor,
    FlyCounter,
    FlyMode,
    Mode,
    PointDetector,
    SelfDescribing,
)

LIMIT = 10.0


@pytest.fixture(params=["ca", "pva"])
def scheme(request):
    return f"{request.param}://"


def run(operation):
    """Everything of a test in one event loop."""
    return asyncio.run(asyncio.wait_for(operation(), 60.0))


def test_the_stock_motor_moves(pv, scheme):
    async def move():
        motor = Motor(scheme + pv("m1"), name="motor")
        await motor.connect(timeout=LIMIT)
        for place in (2.0, 2.5, 0.0):
            await motor.set(place)
            assert await motor.user_readback.get_value() == pytest.approx(place)
        assert (await motor.locate())["setpoint"] == 0.0

    run(move)


def test_the_stock_motor_stops_and_keeps_its_limits(pv):
    async def move():
        motor = Motor(pv("m5"), name="motor")
        await motor.connect(timeout=LIMIT)
        status = motor.set(60)
        async for value in _values(motor.motor_done_move):
            if not value:
                break
        await motor.stop(success=True)
        await status
        assert await motor.user_readback.get_value() < 30
        with pytest.raises(Exception, match=r"(?i)limit"):
            await motor.set(1e6)

    run(move)


async def _values(signal):
    from ophyd_async.core import observe_value

    async for value in observe_value(signal, timeout=LIMIT):
        yield value


def test_a_motor_fails_as_it_is_told(pv):
    async def move():
        motor = FaultyMotor(pv("m7"), name="m7")
        await motor.connect(timeout=LIMIT)
        await motor.fault.set(Fault.LOW_LIMIT)
        with contextlib.suppress(Exception):  # ophyd-async does not say that the place was not reached
            await motor.set(-5)
        assert await motor.user_readback.get_value() > -1
        await motor.fault.set(Fault.NONE)
        await motor.set(0)

    run(move)


def test_a_device_fills_itself_from_its_pvi(pv):
    async def read():
        device = SelfDescribing(pv("pvi:"), with_pvi=True, name="device")
        await device.connect(timeout=LIMIT)
        assert await device.speed.get_value() == 1.5
        assert await device.count.get_value() == 7
        assert await device.part.mode.get_value() == Mode.FAST
        await device.go.trigger()

    run(read)


def test_detector_and_counter_read(pv, scheme):
    async def read():
        detector = PointDetector(scheme + pv("det1:"), name="det1")
        counter = FlyCounter(scheme + pv("mcs1:"), name="counter")
        await asyncio.gather(detector.connect(timeout=LIMIT), counter.connect(timeout=LIMIT))
        assert set(await detector.read()) == {"det1-value"}
        await counter.mode.set(FlyMode.AT_END)
        await counter.points.set(8)
        await counter.acquire.set(True)
        assert (await counter.clock_ticks.get_value()).shape == (8,)

    run(read)


def test_the_stock_detector_writes_hdf5(pv, tmp_path):
    async def acquire():
        provider = StaticPathProvider(StaticFilenameProvider("frames"), tmp_path)
        camera = Camera(pv("cam:"), provider, name="camera")
        await camera.connect(timeout=LIMIT)
        await camera.stage()
        await camera.prepare(TriggerInfo(number_of_events=4, livetime=0.01))
        await camera.kickoff()
        await camera.complete()
        documents = [document async for document in camera.collect_asset_docs(4)]
        await camera.unstage()
        return documents

    documents = run(acquire)

    assert documents[0][0] == "stream_resource"
    (path,) = tmp_path.glob("*.h5")
    with h5py.File(path) as file:
        data = file["/entry/data/data"]
        assert data.shape == (4, 512, 512)
        assert np.asarray(data).max() > 1000
