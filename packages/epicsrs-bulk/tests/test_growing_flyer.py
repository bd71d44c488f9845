"""GrowingFlyer under a RunEngine: rows during the flight, each once, across resets."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import h5py
import pytest
from bluesky import RunEngine
from bluesky.protocols import EventPageCollectable, Flyable, WritesStreamAssets
from bluesky.utils import FailedStatus

from deadline import Stopwatch, until
from epicsrs_bulk import Column, FlightDataError, FlightStoppedError, FlightTimeoutError, GrowingFlyer
from ioc import NETWORK, Ioc

Fill = Callable[..., None]
Run = Callable[..., Any]
Device = Callable[..., Any]


@pytest.fixture
def device(board: Ioc) -> Device:
    """A flyer of two waveforms that tests write more and more into, while a busy record says that they do."""

    def make(**options: Any) -> GrowingFlyer:
        usual: dict[str, Any] = {
            "columns": [Column(board.pv("growing"), "x"), Column(board.pv("growing_too"), "y", "i8", fill=-1)],
            "start": [(board.pv("manual_busy"), 1)],
            "done": (board.pv("manual_busy"), "Done"),
            "disarm": [(board.pv("abort"), 1), (board.pv("manual_busy"), 0)],
            "timeout": 20.0,
        }
        return GrowingFlyer("tail", **{**usual, **options})

    return make


@pytest.fixture(autouse=True)
def at_rest(board: Ioc) -> None:
    board.channel("manual_busy").put(0)
    board.channel("abort").put(0)
    for record in ("growing", "growing_too"):
        board.channel(record).put([9.0, 9.0])


@pytest.fixture
def fill(board: Ioc) -> Fill:
    """Let the waveforms hold that many rows of the n-th filling."""
    x, y = board.channel("growing"), board.channel("growing_too")

    def put(filling: int, rows: int, rows_of_y: int | None = None) -> None:
        x.put([100.0 * filling + row for row in range(rows)])
        y.put([100.0 * filling + row for row in range(rows if rows_of_y is None else rows_of_y)])

    return put


def collected(documents: Any, *keys: str) -> list[tuple[Any, ...]]:
    pages = documents.of("event_page")
    return [row for page in pages for row in zip(*(page["data"][key].tolist() for key in keys), strict=True)]


def plan_of(device: Any, write: Callable[[], None], period: float = 0.05) -> Any:
    """Collect while a thread writes."""
    yield from bps.open_run()
    yield from bps.declare_stream(device, name="primary", collect=True)
    yield from bps.kickoff(device, wait=True)
    writer = threading.Thread(target=write)
    writer.start()
    yield from bps.collect_while_completing([device], [device], flush_period=period, stream_name="primary")
    writer.join()
    yield from bps.close_run()


def test_rows_come_during_the_flight_each_once_and_across_a_reset(
    board: Ioc, device: Device, fill: Fill, engine: RunEngine, documents: Any
) -> None:
    lengths = [30, 20, 25]
    expected = [
        (filling, row, 100.0 * filling + row, 100 * filling + row)
        for filling, length in enumerate(lengths)
        for row in range(length)
    ]

    def write() -> None:
        for filling, length in enumerate(lengths):
            fill(filling, 0)
            for rows in range(1, length + 1):
                fill(filling, rows)
            # An IOC sends an array as it is at that moment: what is reset before was never sent.
            until(lambda: len(collected(documents, "x")) == sum(lengths[: filling + 1]), 20.0)  # noqa: B023
        board.channel("manual_busy").put(0)

    engine(plan_of(device(), write), documents.keep)

    assert len(documents.of("event_page")) > 2
    assert collected(documents, "tail_reset", "tail_index", "x", "y") == expected
    times = [time for (time,) in collected(documents, "tail_time_ns")]
    assert times == sorted(times)
    assert documents.of("stop")[0]["num_events"] == {"primary": sum(lengths)}
    assert documents.of("stop")[0]["exit_status"] == "success"


def test_what_is_described_is_what_comes(board: Ioc, device: Device, fill: Fill, run: Run) -> None:
    def write() -> None:
        fill(0, 0)
        fill(0, 3)
        board.channel("manual_busy").put(0)

    flyer = device()
    documents = run(plan_of(flyer, write))

    for protocol in (Flyable, EventPageCollectable):
        assert isinstance(flyer, protocol)
    assert not isinstance(flyer, WritesStreamAssets)
    [descriptor] = documents.of("descriptor")
    keys = ["tail_time_ns", "tail_index", "tail_reset", "x", "x_valid", "y", "y_valid"]
    assert list(descriptor["data_keys"]) == keys
    for page in documents.of("event_page"):
        assert {key: values.dtype.str for key, values in page["data"].items()} == {
            key: described["dtype_numpy"] for key, described in descriptor["data_keys"].items()
        }
        assert page["timestamps"]["x"].tolist() == pytest.approx(page["data"]["tail_time_ns"] / 1e9)
    assert descriptor["data_keys"]["y"]["source"] == "ca://" + board.pv("growing_too")


def test_rows_of_a_file_are_announced_as_they_come(
    board: Ioc, device: Device, fill: Fill, tmp_path: Path, engine: RunEngine, documents: Any
) -> None:
    flyer = device().stored_in(tmp_path)

    def announced() -> int:
        return max((doc["indices"]["stop"] for doc in documents.of("stream_datum")), default=0)

    def write() -> None:
        fill(0, 0)
        fill(0, 4)
        until(lambda: announced() == 4)
        fill(0, 10)
        until(lambda: announced() == 10)
        fill(1, 2)
        board.channel("manual_busy").put(0)

    engine(plan_of(flyer, write), documents.keep)

    ranges = [tuple(doc["indices"].values()) for doc in documents.of("stream_datum")]
    assert sorted(set(ranges)) == [(0, 4), (4, 10), (10, 12)]
    with h5py.File(flyer.path) as file:
        assert file["x"][:].tolist() == [*range(10), 100.0, 101.0]
        assert file["tail_reset"][:].tolist() == [0] * 10 + [1, 1]
        assert file["tail_index"][:].tolist() == [*range(10), 0, 1]


def test_without_an_end_of_its_own_it_follows_until_somebody_waits(
    board: Ioc, device: Device, fill: Fill, run: Run
) -> None:
    """Beside another flyer, which is the one that flies."""
    flyer = device(done=None, start=[])

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.declare_stream(flyer, name="primary", collect=True)
        yield from bps.kickoff(flyer, wait=True)
        fill(0, 0)
        fill(0, 5)
        yield from bps.collect(flyer, return_payload=False)
        fill(0, 8)
        yield from bps.complete(flyer, wait=True)
        yield from bps.collect(flyer, return_payload=False)
        yield from bps.close_run()

    assert collected(run(plan()), "tail_index", "x") == [(row, float(row)) for row in range(8)]


def test_a_column_that_stays_short_fails_the_flight_and_is_filled(
    board: Ioc, device: Device, fill: Fill, run: Run
) -> None:
    def write() -> None:
        fill(0, 0)
        fill(0, 3, rows_of_y=2)
        board.channel("manual_busy").put(0)

    documents = run(plan_of(device(), write), FlightDataError)

    assert f"{board.pv('growing_too')}: 2 rows at the end, where others have 3" in str(documents.error)


def test_rows_before_an_error_in_the_plan_are_kept(board: Ioc, device: Device, fill: Fill, run: Run) -> None:
    flyer = device()

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.declare_stream(flyer, name="primary", collect=True)
        yield from bps.kickoff(flyer, wait=True)
        fill(0, 0)
        fill(0, 3)
        raise LookupError("in the plan")

    documents = run(plan(), LookupError)

    assert collected(documents, "tail_index", "x", "y") == [(0, 0.0, 0), (1, 1.0, 1), (2, 2.0, 2)]
    assert board.channel("abort").get().value == 1


def test_a_value_that_the_column_does_not_hold_breaks_the_flight_off(
    board: Ioc, device: Device, fill: Fill, run: Run
) -> None:
    def write() -> None:
        fill(0, 0)
        fill(0, 1)
        board.channel("growing_too").put([0.0, 0.5])

    error = run(plan_of(device(), write), FlightStoppedError).error

    assert f"{board.pv('growing_too')}: row 1 is 0.5, which int64 does not hold" in str(error)
    assert board.channel("abort").get().value == 1


def test_rows_from_before_an_ioc_has_died_are_in_the_file(
    device: Device, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, engine: RunEngine, documents: Any
) -> None:
    mortal = Ioc(NETWORK.iocs[2], tmp_path_factory.mktemp("mortal"), [Path(__file__).parent / "records.db"])
    mortal.start()
    growing, busy = mortal.channel("growing"), mortal.pv("manual_busy")
    growing.put([])
    flyer = device(
        columns=[Column(growing.pv, "x")],
        start=[(busy, 1)],
        done=(busy, "Done"),
        disarm=[(mortal.pv("abort"), 1)],
        timeout=2.0,
        io_timeout=1.0,
        stop_timeout=0.5,
    ).stored_in(tmp_path)

    def write() -> None:
        growing.put([1.0, 2.0, 3.0])
        until(lambda: documents.of("stream_datum"), 10.0)
        mortal.kill()

    watch = Stopwatch()
    with pytest.raises(FailedStatus) as caught:
        engine(plan_of(flyer, write), documents.keep)

    assert watch.elapsed < 15.0
    assert type(caught.value.__cause__) is FlightTimeoutError and "disconnected" in str(caught.value.__cause__)
    assert {tuple(doc["indices"].values()) for doc in documents.of("stream_datum")} == {(0, 3)}
    with h5py.File(flyer.path) as file:
        assert file["x"][:].tolist() == [1.0, 2.0, 3.0]


def test_an_end_that_does_not_come_is_a_timeout(board: Ioc, device: Device, run: Run) -> None:
    run(plan_of(device(timeout=0.5), lambda: None), FlightTimeoutError)

    assert board.channel("abort").get().value == 1


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"columns": []}, ValueError, "at least one column"),
        ({"columns": [Column("X", "a"), Column("Y", "a")]}, ValueError, "two columns are called 'a'"),
        ({"columns": [Column("X", "a"), Column("X", "b")]}, ValueError, "two columns are called 'X'"),
        ({"columns": [Column("X", "tail_index")]}, ValueError, "two columns are called 'tail_index'"),
        ({"time_key": "tail_reset"}, ValueError, "two columns are called 'tail_reset'"),
        ({"timeout": 0.0}, ValueError, "timeout is positive, not 0.0"),
        ({"done": None, "timeout": "5"}, TypeError, "flight: timeout is a number of seconds"),
        ({"start": [(7, 0)]}, TypeError, "7 is no PV"),
    ],
)
def test_a_bad_flyer_is_refused_when_it_is_made(
    device: Device, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        device(**options)
