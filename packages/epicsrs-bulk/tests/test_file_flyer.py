"""Flyers whose rows go into HDF5 files, under a RunEngine: what is written, and what the documents announce."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import h5py
import numpy as np
import pytest
from bluesky.protocols import (
    EventCollectable,
    EventPageCollectable,
    Flyable,
    Pausable,
    Stageable,
    Stoppable,
    WritesStreamAssets,
)
from event_model import ComposeStreamResource

from deadline import until
from epicsrs_bulk import FileFlyer, FlightStoppedError, MonitorFlyer, Trace, WaveformFlyer
from ioc import Ioc

Filled = Callable[[], bool]
Fly = Callable[..., WaveformFlyer]
Measure = Callable[..., None]
Plan = Callable[..., Any]
Run = Callable[..., Any]
Store = Callable[..., FileFlyer]

pytestmark = pytest.mark.usefixtures("three_rows")


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
    keys = [key + suffix for key in ("board_time_ns", "i0", "it", "encoder") for suffix in ("", "_valid")]
    assert list(descriptor["data_keys"]) == keys
    assert {key["external"] for key in descriptor["data_keys"].values()} == {"STREAM:"}
    assert {datum["seq_nums"]["start"] for datum in documents.of("stream_datum")} == {1}
    columns = documents.stored()
    assert columns["i0"].tolist() == [1.5, 2.5, 3.5]
    assert columns["it"].tolist()[:2] == [4.0, 5.0] and np.isnan(columns["it"][2])
    assert columns["it_valid"].tolist() == [True, True, False]
    assert columns["encoder"].tolist() == [-1, 0, 1]
    assert np.diff(columns["board_time_ns"]).tolist() == [1_000_000, 1_000_000]
    dtypes = {key: described["dtype_numpy"] for key, described in descriptor["data_keys"].items()}
    assert {key: values.dtype.str for key, values in columns.items()} == dtypes


def test_partial_collects_have_contiguous_indices(
    board: Ioc, endless_stored: Store, measure: Measure, run: Run, filled: Filled
) -> None:
    """Collects before there are rows, after one flight, and after another one of the same run."""
    device = endless_stored()

    def fly() -> Any:
        yield from bps.kickoff(device, wait=True)
        yield from bps.complete(device, group="flight")
        until(filled)
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

    assert documents.announced("i0") == [(0, 3), (3, 5)]
    assert [doc["seq_nums"] for doc in documents.of("stream_datum")][::4] == [
        {"start": 1, "stop": 4},
        {"start": 4, "stop": 6},
    ]
    assert documents.stored()["i0"].tolist() == [1.5, 2.5, 3.5, 7.0, 8.0]
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

    assert documents.announced("i0") == [(0, 3)]
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

    assert documents.announced("i0") == [(0, 2), (2, 3)]
    assert other.asked == [0, 2, 2, 3, 3]


def test_a_staged_flyer_is_disarmed_when_a_plan_of_several_detectors_dies(
    board: Ioc, endless_stored: Store, run: Run, filled: Filled
) -> None:
    device, other = endless_stored(), Other()

    def plan() -> Any:
        yield from bps.stage(device)
        yield from bps.open_run()
        yield from bps.declare_stream(device, other, name="primary", collect=True)
        yield from bps.kickoff(device, wait=True)
        yield from bps.complete(device, group="flight")
        until(filled)
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

    assert first.announced("i0") == second.announced("i0") == [(0, 3)]
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


def test_a_monitor_flyer_stores_its_grid(board: Ioc, tmp_path: Path, run: Run, declared: Plan) -> None:
    device = MonitorFlyer("ring", [Trace(board.pv("position"), "x")], interval=0.01).stored_in(tmp_path)

    documents = run(declared(device, lambda: board.channel("position").put(3.0)))

    columns = documents.stored()
    assert {len(values) for values in columns.values()} == {documents.of("stop")[0]["num_events"]["primary"]}
    assert set(np.diff(columns["ring_time_ns"])) <= {10_000_000}
    [descriptor] = documents.of("descriptor")
    assert descriptor["configuration"]["ring"]["data"]["ring_x_method"] == "hold"


def test_a_monitor_flyer_of_many_streams_has_no_file(board: Ioc, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="ring: a file holds one stream"):
        MonitorFlyer("ring", [Trace(board.pv("position"), "x")]).stored_in(tmp_path)
