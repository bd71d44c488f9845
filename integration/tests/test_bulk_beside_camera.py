"""Waveforms of the fly-scan counter as data of a StandardDetector, in step with an areaDetector in one stream."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from event_model import DocumentNames, schema_validators
from ophyd_async.core import (
    DetectorAcquireLogic,
    DetectorTriggerLogic,
    StandardDetector,
    StaticFilenameProvider,
    StaticPathProvider,
    TriggerInfo,
    init_devices,
)

from epicsrs_beamline import Beamline
from epicsrs_beamline.ophyd_async_devices import Camera, FlyCounter, FlyMode
from epicsrs_bulk import BulkWaveformDataLogic, ClockCounts, Column
from flights import flying
from ioc import NETWORK
from ophyd_epicsrs_async import install

LIMIT = 10.0
POINTS, FLIGHTS = 5, 2
CLOCK = 80e6
COLUMNS = {"I0": "i0", "Encoder": "x", "ROI1": "roi1"}

Documents = list[tuple[str, dict[str, Any]]]

NETWORK.enter()


class CounterTriggers(DetectorTriggerLogic):
    """So many points of so many seconds."""

    def __init__(self, driver: FlyCounter) -> None:
        self._driver = driver

    async def prepare_internal(self, num: int, livetime: float, deadtime: float) -> None:
        await self._driver.mode.set(FlyMode.AT_END)
        await self._driver.points.set(num)
        await self._driver.dwell.set(livetime)


class CounterAcquisitions(DetectorAcquireLogic):
    def __init__(self, driver: FlyCounter) -> None:
        self._driver = driver
        self._acquisition: Any = None

    async def start_acquiring(self) -> None:
        self._acquisition = self._driver.acquire.set(True)

    async def wait_for_idle(self) -> None:
        await self._acquisition

    async def ensure_stopped(self) -> None:
        await self._driver.acquire.set(False)


class Counter(StandardDetector):
    """The counter, which writes no file: its waveforms are read when an acquisition ends."""

    def __init__(self, prefix: str, folder: Path, name: str = "") -> None:
        self.driver = FlyCounter(prefix)
        data = BulkWaveformDataLogic(
            [Column(f"{prefix}{pv}", key) for pv, key in COLUMNS.items()],
            ClockCounts(f"{prefix}ClockTicks", CLOCK),
            StaticPathProvider(StaticFilenameProvider("counts"), folder),
            done=(f"{prefix}Acquire", "Done"),
            rows=f"{prefix}NumPoints",
        )
        self.add_detector_logics(CounterTriggers(self.driver), CounterAcquisitions(self.driver), data)
        super().__init__(name=name)


@pytest.fixture(scope="module")
def beamline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beamline]:
    ports = NETWORK.iocs[6]
    log = tmp_path_factory.mktemp("beamline") / "beamline.log"
    with Beamline(
        prefix="step:", ca_port=ports.ca, pva_port=ports.pva, pva_broadcast_port=ports.search, log=log
    ) as running:
        yield running


@pytest.fixture
def engine() -> Iterator[RunEngine]:
    engine = RunEngine({}, context_managers=[])
    yield engine
    engine.loop.call_soon_threadsafe(engine.loop.stop)


def announced(documents: Documents) -> dict[str, list[tuple[int, int]]]:
    """The rows that the stream data of each key announce, range by range."""
    keys = {doc["uid"]: doc["data_key"] for name, doc in documents if name == "stream_resource"}
    ranges: dict[str, list[tuple[int, int]]] = {key: [] for key in keys.values()}
    for name, doc in documents:
        if name == "stream_datum":
            assert doc["seq_nums"] == {end: place + 1 for end, place in doc["indices"].items()}
            ranges[keys[doc["stream_resource"]]].append((doc["indices"]["start"], doc["indices"]["stop"]))
    return ranges


def stored(documents: Documents, key: str) -> Any:
    """A column, found by the documents alone."""
    [resource] = [doc for name, doc in documents if name == "stream_resource" and doc["data_key"] == key]
    with h5py.File(unquote(urlparse(resource["uri"]).path)) as file:
        return file[resource["parameters"]["dataset"]][()]


def test_waveforms_and_frames_are_announced_in_step(beamline: Beamline, engine: RunEngine, tmp_path: Path) -> None:
    documents: Documents = []

    def keep(name: str, doc: dict[str, Any]) -> None:
        schema_validators[DocumentNames[name]].validate(doc)
        documents.append((name, doc))

    with install(), init_devices(timeout=LIMIT):
        counter = Counter(beamline.pv("mcs1:"), tmp_path, name="counter")
        camera = Camera(
            beamline.pv("cam:"), StaticPathProvider(StaticFilenameProvider("frames"), tmp_path), name="camera"
        )

    info = TriggerInfo(number_of_events=POINTS, livetime=0.02, exposure_timeout=LIMIT)
    engine(flying({counter: info, camera: info}, FLIGHTS), keep)

    total = POINTS * FLIGHTS
    [stop] = [doc for name, doc in documents if name == "stop"]
    assert (stop["exit_status"], stop["num_events"]) == ("success", {"primary": total})
    [descriptor] = [doc for name, doc in documents if name == "descriptor"]
    ranges = announced(documents)
    waveforms = [f"counter-{key}{suffix}" for key in ("time_ns", *COLUMNS.values()) for suffix in ("", "_valid")]
    assert {"camera", *waveforms} <= set(descriptor["data_keys"]) == set(ranges)
    # The same ranges for all, one behind the other.
    assert len({tuple(found) for found in ranges.values()}) == 1, ranges
    starts, stops = zip(*ranges["camera"], strict=True)
    assert starts == (0, *stops[:-1]) and stops[-1] == total
    assert stored(documents, "camera").shape[0] == total
    columns = {key: stored(documents, key) for key in waveforms}
    assert {values.shape for values in columns.values()} == {(total,)}
    assert all(columns[key].all() for key in waveforms if key.endswith("_valid"))
    assert (columns["counter-i0"] > 0).all()
    # Each flight begins a clock of its own: 20 ms from point to point within it.
    steps = np.diff(columns["counter-time_ns"].reshape(FLIGHTS, POINTS)) / 1e9
    assert steps == pytest.approx(0.02, abs=0.005)
    assert (np.diff(columns["counter-time_ns"]) > 0).all()
