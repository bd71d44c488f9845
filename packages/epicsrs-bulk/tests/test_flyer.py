"""WaveformFlyer under a RunEngine, against a counter board made of records."""

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
import pytest
from bluesky.protocols import Collectable, EventPageCollectable, Flyable, Pausable, Stageable, Stoppable

from epicsrs_bulk import (
    Column,
    ConstantInterval,
    FlightError,
    RecordTime,
    WaveformFlyer,
    bulk_read,
    fast_event_page_validation,
)
from ioc import Ioc

Plan = Callable[..., Any]
Fly = Callable[..., WaveformFlyer]
Measure = Callable[..., None]
Run = Callable[..., Any]

ROWS = 5


@pytest.fixture(autouse=True)
def five_rows(board: Ioc, measure: Measure) -> None:
    measure(
        clock=[100_000] * ROWS,
        i0=[1.5, 2.5, 3.5, 4.5, 5.5],
        it=[10.0, 20.0, 30.0, 40.0, 50.0],
        encoder=[-2, -1, 0, 1, 2],
        count=ROWS,
    )
    board.channel("abort").put(0)


def columns(page: dict[str, Any]) -> dict[str, list[Any]]:
    return {key: values.tolist() for key, values in page["data"].items()}


def test_it_is_all_that_bluesky_asks_of_a_flyer(flyer: Fly) -> None:
    device = flyer()

    for protocol in (Flyable, Collectable, EventPageCollectable, Stoppable, Pausable, Stageable):
        assert isinstance(device, protocol), protocol
        assert isinstance(device.nested(), protocol), protocol


@pytest.mark.parametrize("style", ["declared", "nested"])
def test_a_flight_is_one_valid_page(style: str, flyer: Fly, run: Run, declared: Plan) -> None:
    device = flyer()
    before = time.time()
    documents = run(bp.fly([device.nested()]) if style == "nested" else declared(device))

    assert [name for name, _ in documents] == ["start", "descriptor", "event_page", "stop"]
    [descriptor], [page], [stop] = (documents.of(kind) for kind in ("descriptor", "event_page", "stop"))
    assert descriptor["name"] == "primary"
    assert stop["exit_status"] == "success" and stop["num_events"] == {"primary": ROWS}
    assert list(page["seq_num"]) == [1, 2, 3, 4, 5] and len(set(page["uid"])) == ROWS
    assert set(page["data"]) == set(page["timestamps"]) == set(descriptor["data_keys"])
    assert columns(page) == {
        "board_time_ns": page["data"]["board_time_ns"].tolist(),
        "i0": [1.5, 2.5, 3.5, 4.5, 5.5],
        "it": [10.0, 20.0, 30.0, 40.0, 50.0],
        "encoder": [-2, -1, 0, 1, 2],
        **{f"{key}_valid": [True] * ROWS for key in ("board_time_ns", "i0", "it", "encoder")},
    }
    assert before - 1.0 <= page["timestamps"]["i0"][0] <= time.time()


def test_each_row_has_the_iocs_time_twice(board: Ioc, flyer: Fly, run: Run, declared: Plan) -> None:
    [page] = run(declared(flyer())).of("event_page")

    end = bulk_read([board.pv("clock")])[board.pv("clock")].timestamp_ns
    assert end is not None
    wanted = [end - n * 100_000_000 for n in (4, 3, 2, 1, 0)]
    assert page["data"]["board_time_ns"].tolist() == wanted
    for key in page["data"]:
        assert page["timestamps"][key].tolist() == pytest.approx([ns / 1e9 for ns in wanted], abs=1e-6)


def test_what_is_described_is_what_comes(board: Ioc, flyer: Fly, run: Run, declared: Plan) -> None:
    documents = run(declared(flyer()))

    [descriptor], [page] = documents.of("descriptor"), documents.of("event_page")
    dtypes = {key: values.dtype.str for key, values in page["data"].items()}
    assert dtypes == {key: described["dtype_numpy"] for key, described in descriptor["data_keys"].items()}
    assert descriptor["data_keys"]["it"] == {
        "source": board.pv("it", "pva"),
        "dtype": "number",
        "shape": [],
        "dtype_numpy": "<f8",
        "units": "counts",
        "object_name": "board",
    }
    assert descriptor["data_keys"]["i0"]["source"] == "ca://" + board.pv("i0")
    assert descriptor["object_keys"] == {"board": list(descriptor["data_keys"])}


def test_documents_cannot_be_changed_afterwards(flyer: Fly, measure: Measure, run: Run, declared: Plan) -> None:
    [first] = run(declared(flyer())).of("event_page")
    kept = columns(first)
    measure(i0=[-1.0] * ROWS)

    [second] = run(declared(flyer())).of("event_page")

    assert second["data"]["i0"].tolist() == [-1.0] * ROWS
    assert columns(first) == kept
    for array in (*first["data"].values(), *first["timestamps"].values()):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_two_flights_of_one_run_are_counted_on(flyer: Fly, run: Run) -> None:
    device = flyer()

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.declare_stream(device, name="rows", collect=True)
        for _ in range(2):
            yield from bps.kickoff(device, wait=True)
            yield from bps.complete(device, wait=True)
            yield from bps.collect(device, name="rows", return_payload=False)
        yield from bps.close_run()

    documents = run(plan())

    assert [list(page["seq_num"]) for page in documents.of("event_page")] == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]
    assert documents.of("stop")[0]["num_events"] == {"rows": 10}


def test_one_flyer_flies_in_run_after_run(flyer: Fly, run: Run, declared: Plan) -> None:
    device = flyer()

    for _ in range(3):
        documents = run(declared(device))
        assert documents.of("stop")[0]["num_events"] == {"primary": ROWS}


def test_short_columns_are_filled_and_say_so(flyer: Fly, measure: Measure, run: Run, declared: Plan) -> None:
    measure(it=[10.0, 20.0], encoder=[7, 8, 9])

    [page] = run(declared(flyer())).of("event_page")

    assert page["data"]["it"].tolist()[:2] == [10.0, 20.0] and np.isnan(page["data"]["it"][2:]).all()
    assert page["data"]["it_valid"].tolist() == [True, True, False, False, False]
    assert page["data"]["encoder"].tolist() == [7, 8, 9, -1, -1]
    assert page["data"]["encoder_valid"].tolist() == [True, True, True, False, False]
    assert page["data"]["i0_valid"].all()


@pytest.mark.parametrize("rows", [3, "count"])
def test_rows_beyond_what_was_asked_for_are_left_out(
    board: Ioc, rows: Any, flyer: Fly, measure: Measure, run: Run, declared: Plan
) -> None:
    measure(count=3)
    device = flyer(rows=board.pv("count") if rows == "count" else rows)

    [page] = run(declared(device)).of("event_page")

    assert page["data"]["i0"].tolist() == [1.5, 2.5, 3.5]
    assert list(page["seq_num"]) == [1, 2, 3]


def test_every_second_sample_after_the_first(board: Ioc, flyer: Fly, run: Run, declared: Plan) -> None:
    stamp = ConstantInterval(board.pv("i0"), 0.5)
    device = flyer(columns=[Column(board.pv("i0"), "i0", offset=1, stride=2)], times=stamp)

    [page] = run(declared(device)).of("event_page")

    assert page["data"]["i0"].tolist() == [2.5, 4.5]
    assert np.diff(page["data"]["board_time_ns"]).tolist() == [500_000_000]


def test_arming_comes_before_the_start(board: Ioc, flyer: Fly, run: Run, declared: Plan) -> None:
    arm = board.channel("arm")
    arm.put(0)

    run(declared(flyer(arm=[(arm.pv, 1)])))

    armed, began = arm.get(), board.channel("start").get()
    assert armed.value == 1
    assert armed.timestamp_ns is not None and began.timestamp_ns is not None
    assert armed.timestamp_ns <= began.timestamp_ns


def test_someone_else_may_start_the_flight(board: Ioc, flyer: Fly, run: Run) -> None:
    device = flyer(start=[], done=(board.pv("manual_busy"), "Done"), columns=[Column(board.pv("i0"), "i0")])

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.declare_stream(device, name="primary", collect=True)
        yield from bps.kickoff(device, wait=True)
        ended = yield from bps.complete(device, group="flight")
        assert not ended.done
        board.channel("manual_busy").put("Counting")
        board.channel("fill.PROC").put(1)
        board.channel("manual_busy").put("Done")
        yield from bps.wait("flight")
        yield from bps.collect(device, return_payload=False)
        yield from bps.close_run()

    [page] = run(plan()).of("event_page")

    assert page["data"]["i0"].tolist() == [1.5, 2.5, 3.5, 4.5, 5.5]


@pytest.mark.parametrize("fast", [False, True])
def test_ten_thousand_rows(
    flyer: Fly, measure: Measure, run: Run, declared: Plan, fast: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever has bluesky look at each value is told what would spare that."""
    random = np.random.default_rng(1)
    i0, it = random.normal(size=(2, 10_000))
    measure(i0=i0, it=it, encoder=np.arange(10_000), clock=np.full(10_000, 1000))

    with fast_event_page_validation() if fast else nullcontext():
        [page] = run(declared(flyer())).of("event_page")

    told = [record.getMessage() for record in caplog.records if record.name == "epicsrs.bulk"]
    assert len(told) == (0 if fast else 1)
    assert fast or ("board: bluesky looks at each of 80000 values" in told[0] and "stored_in" in told[0])
    assert (page["data"]["i0"] == i0).all() and (page["data"]["it"] == it).all()
    assert set(np.diff(page["data"]["board_time_ns"])) == {1_000_000}


# ---- kickoff refuses before anything moves


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"columns": [Column("absent:pv", "i0")]}, "absent:pv"),
        ({"done": ("absent:pv", 0)}, "absent:pv"),
        ({"arm": [("absent:pv", 0)]}, "absent:pv"),
        ({"disarm": [("absent:pv", 0)]}, "absent:pv"),
        ({"rows": "absent:pv"}, "absent:pv"),
        ({"times": RecordTime("absent:pv")}, "absent:pv"),
        ({"done": ("bad name \u00fc", 0)}, "bad name"),
    ],
)
def test_a_missing_pv_stops_the_flight_before_it_begins(
    board: Ioc, options: dict[str, Any], words: str, flyer: Fly, run: Run, declared: Plan
) -> None:
    began = board.channel("start").get().timestamp_ns
    device = flyer(io_timeout=0.3, **options)

    error = run(declared(device), FlightError).error

    assert words in str(error)
    assert board.channel("start").get().timestamp_ns == began


def test_a_pv_of_another_type_stops_the_flight_before_it_begins(
    board: Ioc, flyer: Fly, run: Run, declared: Plan
) -> None:
    began = board.channel("start").get().timestamp_ns
    device = flyer(columns=[Column(board.pv("names"), "key")])

    error = run(declared(device), FlightError).error

    assert isinstance(error.__cause__, TypeError)
    assert f"not started: {board.pv('names')}: " in str(error)
    assert board.channel("start").get().timestamp_ns == began


def test_after_a_refused_kickoff_the_next_one_flies(
    board: Ioc, flyer: Fly, measure: Measure, run: Run, declared: Plan
) -> None:
    measure(count=-1)
    device = flyer(rows=board.pv("count_source"))
    run(declared(device), FlightError)

    measure(count=2)
    documents = run(declared(device))

    assert documents.of("stop")[0]["num_events"] == {"primary": 2}


# ---- without ophyd


def test_without_ophyd_all_but_the_flyer_works(board: Ioc) -> None:
    program = (
        "import sys\n"
        "import epicsrs_bulk\n"
        "assert not {'ophyd', 'bluesky'} & set(sys.modules)\n"
        "sys.modules['ophyd'] = None\n"
        f"pv = {board.pv('steps')!r}\n"
        "print(epicsrs_bulk.bulk_read([pv])[pv].value)\n"
        "column, times = epicsrs_bulk.Column(pv, 'key'), epicsrs_bulk.RecordTime(pv)\n"
        "try:\n"
        "    epicsrs_bulk.WaveformFlyer('board', [column], times, done=(pv, 0), timeout=1.0)\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )

    run = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=30)

    assert run.stderr == ""
    assert run.stdout == "-42\nWaveformFlyer needs ophyd; pip install 'epicsrs-bulk[sync]' brings it\n"
