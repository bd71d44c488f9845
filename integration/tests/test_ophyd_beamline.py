"""ophyd's own devices on our control layer, at the simulated beamline, in plans of bluesky's RunEngine."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import h5py
import numpy as np
import pytest
from bluesky import FailedStatus, RunEngine
from ophyd import Component, EpicsMCA, EpicsMotor, EpicsScaler, EpicsSignalRO, PseudoPositioner, PseudoSingle
from ophyd import SimDetector as StockDetector
from ophyd.areadetector import ADComponent, SingleTrigger
from ophyd.areadetector.filestore_mixins import FileStoreHDF5IterativeWrite
from ophyd.areadetector.plugins import HDF5Plugin_V34
from ophyd.pseudopos import pseudo_position_argument, real_position_argument
from ophyd.utils import LimitError

import ophyd_epicsrs_sync
from deadline import Stopwatch, until
from epicsrs_beamline import Beamline
from epicsrs_beamline.ophyd_devices import Cam, Monochromator
from epicsrs_native import NotConnectedError
from ioc import NETWORK, Ports

# For a connect, a move or an acquisition, and for a beamline to start.
LIMIT = 20.0
START_LIMIT = 60.0
PROGRAMS = Path(__file__).parent / "programs"
# hc in keV Å and twice the spacing of Si(111) in Å: what the beamline's monochromator goes by.
HC = 12.398_419_84
TWICE_SPACING = 2 * 5.431_02 / math.sqrt(3)

NETWORK.enter()


@contextmanager
def beamline_at(ports: Ports, prefix: str, folder: Path, *, ophyd_names: bool = False) -> Iterator[Beamline]:
    """One that this process's client finds."""
    beamline = Beamline(
        prefix=prefix,
        ophyd_names=ophyd_names,
        ca_port=ports.ca,
        pva_port=ports.pva,
        pva_broadcast_port=ports.search,
        log=folder / f"{prefix.removesuffix(':')}.log",
    )
    with ExitStack() as stack:
        # For its end only: by itself it would start with a shorter limit.
        stack.push(beamline.start(timeout=START_LIMIT))
        yield beamline


@pytest.fixture(scope="module")
def beamline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beamline]:
    with beamline_at(NETWORK.iocs[6], "sync:", tmp_path_factory.mktemp("beamline"), ophyd_names=True) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def layer() -> Iterator[None]:
    ophyd_epicsrs_sync.use_epicsrs()
    yield
    ophyd_epicsrs_sync.uninstall()


@pytest.fixture(params=["ca", "pva"])
def scheme(request: pytest.FixtureRequest) -> str:
    return f"{request.param}://"


@pytest.fixture
def connect() -> Iterator[Callable[..., Any]]:
    """Make a device, connected with all of its signals; it is destroyed after the test."""
    made: list[Any] = []

    def connect(kind: Callable[..., Any], *args: Any, all_signals: bool = True, **kwargs: Any) -> Any:
        made.append(kind(*args, **kwargs))
        if hasattr(made[-1], "walk_signals"):
            made[-1].wait_for_connection(all_signals=all_signals, timeout=LIMIT)
        else:
            made[-1].wait_for_connection(timeout=LIMIT)
        return made[-1]

    yield connect
    for device in made:
        device.destroy()


@pytest.fixture
def run() -> Callable[[Any], dict[str, list[Any]]]:
    """Run a plan to its end; its documents by name."""
    engine, documents = RunEngine({}), {}
    engine.subscribe(lambda name, document: documents.setdefault(name, []).append(document))

    def run(plan: Any) -> dict[str, list[Any]]:
        documents.clear()
        engine(plan)
        return documents

    return run


def column(documents: dict[str, list[Any]], key: str) -> list[Any]:
    return [event["data"][key] for event in documents["event"]]


def test_a_motor_is_scanned_against_a_scaler(
    beamline: Beamline, scheme: str, connect: Callable[..., Any], run: Callable[..., Any]
) -> None:
    motor = connect(EpicsMotor, scheme + beamline.pv("m1"), name="motor")
    scaler = connect(EpicsScaler, scheme + beamline.pv("scaler1"), name="scaler")
    scaler.preset_time.set(0.1).wait(LIMIT)

    documents = run(bp.scan([scaler], motor, -2.0, 2.0, 5))

    assert documents["stop"][0]["exit_status"] == "success"
    assert column(documents, "motor") == pytest.approx([-2.0, -1.0, 0.0, 1.0, 2.0], abs=1e-6)
    assert column(documents, "motor_user_setpoint") == [-2.0, -1.0, 0.0, 1.0, 2.0]
    keys = documents["descriptor"][0]["data_keys"]
    assert keys["motor"]["source"] == f"PV:{scheme}{beamline.pv('m1.RBV')}"
    assert (keys["motor"]["units"], keys["motor"]["precision"], keys["motor"]["dtype"]) == ("mm", 4, "number")
    configuration = documents["descriptor"][0]["configuration"]["motor"]
    assert configuration["data"]["motor_velocity"] == 10.0
    assert configuration["data"]["motor_motor_egu"] == "mm"
    assert configuration["data_keys"]["motor_velocity"]["units"] == "mm/sec"
    # A clock of 10 MHz for 0.1 s, and beside it what a sample at 0 absorbs.
    assert column(documents, "scaler_channels_chan1") == [1e6] * 5
    before, behind = (np.array(column(documents, f"scaler_channels_chan{n}")) for n in (2, 3))
    absorbed = 1 - 0.8 * np.exp(-(np.linspace(-2.0, 2.0, 5) ** 2) / 2)
    assert behind / before == pytest.approx(absorbed, rel=0.1)
    assert documents["descriptor"][0]["configuration"]["scaler"]["data"]["scaler_preset_time"] == 0.1


def test_a_motor_stops_on_its_way(beamline: Beamline, scheme: str, connect: Callable[..., Any]) -> None:
    motor = connect(EpicsMotor, scheme + beamline.pv("m5"), name="slow")
    begun = motor.position
    status = motor.set(begun + 60)
    until(lambda: motor.position > begun, LIMIT)

    motor.stop(success=True)

    until(lambda: status.done and not motor.moving, LIMIT)
    assert status.success
    assert begun < motor.position < begun + 30


def test_a_plan_stops_its_motor_on_its_way(
    beamline: Beamline, scheme: str, connect: Callable[..., Any], run: Callable[..., Any]
) -> None:
    motor = connect(EpicsMotor, scheme + beamline.pv("m5"), name="slow")
    begun = motor.position

    def plan() -> Iterator[Any]:
        yield from bps.abs_set(motor, begun - 60, group="move")
        while (yield from bps.rd(motor)) >= begun:
            yield from bps.sleep(0.05)
        yield from bps.stop(motor)
        yield from bps.wait("move", timeout=LIMIT)

    # ophyd calls a move that was stopped a success.
    run(plan())
    assert not motor.moving
    assert begun - 30 < motor.position < begun


def test_a_plan_that_is_refused_by_the_limits_moves_nothing(
    beamline: Beamline, scheme: str, connect: Callable[..., Any], run: Callable[..., Any]
) -> None:
    motor = connect(EpicsMotor, scheme + beamline.pv("m2"), name="motor")
    low, high = motor.limits
    before = motor.position
    assert (low, high) == (-100.0, 100.0)

    for place in (low - 1, high + 1):
        with pytest.raises(LimitError, match=str(place)):
            run(bps.mv(motor, place))

    assert motor.position == before
    assert not motor.moving


def test_new_limits_count_at_once(beamline: Beamline, scheme: str, connect: Callable[..., Any]) -> None:
    motor = connect(EpicsMotor, scheme + beamline.pv("m6"), name="motor")

    motor.set_lim(-5.0, 5.0)
    try:
        until(lambda: motor.limits == (-5.0, 5.0), LIMIT, lambda: motor.limits)
        with pytest.raises(LimitError):
            motor.set(6.0)
    finally:
        motor.set_lim(-100.0, 100.0)
    until(lambda: motor.limits == (-100.0, 100.0), LIMIT, lambda: motor.limits)


def test_a_move_fails_when_the_ioc_is_killed_and_the_motor_goes_on_with_the_next_ioc(
    scheme: str, connect: Callable[..., Any], run: Callable[..., Any], tmp_path: Path
) -> None:
    with beamline_at(NETWORK.iocs[7], f"mortal-{scheme[:-3]}:", tmp_path) as mortal:
        motor = connect(EpicsMotor, scheme + mortal.pv("m5"), name="motor")
        watches: list[Stopwatch] = []

        def kill(value: float, **_: Any) -> None:
            if value > 0 and not watches:
                mortal.kill()
                watches.append(Stopwatch())

        motor.subscribe(kill)
        with pytest.raises(FailedStatus) as failed:
            run(bps.mv(motor, 60.0, timeout=LIMIT))
        assert watches[0].elapsed < 3.0
        assert isinstance(failed.value.__cause__, NotConnectedError)
        assert mortal.pv("m5") in str(failed.value.__cause__)

        mortal.start(timeout=START_LIMIT)
        motor.wait_for_connection(timeout=LIMIT)
        run(bps.mv(motor, 1.0))
        assert motor.position == pytest.approx(1.0)


def test_the_monochromator_goes_to_an_energy(
    beamline: Beamline, scheme: str, connect: Callable[..., Any], run: Callable[..., Any]
) -> None:
    monochromator = connect(Monochromator, scheme + beamline.pv(""), name="mono")

    documents = run(bp.scan([monochromator.theta], monochromator.energy, 9.0, 11.0, 3))

    assert column(documents, "mono_energy_readback") == pytest.approx([9.0, 10.0, 11.0], abs=2e-3)
    angles = [math.degrees(math.asin(HC / energy / TWICE_SPACING)) for energy in (9.0, 10.0, 11.0)]
    assert column(documents, "mono_theta") == pytest.approx(angles, abs=1e-4)
    assert documents["descriptor"][0]["data_keys"]["mono_theta"]["units"] == "deg"


class Energy(PseudoPositioner):
    """The monochromator by its three motors: the energy in keV."""

    energy = Component(PseudoSingle, limits=(5.0, 20.0), egu="keV")
    theta = Component(EpicsMotor, "dcm:theta")
    y = Component(EpicsMotor, "dcm:y")
    z = Component(EpicsMotor, "dcm:z")
    offset = 35.0

    @pseudo_position_argument
    def forward(self, pseudo: Any) -> Any:
        angle = math.asin(HC / pseudo.energy / TWICE_SPACING)
        y, z = -self.offset / 2 / math.cos(angle), self.offset / 2 / math.sin(angle)
        return self.RealPosition(theta=math.degrees(angle), y=y, z=z)

    @real_position_argument
    def inverse(self, real: Any) -> Any:
        return self.PseudoPosition(energy=HC / TWICE_SPACING / math.sin(math.radians(real.theta)))


def test_an_energy_is_scanned_by_a_pseudo_positioner(
    beamline: Beamline, scheme: str, connect: Callable[..., Any], run: Callable[..., Any]
) -> None:
    mono = connect(Energy, scheme + beamline.pv(""), name="mono")
    readback = connect(EpicsSignalRO, scheme + beamline.pv("BraggERdbkAO"), name="readback")

    documents = run(bp.scan([readback, mono.z], mono.energy, 8.0, 12.0, 3))

    energies = [8.0, 10.0, 12.0]
    assert column(documents, "mono_energy") == pytest.approx(energies, abs=1e-3)
    assert column(documents, "mono_energy_setpoint") == energies
    # What the IOC makes of the angle.
    until(lambda: readback.get() == pytest.approx(12.0, abs=1e-3), LIMIT, readback.get)
    angles = [math.asin(HC / energy / TWICE_SPACING) for energy in energies]
    assert column(documents, "mono_z") == pytest.approx([17.5 / math.sin(angle) for angle in angles], abs=2e-3)
    keys = documents["descriptor"][0]["data_keys"]
    assert keys["mono_z"]["units"] == "mm"
    with pytest.raises(ValueError, match=r"mono_energy, 5\.0 < 25\.0 < 20\.0"):
        mono.energy.set(25.0)
    assert not mono.moving


class Hdf(HDF5Plugin_V34, FileStoreHDF5IterativeWrite):
    """Writes one file a run; its documents say where."""


@pytest.mark.parametrize(("camera", "shape"), [("sync:cam:", (512, 512)), ("ADSIM:", (256, 256))])
def test_a_detectors_documents_lead_to_every_frame_in_its_file(
    beamline: Beamline,
    connect: Callable[..., Any],
    run: Callable[..., Any],
    tmp_path: Path,
    camera: str,
    shape: tuple[int, int],
) -> None:
    class Detector(SingleTrigger, StockDetector):
        if camera == "sync:cam:":
            cam = ADComponent(Cam, "cam1:")
        hdf = ADComponent(Hdf, "HDF1:", write_path_template=str(tmp_path))

    detector = connect(Detector, camera, name="detector")
    detector.read_attrs, detector.hdf.read_attrs = ["hdf"], []
    for signal, value in [
        (detector.cam.acquire_time, 0.01),
        (detector.cam.acquire_period, 0.01),
        (detector.cam.num_images, 2),
        (detector.cam.image_mode, "Single"),
        (detector.hdf.enable, 1),
    ]:
        signal.set(value).wait(LIMIT)
    # The plugin makes a file like the last frame that it has seen.
    detector.cam.acquire.put(1, wait=True, timeout=LIMIT)
    until(lambda: detector.hdf.array_size.width.get() == shape[1], LIMIT)

    documents = run(bp.count([detector], num=3))

    [resource] = documents["resource"]
    assert (resource["spec"], resource["resource_kwargs"]) == ("AD_HDF5", {"frame_per_point": 2})
    datums = {datum["datum_id"]: datum for datum in documents["datum"]}
    assert [datums[datum]["datum_kwargs"] for datum in column(documents, "detector_image")] == [
        {"point_number": point} for point in range(3)
    ]
    assert {datum["resource"] for datum in datums.values()} == {resource["uid"]}
    described = documents["descriptor"][0]["data_keys"]["detector_image"]
    assert (described["external"], described["dtype"], tuple(described["shape"])) == (
        "FILESTORE:",
        "array",
        (2, *shape),
    )
    with h5py.File(Path(resource["root"], resource["resource_path"])) as file:
        data = file["/entry/data/data"][()]
        assert data.shape == (6, *shape)
        assert data.dtype.str == described["dtype_numpy"]
        # Of the beam, not of an empty buffer; and each with noise of its own.
        assert data.max(axis=(1, 2)).min() > data.mean()
        assert len({frame.tobytes() for frame in data}) == 6
        numbers = file["/entry/instrument/NDAttributes/NDArrayUniqueId"][()].tolist()
        # The camera numbers the frames of each acquisition anew.
        assert numbers == [1, 2] * 3


def test_an_analyzer_counts_a_spectrum(
    beamline: Beamline, connect: Callable[..., Any], run: Callable[..., Any]
) -> None:
    # What would be fields of an mca record are PVs of Channel Access there.
    mca = connect(EpicsMCA, beamline.pv("mca1"), name="mca")
    rate = connect(EpicsSignalRO, beamline.pv("scaler1:rate:If"), name="rate")
    mca.preset_real_time.set(0.5).wait(LIMIT)
    mca.rois.roi0.lo_chan.set(1014).wait(LIMIT)
    mca.rois.roi0.hi_chan.set(1034).wait(LIMIT)
    mca.mode.put("MCS", wait=True)
    mca.read_attrs = ["spectrum", "elapsed_real_time", "rois.roi0.count"]
    modes: list[str] = []
    mca.mode.subscribe(lambda value, **_: modes.append(value), run=False)
    watch = Stopwatch()

    documents = run(bp.count([mca], num=2))

    assert watch.elapsed > 1.0
    spectra = column(documents, "mca_spectrum")
    for spectrum, region in zip(spectra, column(documents, "mca_rois_roi0_count"), strict=True):
        assert spectrum.shape == (2048,)
        assert spectrum.sum() == pytest.approx(0.5 * rate.get(), rel=0.2)
        # A peak, and next to nothing elsewhere.
        assert spectrum[1024] > 10 + 10 * spectrum[100]
        assert region == spectrum[1014:1035].sum()
    assert column(documents, "mca_elapsed_real_time") == [0.5] * 2
    keys = documents["descriptor"][0]["data_keys"]
    assert (keys["mca_spectrum"]["dtype"], keys["mca_spectrum"]["shape"]) == ("array", [2048])
    assert (keys["mca_spectrum"]["units"], keys["mca_elapsed_real_time"]["units"]) == ("counts", "s")
    # As EpicsMCA stages it, and as it was before.
    until(lambda: "PHA" in modes and modes[-1] == "MCS", LIMIT, lambda: modes)


def test_a_count_of_an_analyzer_is_stopped(beamline: Beamline, connect: Callable[..., Any]) -> None:
    mca = connect(EpicsMCA, beamline.pv("mca1"), name="mca")
    mca.preset_real_time.set(600.0).wait(LIMIT)
    counting = mca.trigger()
    mca.status.subscribe(lambda **_: None)
    until(lambda: mca.status.get() == 1, LIMIT)

    mca.stop()

    counting.wait(LIMIT)
    assert mca.status.get() == 0
    assert 0.0 < mca.elapsed_real_time.get() < 600.0
