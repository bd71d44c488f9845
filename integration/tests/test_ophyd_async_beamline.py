"""ophyd-async's motor and its areaDetector with HDF5 files, on our backends, at the simulated beamline."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import h5py
import ophyd_async.epics.core
import pytest
from bluesky import RunEngine
from ophyd_async.core import StaticFilenameProvider, StaticPathProvider, TriggerInfo, init_devices, observe_value
from ophyd_async.epics.motor import Motor, MotorLimitsError

from deadline import Stopwatch, eventually, until
from epicsrs_beamline import Beamline
from epicsrs_beamline.ophyd_async_devices import Camera, FlyCounter, FlyMode, Mode, PointDetector, SelfDescribing
from epicsrs_native import NotConnectedError
from ioc import NETWORK, Ports
from ophyd_epicsrs_async import EpicsRsSignalBackend, install

T = TypeVar("T")
# For a connect or one value, and for a whole test.
LIMIT = 10.0
TEST_LIMIT = 60.0

NETWORK.enter()


def beamline_at(ports: Ports, prefix: str, folder: Path) -> Beamline:
    """One that this process's client finds."""
    return Beamline(
        prefix=prefix,
        ca_port=ports.ca,
        pva_port=ports.pva,
        pva_broadcast_port=ports.search,
        log=folder / f"{prefix.removesuffix(':')}.log",
    )


@pytest.fixture(scope="module")
def beamline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beamline]:
    with beamline_at(NETWORK.iocs[6], "async:", tmp_path_factory.mktemp("beamline")) as running:
        yield running


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    with install():
        for theirs in (ophyd_async.epics.core.CaSignalBackend, ophyd_async.epics.core.PvaSignalBackend):
            assert issubclass(theirs, EpicsRsSignalBackend)
        yield


@pytest.fixture(params=["ca", "pva"])
def scheme(request: pytest.FixtureRequest) -> str:
    return f"{request.param}://"


def run(operation: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """All of a test in one event loop; no task stays in it."""

    async def main() -> T:
        result = await asyncio.wait_for(operation(), TEST_LIMIT)
        # A detector that is unstaged may still wait for its acquisition's completion.
        await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()})
        return result

    return asyncio.run(main(), debug=True)


async def connected_motor(pv: str) -> Motor:
    motor = Motor(pv, name="motor")
    await motor.connect(timeout=LIMIT)
    return motor


async def moved(motor: Motor, begun: float) -> None:
    """Wait until it is on its way."""
    async for place in observe_value(motor.user_readback, timeout=LIMIT):
        if place != begun:
            return


async def at_rest(motor: Motor) -> None:
    """ophyd-async calls a stopped move done while the motor still brakes."""
    async for done in observe_value(motor.motor_done_move, timeout=LIMIT):
        if done:
            return


def test_a_motor_moves_and_arrives(beamline: Beamline, scheme: str) -> None:
    async def main() -> None:
        motor = await connected_motor(scheme + beamline.pv("m1"))
        for place in (2.0, 2.5, 0.0):
            await motor.set(place)
            assert await motor.motor_done_move.get_value() == 1
            assert await motor.locate() == {"setpoint": place, "readback": pytest.approx(place)}
        assert (await motor.describe())["motor"]["source"] == f"{scheme}{beamline.pv('m1')}.RBV"

    run(main)


def test_a_motor_stops_where_it_is(beamline: Beamline, scheme: str) -> None:
    async def main() -> None:
        motor = await connected_motor(scheme + beamline.pv("m5"))
        begun = await motor.user_readback.get_value()
        status = motor.set(begun + 60)
        await moved(motor, begun)
        await motor.stop(success=True)
        await status
        assert status.success
        await at_rest(motor)
        assert begun < await motor.user_readback.get_value() < begun + 30

    run(main)


def test_a_motor_that_is_stopped_as_a_failure_fails_its_status(beamline: Beamline) -> None:
    async def main() -> None:
        motor = await connected_motor(beamline.pv("m5"))
        begun = await motor.user_readback.get_value()
        status = motor.set(begun - 60)
        await moved(motor, begun)
        await motor.stop(success=False)
        with pytest.raises(RuntimeError, match="stopped"):
            await status
        assert not status.success
        await at_rest(motor)

    run(main)


def test_a_motor_does_not_move_beyond_its_limits(beamline: Beamline, scheme: str) -> None:
    async def main() -> None:
        motor = await connected_motor(scheme + beamline.pv("m2"))
        low, high = await asyncio.gather(motor.low_limit_travel.get_value(), motor.high_limit_travel.get_value())
        before = await motor.user_readback.get_value()
        for place in (low - 1, high + 1):
            with pytest.raises(MotorLimitsError, match="limits are"):
                await motor.set(place)
        assert await motor.user_readback.get_value() == before

    run(main)


def test_detector_counter_and_self_describing_device_read(beamline: Beamline, scheme: str) -> None:
    async def main() -> None:
        detector = PointDetector(scheme + beamline.pv("det1:"), name="detector")
        counter = FlyCounter(scheme + beamline.pv("mcs1:"), name="counter")
        described = SelfDescribing(beamline.pv("pvi:"), with_pvi=True, name="described")
        await asyncio.gather(*(device.connect(timeout=LIMIT) for device in (detector, counter, described)))
        assert set(await detector.read()) == {"detector-value"}
        await counter.mode.set(FlyMode.AT_END)
        await counter.points.set(8)
        await counter.acquire.set(True)
        assert (await counter.clock_ticks.get_value()).shape == (8,)
        assert await described.speed.get_value() == 1.5
        assert await described.part.mode.get_value() == Mode.FAST
        await described.go.trigger()

    run(main)


def test_a_detector_writes_every_frame_to_its_file(beamline: Beamline, scheme: str, tmp_path: Path) -> None:
    async def main() -> tuple[list[Any], dict[str, Any]]:
        provider = StaticPathProvider(StaticFilenameProvider("frames"), tmp_path)
        camera = Camera(scheme + beamline.pv("cam:"), provider, name="camera")
        await camera.connect(timeout=LIMIT)
        await camera.stage()
        await camera.prepare(TriggerInfo(number_of_events=5, livetime=0.01))
        described = await camera.describe()
        await camera.kickoff()
        await camera.complete()
        documents = [document async for document in camera.collect_asset_docs(5)]
        await camera.unstage()
        return documents, described

    documents, described = run(main)

    kinds = [kind for kind, _ in documents]
    assert kinds[0] == "stream_resource"
    assert documents[0][1]["data_key"] == "camera"
    frames = [document for kind, document in documents if kind == "stream_datum"]
    assert frames[-1]["indices"]["stop"] == 5
    assert described["camera"]["shape"] == [1, 512, 512]
    (path,) = tmp_path.glob("*.h5")
    with h5py.File(path) as file:
        data = file["/entry/data/data"][()]
        assert data.shape == (5, 512, 512)
        assert data.dtype.str == described["camera"]["dtype_numpy"]
        # Of the beam, not of an empty buffer; and each with noise of its own.
        assert data.max(axis=(1, 2)).min() > 1000
        assert len({frame.tobytes() for frame in data}) == 5
        numbers = file["/entry/instrument/NDAttributes/NDArrayUniqueId"][()].tolist()
        assert numbers == list(range(numbers[0], numbers[0] + 5))


def test_motor_camera_and_a_device_with_its_command_work_in_one_scan(beamline: Beamline, tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()
    loop.set_debug(True)
    engine = RunEngine({}, call_returns_result=True, loop=loop)
    documents: list[tuple[str, dict[str, Any]]] = []
    engine.subscribe(lambda name, document: documents.append((name, document)))
    provider = StaticPathProvider(StaticFilenameProvider("scan"), tmp_path)
    with init_devices(timeout=LIMIT):
        motor = Motor(beamline.pv("m1"))
        camera = Camera("pva://" + beamline.pv("cam:"), provider)
        described = SelfDescribing(beamline.pv("pvi:"), with_pvi=True)
        went = ophyd_async.epics.core.epics_signal_r(str, beamline.pv("pvi:go"))

    went_at: list[float] = []

    def step(detectors: Any, motor: Any, step: float) -> Iterator[Any]:
        yield from bps.mv(described.speed, step + 0.5)
        yield from bps.trigger(described.go, wait=True)
        # Not staged, so not from a monitor: its value does not change.
        went_at.append((yield from bps.read(went))["went"]["timestamp"])
        yield from bps.one_1d_step(detectors, motor, step)

    result = engine(bp.scan([camera, described.speed], motor, 0.0, 1.0, 3, per_step=step))

    loop.call_soon_threadsafe(loop.stop)
    until(lambda: not loop.is_running())
    assert [task for task in asyncio.all_tasks(loop) if not task.done()] == []
    loop.close()
    assert result.exit_status == "success"
    events = [document for name, document in documents if name == "event"]
    assert [event["data"]["motor"] for event in events] == pytest.approx([0.0, 0.5, 1.0])
    assert [event["data"]["described-speed"] for event in events] == [0.5, 1.0, 1.5]
    assert len(set(went_at)) == 3
    assert max(document["indices"]["stop"] for name, document in documents if name == "stream_datum") == 3
    (path,) = tmp_path.glob("*.h5")
    with h5py.File(path) as file:
        assert file["/entry/data/data"].shape == (3, 512, 512)


def test_a_move_fails_when_the_ioc_is_killed_and_the_motor_goes_on_with_the_next_ioc(
    scheme: str, tmp_path: Path
) -> None:
    async def main() -> None:
        with beamline_at(NETWORK.iocs[7], "mortal:", tmp_path) as mortal:
            motor = await connected_motor(scheme + mortal.pv("m5"))
            status = motor.set(60)
            await moved(motor, 0.0)
            mortal.kill()
            watch = Stopwatch()
            with pytest.raises(NotConnectedError, match=mortal.pv("m5.VAL")):
                await asyncio.wait_for(status, LIMIT)
            assert watch.elapsed < 2.0
            assert not status.success
            mortal.start()
            await asyncio.wait_for(motor.set(1.0), 20.0)
            assert await motor.user_readback.get_value() == pytest.approx(1.0)

    run(main)
