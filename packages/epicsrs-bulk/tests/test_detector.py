"""BulkWaveformDataLogic in a StandardDetector of ophyd-async, under a RunEngine, beside a simulated area detector."""

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import h5py
import pytest
from bluesky import RunEngine
from bluesky.protocols import EventCollectable, EventPageCollectable
from bluesky.utils import FailedStatus
from ophyd_async.core import (
    DetectorAcquireLogic,
    DetectorDataLogic,
    StandardDetector,
    StaticFilenameProvider,
    StaticPathProvider,
    TriggerInfo,
)
from ophyd_async.plan_stubs import ensure_connected
from ophyd_async.sim import SimBlobDetector

from deadline import Stopwatch, until
from epicsrs_bulk import BulkWaveformDataLogic, ClockCounts, Column, DeadTime, FlightDataError, FlightError, RecordTime
from flights import flying
from ioc import NETWORK, Ioc

Measure = Callable[..., None]
Run = Callable[..., Any]


class Board(DetectorAcquireLogic):
    """Starts the counter board, which then takes its 0.2 s."""

    def __init__(self, board: Ioc) -> None:
        self._board = board

    async def start_acquiring(self) -> None:
        await self._board.channel("start").put_async(1, wait=False)

    async def wait_for_idle(self) -> None:
        pass

    async def ensure_stopped(self) -> None:
        await self._board.channel("abort").put_async(1)


@pytest.fixture(autouse=True)
def four_rows(board: Ioc, measure: Measure) -> None:
    measure(clock=[1000] * 4, i0=[1.5, 2.5, 3.5, 4.5], it=[5.0, 6.0, 7.0, 8.0], encoder=[1, 2, 3, 4])
    board.channel("abort").put(0)
    busy = board.channel("busy")
    until(lambda: busy.get().value == 0)


@pytest.fixture
def detector(board: Ioc, tmp_path: Path) -> Callable[..., StandardDetector]:
    def make(**options: Any) -> StandardDetector:
        usual: dict[str, Any] = {
            "columns": [Column(board.pv("i0"), "i0"), Column(board.pv("encoder", "pva"), "encoder", "i4", fill=-1)],
            "times": ClockCounts(board.pv("clock"), 1e6),
            "path_provider": StaticPathProvider(StaticFilenameProvider("counts"), tmp_path),
            "done": (board.pv("busy"), "Done"),
            "hinted": ["i0"],
        }
        device = StandardDetector(name="board")
        device.add_detector_logics(BulkWaveformDataLogic(**{**usual, **options}), Board(board))
        return device

    return make


def flown(*devices: Any, events: int = 4, flights: int = 1) -> Any:
    """A run in which all devices take so many events in each flight; the simulated one needs some time."""
    times = {device: 0.01 if isinstance(device, SimBlobDetector) else 0.0 for device in devices}
    return flying(
        {
            device: TriggerInfo(number_of_events=events, livetime=livetime, exposure_timeout=5.0)
            for device, livetime in times.items()
        },
        flights,
    )


def ranges(documents: Any, key: str) -> list[tuple[int, int]]:
    [uid] = [doc["uid"] for doc in documents.of("stream_resource") if doc["data_key"] == key]
    datums = [doc["indices"] for doc in documents.of("stream_datum") if doc["stream_resource"] == uid]
    return [(indices["start"], indices["stop"]) for indices in datums]


def test_an_acquisition_is_announced_by_its_detector(
    detector: Callable[..., StandardDetector], run: Run, tmp_path: Path
) -> None:
    device = detector()
    for protocol in (EventPageCollectable, EventCollectable):
        assert not isinstance(device, protocol)

    documents = run(flown(device))

    [descriptor], [stop] = documents.of("descriptor"), documents.of("stop")
    keys = [f"board-{key}{suffix}" for key in ("time_ns", "i0", "encoder") for suffix in ("", "_valid")]
    assert list(descriptor["data_keys"]) == keys
    assert descriptor["data_keys"]["board-encoder"]["dtype_numpy"] == "<i4"
    assert descriptor["hints"]["board"]["fields"] == ["board-i0"]
    assert stop["exit_status"] == "success" and stop["num_events"] == {"primary": 4}
    assert ranges(documents, "board-i0") == [(0, 4)]
    assert {doc["mimetype"] for doc in documents.of("stream_resource")} == {"application/x-hdf5"}
    with h5py.File(tmp_path / "counts.h5") as file:
        assert file["board-i0"][:].tolist() == [1.5, 2.5, 3.5, 4.5]
        assert file["board-encoder"][:].tolist() == [1, 2, 3, 4]
        assert file["board-encoder_valid"][:].all()


def test_it_keeps_step_with_an_area_detector(
    board: Ioc, detector: Callable[..., StandardDetector], run: Run, tmp_path: Path
) -> None:
    """Two flights of one run in one stream: the board's rows come all at once, the camera's frames one by one."""
    blob = SimBlobDetector(StaticPathProvider(StaticFilenameProvider("frames"), tmp_path), name="blob")

    documents = run(flown(detector(), blob, flights=2))

    found = {key: ranges(documents, key) for key in ("board-i0", "board-time_ns", "blob", "blob-sum")}
    assert len({tuple(part) for part in found.values()}) == 1, found
    starts, stops = zip(*found["blob"], strict=True)
    assert starts == (0, *stops[:-1]) and stops[-1] == 8
    assert documents.of("stop")[0]["num_events"] == {"primary": 8}
    with h5py.File(tmp_path / "counts.h5") as counts, h5py.File(tmp_path / "frames.h5") as frames:
        assert counts["board-i0"].shape == (8,) and frames["entry/data/data"].shape[0] == 8
        assert counts["board-i0"][:].tolist() == [1.5, 2.5, 3.5, 4.5] * 2


def test_a_dead_time_is_a_column_whose_source_is_its_formula(
    detector: Callable[..., StandardDetector], run: Run, tmp_path: Path
) -> None:
    device = detector(dead_times=[DeadTime("factor", "nonparalyzable", ["i0"], 0.1, seconds=1.0)])

    [descriptor] = run(flown(device)).of("descriptor")

    assert descriptor["data_keys"]["board-factor"]["source"] == (
        "nonparalyzable: n / m, n = m / (1 - m tau), m = board-i0 / 1 s, tau = 0.1 s"
    )
    with h5py.File(tmp_path / "counts.h5") as file:
        assert file["board-factor"][:] == pytest.approx([1 / (1 - 0.1 * rate) for rate in (1.5, 2.5, 3.5, 4.5)])
        assert file["board-i0"][:].tolist() == [1.5, 2.5, 3.5, 4.5]


def test_rows_that_are_missing_fail_the_plan_and_are_told_at_its_end(
    detector: Callable[..., StandardDetector], engine: RunEngine, documents: Any, caplog: pytest.LogCaptureFixture
) -> None:
    device = detector(rows=6)

    def plan() -> Any:
        yield from ensure_connected(device)
        yield from bps.stage(device, wait=True)
        yield from bps.prepare(device, TriggerInfo(number_of_events=6, exposure_timeout=0.6), wait=True)
        yield from bps.open_run()
        yield from bps.declare_stream(device, name="primary", collect=True)
        yield from bps.kickoff(device, wait=True)
        try:
            yield from bps.complete(device, wait=True)
        except FailedStatus as error:
            assert isinstance(error.__cause__, TimeoutError)
        yield from bps.collect(device, name="primary", return_payload=False)
        yield from bps.close_run()
        yield from bps.unstage(device, wait=True)

    with pytest.raises(FailedStatus) as caught, caplog.at_level(logging.ERROR, "epicsrs.bulk"):
        engine(plan(), documents.keep)

    assert type(caught.value.__cause__) is FlightDataError
    assert "6 rows wanted, 4 measured" in str(caught.value.__cause__)
    assert "6 rows wanted, 4 measured" in caplog.text
    assert ranges(documents, "board-i0") == [(0, 4)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"columns": [Column("absent:pv", "x")]}, "absent:pv"),
        ({"done": ("absent:pv", 0)}, "absent:pv"),
        (
            {"path_provider": StaticPathProvider(StaticFilenameProvider("x"), "/sys")},
            "/sys/x.h5: cannot be written",
        ),
    ],
)
def test_prepare_refuses_what_cannot_be_read_or_written(
    detector: Callable[..., StandardDetector], engine: RunEngine, options: dict[str, Any], words: str
) -> None:
    device = detector(io_timeout=0.3, **options)

    def plan() -> Any:
        yield from ensure_connected(device)
        yield from bps.stage(device, wait=True)
        yield from bps.prepare(device, TriggerInfo(number_of_events=4), wait=True)

    with pytest.raises(FailedStatus) as caught:
        engine(plan())

    assert isinstance(caught.value.__cause__, FlightError)
    assert words in str(caught.value.__cause__)


def test_a_detector_that_is_unstaged_in_flight_leaves_its_file_readable(
    board: Ioc, detector: Callable[..., StandardDetector], engine: RunEngine, tmp_path: Path
) -> None:
    device = detector(done=(board.pv("manual_busy"), 0))
    board.channel("manual_busy").put(0)

    def plan() -> Any:
        yield from ensure_connected(device)
        yield from bps.stage(device, wait=True)
        yield from bps.prepare(device, TriggerInfo(number_of_events=4), wait=True)
        yield from bps.open_run()
        yield from bps.declare_stream(device, name="primary", collect=True)
        yield from bps.kickoff(device, wait=True)
        board.channel("manual_busy").put(1)
        board.channel("fill.PROC").put(1)
        yield from bps.unstage(device, wait=True)
        yield from bps.close_run()

    engine(plan())

    board.channel("manual_busy").put(0)
    with h5py.File(tmp_path / "counts.h5") as file:
        assert file["board-i0"][:].tolist() == [1.5, 2.5, 3.5, 4.5]


def test_rows_from_before_an_ioc_has_died_are_announced_and_in_the_file(
    detector: Callable[..., StandardDetector],
    engine: RunEngine,
    documents: Any,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The second of two flights does not end."""
    mortal = Ioc(NETWORK.iocs[2], tmp_path_factory.mktemp("mortal"), [Path(__file__).parent / "records.db"])
    mortal.start()
    i0, fill, busy = mortal.channel("i0"), mortal.channel("fill.PROC"), mortal.channel("manual_busy")
    mortal.channel("i0_source").put([1.5, 2.5])
    device = detector(
        columns=[Column(i0.pv, "i0")], times=RecordTime(i0.pv), done=(busy.pv, 0), io_timeout=0.5, hinted=[]
    )

    def flight() -> Any:
        yield from bps.prepare(device, TriggerInfo(number_of_events=2, exposure_timeout=2.0), wait=True)
        if not documents.of("descriptor"):
            yield from bps.open_run()
            yield from bps.declare_stream(device, name="primary", collect=True)
        yield from bps.kickoff(device, wait=True)
        busy.put(1)
        yield from bps.complete(device, group="flight")

    @bpp.finalize_decorator(lambda: bps.unstage(device, wait=True))
    def plan() -> Any:
        yield from ensure_connected(device)
        yield from bps.stage(device, wait=True)
        yield from flight()
        fill.put(1)
        busy.put(0)
        yield from bps.wait("flight")
        yield from bps.collect(device, name="primary", return_payload=False)
        yield from flight()
        mortal.kill()
        yield from bps.wait("flight")

    watch = Stopwatch()
    with pytest.raises(FailedStatus) as caught:
        engine(plan(), documents.keep)

    assert watch.elapsed < 15.0
    # What bluesky tells is that rows are missing, or that no PV answers at the end.
    assert isinstance(caught.value.__cause__, TimeoutError | FlightError)
    assert ranges(documents, "board-i0") == [(0, 2)]
    assert documents.of("stop")[0]["exit_status"] == "fail"
    with h5py.File(tmp_path / "counts.h5") as file:
        assert file["board-i0"][:].tolist() == [1.5, 2.5]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"columns": []}, ValueError, "at least one column"),
        ({"columns": [Column("X", "a"), Column("Y", "a")]}, ValueError, "two columns are called 'a'"),
        ({"io_timeout": -1.0}, ValueError, "io_timeout is positive"),
        ({"rows": -1}, ValueError, "-1 is no number of rows"),
    ],
)
def test_a_bad_data_logic_is_refused_when_it_is_made(
    detector: Callable[..., StandardDetector], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        detector(**options)


def test_an_ophyd_async_with_other_data_logics_is_named(
    detector: Callable[..., StandardDetector], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(DetectorDataLogic, "prepare_unbounded")

    with pytest.raises(ImportError, match=r"ophyd-async 0\.21, .*; those of \d.* \(bluesky/ophyd-async#1408\)"):
        detector()


def test_without_ophyd_async_all_else_works() -> None:
    program = (
        "import sys\n"
        "sys.modules['ophyd_async'] = None\n"
        "from epicsrs_bulk import *\n"
        "import epicsrs_bulk\n"
        "try:\n"
        "    epicsrs_bulk.BulkWaveformDataLogic\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )

    run = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)

    assert run.stderr == ""
    assert run.stdout == "BulkWaveformDataLogic needs ophyd-async; pip install 'epicsrs-bulk[async]' brings it\n"
