"""Flyers whose rows go into HDF5 files, under a RunEngine: the file, its documents, and what can go wrong with it."""

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import bluesky.plan_stubs as bps
import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.protocols import (
    EventCollectable,
    EventPageCollectable,
    Flyable,
    Pausable,
    Stageable,
    Stoppable,
    WritesStreamAssets,
)
from bluesky.utils import RunEngineInterrupted
from event_model import ComposeStreamResource

from deadline import until
from epicsrs_bulk import (
    Column,
    FileFlyer,
    FlightDataError,
    FlightError,
    FlightFileError,
    FlightStoppedError,
    MonitorFlyer,
    RecordTime,
    Trace,
    WaveformFlyer,
)
from ioc import Ioc

Documents = Any
Plan = Callable[..., Any]
Fly = Callable[..., WaveformFlyer]
Store = Callable[..., FileFlyer]
Measure = Callable[..., None]
Run = Callable[..., Documents]

KEYS = [f"{key}{suffix}" for key in ("board_time_ns", "i0", "it", "encoder") for suffix in ("", "_valid")]


@pytest.fixture(autouse=True)
def three_rows(board: Ioc, measure: Measure) -> None:
    measure(clock=[1000, 1000, 1000], i0=[1.5, 2.5, 3.5], it=[4.0, 5.0], encoder=[-1, 0, 1])
    board.channel("abort").put(0)
    board.channel("manual_busy").put(0)
    busy = board.channel("busy")
    until(lambda: busy.get().value == 0)


@pytest.fixture
def stored(flyer: Fly, tmp_path: Path) -> Store:
    def make(folder: Any = tmp_path, **options: Any) -> FileFlyer:
        device = flyer(**options).stored_in(folder)
        assert isinstance(device, FileFlyer)
        return device

    return make


@pytest.fixture
def endless(board: Ioc, stored: Store) -> Store:
    """Its flight never ends by itself: the start makes it busy, and has rows measured."""

    def make(**options: Any) -> FileFlyer:
        usual: dict[str, Any] = {
            "columns": [Column(board.pv("i0"), "i0")],
            "times": RecordTime(board.pv("i0")),
            "start": [(board.pv("manual_busy"), 1), (board.pv("fill.PROC"), 1)],
            "done": (board.pv("manual_busy"), 0),
            "disarm": [(board.pv("abort"), 1), (board.pv("manual_busy"), 0)],
        }
        return stored(**{**usual, **options})

    return make


def filled(board: Ioc) -> bool:
    return board.channel("i0").get().timestamp_ns > board.channel("manual_busy").get().timestamp_ns


def read(documents: Documents) -> dict[str, Any]:
    """The columns of a run, by nothing but its documents, as a reader of them does."""
    columns: dict[str, list[Any]] = {}
    resources = {doc["uid"]: doc for doc in documents.of("stream_resource")}
    for datum in documents.of("stream_datum"):
        resource_ = resources[datum["stream_resource"]]
        with h5py.File(unquote(urlparse(resource_["uri"]).path)) as file:
            part = file[resource_["parameters"]["dataset"]][datum["indices"]["start"] : datum["indices"]["stop"]]
        columns.setdefault(resource_["data_key"], []).append(part)
    return {key: np.concatenate(parts) for key, parts in columns.items()}


def indices(documents: Documents, key: str = "i0") -> list[tuple[int, int]]:
    """What the datums of one column announce, one after the other."""
    [resource_] = [doc for doc in documents.of("stream_resource") if doc["data_key"] == key]
    return [
        (datum["indices"]["start"], datum["indices"]["stop"])
        for datum in documents.of("stream_datum")
        if datum["stream_resource"] == resource_["uid"]
    ]


def test_it_is_a_flyer_of_files_and_never_of_pages_as_well(stored: Store, flyer: Fly) -> None:
    for protocol in (Flyable, WritesStreamAssets, Stoppable, Pausable, Stageable):
        assert isinstance(stored(), protocol), protocol
    for protocol in (EventPageCollectable, EventCollectable):
        assert not isinstance(stored(), protocol), protocol
    assert not isinstance(flyer(), WritesStreamAssets)


def test_a_flight_is_a_file_that_documents_announce(stored: Store, run: Run, declared: Plan) -> None:
    device = stored()

    documents = run(declared(device))

    kinds = ["start", "descriptor", *["stream_resource"] * 8, *["stream_datum"] * 8, "stop"]
    assert [name for name, _ in documents] == kinds
    [descriptor], [stop] = documents.of("descriptor"), documents.of("stop")
    assert stop["exit_status"] == "success" and stop["num_events"] == {"primary": 3}
    assert list(descriptor["data_keys"]) == KEYS
    assert {key["external"] for key in descriptor["data_keys"].values()} == {"STREAM:"}
    assert {datum["seq_nums"]["start"] for datum in documents.of("stream_datum")} == {1}
    columns = read(documents)
    assert columns["i0"].tolist() == [1.5, 2.5, 3.5]
    assert columns["it"].tolist()[:2] == [4.0, 5.0] and np.isnan(columns["it"][2])
    assert columns["it_valid"].tolist() == [True, True, False]
    assert columns["encoder"].tolist() == [-1, 0, 1]
    assert np.diff(columns["board_time_ns"]).tolist() == [1_000_000, 1_000_000]
    dtypes = {key: described["dtype_numpy"] for key, described in descriptor["data_keys"].items()}
    assert {key: values.dtype.str for key, values in columns.items()} == dtypes


@pytest.mark.slow
def test_tiled_finds_the_columns(stored: Store, tmp_path: Path, run: Run, declared: Plan) -> None:
    """With the consolidator that TiledWriter has for this mimetype, and the adapter that a Tiled server reads with."""
    # It takes longer to import than all other tests of this file to run.
    from bluesky_tiled_plugins.writing.consolidators import HDF5Consolidator

    folder = tmp_path / "a folder with spaces"
    folder.mkdir()
    documents = run(declared(stored(folder=folder)))
    [descriptor] = documents.of("descriptor")

    for doc in documents.of("stream_resource"):
        consolidator = HDF5Consolidator(doc, descriptor)
        for datum in documents.of("stream_datum"):
            if datum["stream_resource"] == doc["uid"]:
                consolidator.consume_stream_datum(datum)
        found = consolidator.init_adapter().read()
        assert found.dtype.str == descriptor["data_keys"][doc["data_key"]]["dtype_numpy"]
        assert np.array_equal(found, read(documents)[doc["data_key"]], equal_nan=found.dtype.kind == "f")


def test_partial_collects_have_contiguous_indices(board: Ioc, endless: Store, measure: Measure, run: Run) -> None:
    """Collects before there are rows, after one flight, and after another one of the same run."""
    device = endless()

    def fly() -> Any:
        yield from bps.kickoff(device, wait=True)
        yield from bps.complete(device, group="flight")
        until(lambda: filled(board))
        yield from bps.collect(device, return_payload=False)
        board.channel("manual_busy").put(0)
        yield from bps.wait("flight")
        yield from bps.collect(device, return_payload=False)
        yield from bps.collect(device, return_payload=False)

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.declare_stream(device, name="primary", collect=True)
        yield from fly()
        measure(i0=[7.0, 8.0])
        yield from fly()
        yield from bps.close_run()

    documents = run(plan())

    assert indices(documents) == [(0, 3), (3, 5)]
    assert [doc["seq_nums"] for doc in documents.of("stream_datum")][::4] == [
        {"start": 1, "stop": 4},
        {"start": 4, "stop": 6},
    ]
    assert read(documents)["i0"].tolist() == [1.5, 2.5, 3.5, 7.0, 8.0]
    assert documents.of("stop")[0]["num_events"] == {"primary": 5}


def test_collect_while_completing_leaves_the_flight_alone(board: Ioc, stored: Store, run: Run) -> None:
    device = stored()

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.declare_stream(device, name="primary", collect=True)
        yield from bps.kickoff(device, wait=True)
        yield from bps.collect_while_completing([device], [device], flush_period=0.05, stream_name="primary")
        yield from bps.close_run()

    documents = run(plan())

    assert indices(documents) == [(0, 3)]
    assert board.channel("abort").get().value == 0


class Other:
    """Another detector of the stream, whose rows a test lets come."""

    parent = None
    name = "other"

    def __init__(self) -> None:
        self.index = self.announced = 0
        self.asked: list[int | None] = []
        self.bundle = ComposeStreamResource()(
            mimetype="application/x-hdf5", uri="file://localhost/other", data_key="frame", parameters={}
        )

    def describe_collect(self) -> dict[str, Any]:
        return {"frame": {"source": "other", "dtype": "array", "shape": [4, 4], "external": "STREAM:"}}

    def get_index(self) -> int:
        return self.index

    def collect_asset_docs(self, index: int | None = None) -> Iterator[Any]:
        self.asked.append(index)
        assert index is not None
        if index > self.announced:
            if not self.announced:
                yield "stream_resource", self.bundle.stream_resource_doc
            yield "stream_datum", self.bundle.compose_stream_datum({"start": self.announced, "stop": index})
            self.announced = index


def test_it_waits_for_the_slowest_detector_of_its_stream(stored: Store, run: Run) -> None:
    device, other = stored(), Other()

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.declare_stream(device, other, name="primary", collect=True)
        yield from bps.kickoff(device, wait=True)
        yield from bps.complete(device, wait=True)
        for index in (0, 2, 2, 3, 5):
            other.index = index
            yield from bps.collect(device, other, name="primary", return_payload=False)
        yield from bps.close_run()

    documents = run(plan())

    assert indices(documents) == [(0, 2), (2, 3)]
    assert other.asked == [0, 2, 2, 3, 3]


def test_a_staged_flyer_is_disarmed_when_a_plan_of_several_detectors_dies(board: Ioc, endless: Store, run: Run) -> None:
    device, other = endless(), Other()

    def plan() -> Any:
        yield from bps.stage(device)
        yield from bps.open_run()
        yield from bps.declare_stream(device, other, name="primary", collect=True)
        yield from bps.kickoff(device, wait=True)
        yield from bps.complete(device, group="flight")
        until(lambda: filled(board))
        raise LookupError("in the plan")

    run(plan(), LookupError)

    assert board.channel("abort").get().value == 1
    with pytest.raises(FlightStoppedError, match="unstaged"):
        device.complete().wait(5.0)
    with h5py.File(device.path) as file:
        assert file["i0"][:].tolist() == [1.5, 2.5, 3.5]
    device.discard()


def test_each_run_has_a_file_of_its_own(stored: Store, tmp_path: Path, run: Run, declared: Plan) -> None:
    device = stored()

    first, second = run(declared(device)), run(declared(device))

    assert indices(first) == indices(second) == [(0, 3)]
    assert len({doc["uri"] for doc in (*first.of("stream_resource"), *second.of("stream_resource"))}) == 2
    assert len(list(tmp_path.iterdir())) == 2 and device.path in tmp_path.iterdir()


def test_a_function_may_tell_the_folder(stored: Store, tmp_path: Path, run: Run, declared: Plan) -> None:
    folders = iter(["monday", "tuesday"])

    def folder() -> Path:
        made = tmp_path / next(folders)
        made.mkdir()
        return made

    device = stored(folder=folder)
    run(declared(device))
    run(declared(device))

    assert [len(list((tmp_path / day).iterdir())) for day in ("monday", "tuesday")] == [1, 1]


# ---- pages or files


@pytest.mark.parametrize(
    ("rows", "options", "kind"),
    [
        (1666, {}, WaveformFlyer),
        (1667, {}, FileFlyer),
        (None, {}, FileFlyer),
        (10, {"above": 0}, FileFlyer),
        (0, {"above": 0}, WaveformFlyer),
        (10_000, {"above": 30_000}, WaveformFlyer),
    ],
)
def test_small_scans_stay_pages(
    flyer: Fly, tmp_path: Path, rows: int | None, options: dict[str, int], kind: type
) -> None:
    """Of three columns; how many rows a PV will tell is not known before."""
    assert type(flyer(rows=rows).stored_in(tmp_path, **options)) is kind


def test_bp_fly_refuses_files_before_anything_moves(board: Ioc, stored: Store, run: Run) -> None:
    assert not hasattr(stored(), "nested")


def test_a_monitor_flyer_stores_its_grid(board: Ioc, tmp_path: Path, run: Run, declared: Plan) -> None:
    device = MonitorFlyer("ring", [Trace(board.pv("position"), "x")], interval=0.01).stored_in(tmp_path)

    documents = run(declared(device, lambda: board.channel("position").put(3.0)))

    columns = read(documents)
    assert {len(values) for values in columns.values()} == {documents.of("stop")[0]["num_events"]["primary"]}
    assert set(np.diff(columns["ring_time_ns"])) <= {10_000_000}
    [descriptor] = documents.of("descriptor")
    assert descriptor["configuration"]["ring"]["data"]["ring_x_method"] == "hold"


def test_a_monitor_flyer_of_many_streams_has_no_file(board: Ioc, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="ring: a file holds one stream"):
        MonitorFlyer("ring", [Trace(board.pv("position"), "x")]).stored_in(tmp_path)


# ---- broken off


@pytest.mark.parametrize("how", ["abort", "stop", "halt"])
def test_an_interrupted_run_keeps_what_was_measured_once(
    board: Ioc,
    engine: RunEngine,
    endless: Store,
    how: str,
    declared: Plan,
    documents: Documents,
) -> None:
    def interrupt() -> None:
        until(lambda: filled(board))
        engine.request_pause()

    threading.Thread(target=interrupt).start()
    with pytest.raises(RunEngineInterrupted):
        engine(declared(endless()), documents.keep)
    assert board.channel("abort").get().value == 1, "a paused flight is disarmed"
    getattr(engine, how)()

    assert indices(documents) == [(0, 3)]
    assert read(documents)["i0"].tolist() == [1.5, 2.5, 3.5]
    assert documents.of("stop")[0]["num_events"] == {"primary": 3}


def test_ctrl_c_keeps_what_was_measured_once(board: Ioc, tmp_path: Path) -> None:
    program = Path(__file__).parent / "programs/interrupted_flight.py"
    log = tmp_path / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-u", program, board.prefix, tmp_path], stdout=output, stderr=output
        )
        try:
            until(lambda: "flying" in log.read_text() or process.poll() is not None, 60.0)
            until(lambda: filled(board))
            process.send_signal(signal.SIGINT)
            until(lambda: "deferred pause" in log.read_text() or process.poll() is not None, 20.0)
            # bluesky counts those only that come at a man's pace.
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
            process.send_signal(signal.SIGINT)
            process.wait(30.0)
        finally:
            process.kill()

    last = log.read_text().splitlines()[-1]
    assert last.startswith("{"), log.read_text()
    # Of one column, its validity, and the same of the times.
    assert json.loads(last) == {"rows": [1.5, 2.5, 3.5], "datums": 4, "disarmed": True, "exit": "abort"}


def test_a_resumed_plan_goes_on_in_the_same_file(
    board: Ioc, engine: RunEngine, endless: Store, declared: Plan, documents: Documents
) -> None:
    device = endless()

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.declare_stream(device, name="primary", collect=True)
        yield from bps.checkpoint()
        yield from bps.kickoff(device, wait=True)
        yield from bps.complete(device, wait=True)
        yield from bps.collect(device, return_payload=False)
        yield from bps.close_run()

    def interrupt() -> None:
        until(lambda: filled(board))
        engine.request_pause()

    threading.Thread(target=interrupt).start()
    with pytest.raises(RunEngineInterrupted):
        engine(plan(), documents.keep)
    before = board.channel("i0").get().timestamp_ns
    board.channel("i0_source").put([10.0, 20.0])

    def finish() -> None:
        until(lambda: board.channel("i0").get().timestamp_ns > before)
        board.channel("manual_busy").put(0)

    threading.Thread(target=finish).start()
    engine.resume()

    assert read(documents)["i0"].tolist() == [1.5, 2.5, 3.5, 10.0, 20.0]
    assert documents.of("stop")[0]["num_events"] == {"primary": 5}


@pytest.mark.parametrize("when", ["flying", "completing"])
def test_an_error_in_the_plan_keeps_what_was_measured_once(board: Ioc, run: Run, endless: Store, when: str) -> None:
    device = endless()

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.declare_stream(device, name="primary", collect=True)
        yield from bps.kickoff(device, wait=True)
        if when == "completing":
            yield from bps.complete(device, group="flight")
        until(lambda: filled(board))
        raise LookupError("in the plan")

    documents = run(plan(), LookupError)

    assert indices(documents) == [(0, 3)]
    assert read(documents)["i0"].tolist() == [1.5, 2.5, 3.5]
    assert board.channel("abort").get().value == 1


def test_doubtful_data_fails_the_plan_and_is_in_the_file(board: Ioc, stored: Store, run: Run, declared: Plan) -> None:
    columns = [Column(board.pv("i0"), "i0"), Column(board.pv("forgotten"), "old")]

    documents = run(declared(stored(columns=columns)), FlightDataError)

    assert read(documents)["i0"].tolist() == [1.5, 2.5, 3.5]
    assert not read(documents)["old_valid"].any()


def test_what_no_status_could_tell_is_logged(
    board: Ioc, endless: Store, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """Bluesky drops all documents of a collect that raises."""
    device = endless()

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.declare_stream(device, name="primary", collect=True)
        yield from bps.kickoff(device, wait=True)
        until(lambda: filled(board))
        device.stop()
        yield from bps.collect(device, return_payload=False)
        yield from bps.close_run()

    with caplog.at_level(logging.ERROR, "epicsrs.bulk"):
        documents = run(plan())

    assert indices(documents) == [(0, 3)]
    assert [record.message for record in caplog.records] == ["board: broken off: stop() was called"]


def test_rows_that_nobody_announced_stop_the_next_run(
    engine: RunEngine, stored: Store, run: Run, declared: Plan
) -> None:
    device = stored()

    def forgetful() -> Any:
        yield from bps.open_run()
        yield from bps.kickoff(device, wait=True)
        yield from bps.complete(device, wait=True)
        yield from bps.close_run()

    engine(forgetful())
    documents = run(declared(device), FlightError)
    assert "were not collected" in documents.of("stop")[0]["reason"]

    device.discard()
    assert run(declared(device)).of("stop")[0]["num_events"] == {"primary": 3}


def test_out_of_turn_is_refused(stored: Store, run: Run) -> None:
    device = stored()

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.declare_stream(device, name="primary", collect=True)
        yield from bps.collect(device, return_payload=False)

    documents = run(plan(), FlightError)

    assert "nothing to collect; there was no flight" in documents.of("stop")[0]["reason"]


# ---- the file


def missing(tmp_path: Path) -> Path:
    return tmp_path / "absent"


def no_folder(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("")
    return tmp_path / "file"


def read_only(tmp_path: Path) -> Path:
    # Where root may not write either.
    return Path("/sys")


@pytest.mark.parametrize("folder", [missing, no_folder, read_only])
def test_a_folder_that_takes_no_file_stops_the_flight_before_it_begins(
    board: Ioc, tmp_path: Path, folder: Callable[[Path], Path], stored: Any, run: Run, declared: Plan
) -> None:
    began = board.channel("start").get().timestamp_ns
    device = stored(folder=folder(tmp_path))

    error = run(declared(device), FlightFileError).error

    assert isinstance(error, OSError)
    assert error.path == str(device.path) and error.path in str(error)
    assert board.channel("start").get().timestamp_ns == began


def test_a_disk_without_room_for_the_rows_stops_the_flight_before_it_begins(
    board: Ioc, stored: Store, tmp_path: Path, run: Run, declared: Plan
) -> None:
    began = board.channel("start").get().timestamp_ns

    error = run(declared(stored(rows=10**15)), FlightFileError).error

    assert "bytes, and the disk has" in str(error)
    assert board.channel("start").get().timestamp_ns == began
    assert not list(tmp_path.iterdir())


def test_after_a_refused_kickoff_the_next_one_flies(stored: Store, tmp_path: Path, run: Run, declared: Plan) -> None:
    device = stored(folder=tmp_path / "later")
    run(declared(device), FlightFileError)

    (tmp_path / "later").mkdir()

    assert run(declared(device)).of("stop")[0]["num_events"] == {"primary": 3}


def test_a_disk_that_is_full_fails_the_plan_and_loses_no_row(
    board: Ioc, stored: Store, measure: Measure, run: Run, declared: Plan
) -> None:
    """A limit on the size of files stands for the disk."""
    measure(i0=np.arange(20_000.0), it=np.arange(20_000.0), encoder=np.arange(20_000), clock=np.ones(20_000))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, limit[1]))
    try:
        documents = run(declared(stored()), FlightFileError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    error = documents.error
    assert "20000 rows were not written" in str(error) and error.path in str(error)
    assert error.page["data"]["i0"].tolist() == list(range(20_000))
    assert not documents.of("stream_datum")


def test_others_may_read_while_it_is_written(board: Ioc, endless: Store, engine: RunEngine, run: Run) -> None:
    device = endless()
    seen: list[list[float]] = []

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.declare_stream(device, name="primary", collect=True)
        for _ in range(2):
            yield from bps.kickoff(device, wait=True)
            assert device.path is not None
            with h5py.File(device.path, swmr=True) as file:
                seen.append(file["i0"][:].tolist())
                yield from bps.complete(device, group="flight")
                until(lambda: filled(board))
                board.channel("manual_busy").put(0)
                yield from bps.wait("flight")
                file["i0"].refresh()
                seen.append(file["i0"][:].tolist())
            yield from bps.collect(device, return_payload=False)
        yield from bps.close_run()

    run(plan())

    rows = [1.5, 2.5, 3.5]
    assert seen == [[], rows, rows, rows * 2]


def test_no_file_stays_open(stored: Store, run: Run, declared: Plan) -> None:
    device = stored()

    run(declared(device))

    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    open_files = [os.readlink(link) for link in links if os.path.lexists(link)]
    assert str(device.path) not in open_files


def test_stop_before_the_end_says_so_to_what_waits(board: Ioc, endless: Store) -> None:
    device = endless()
    device.describe_collect()
    device.kickoff().wait(5.0)
    ended = device.complete()
    until(lambda: filled(board))

    device.stop()

    with pytest.raises(FlightStoppedError):
        ended.wait(5.0)
    with h5py.File(device.path) as file:
        assert file["i0"][:].tolist() == [1.5, 2.5, 3.5]
    device.discard()
