"""Flights that are broken off: by their timeout, a stop, a pause, an abort, a plan out of turn, an IOC that dies."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import pytest
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted

from deadline import Stopwatch, until
from epicsrs_bulk import (
    ClockCounts,
    Column,
    FlightError,
    FlightStoppedError,
    FlightTimeoutError,
    RecordTime,
    WaveformFlyer,
)
from ioc import NETWORK, Ioc

Documents = Any
Plan = Callable[..., Any]
Filled = Callable[[], bool]
Fly = Callable[..., WaveformFlyer]
Measure = Callable[..., None]
Run = Callable[..., Documents]


@pytest.fixture(autouse=True)
def board_at_rest(board: Ioc, measure: Measure) -> None:
    measure(clock=[1000, 1000, 1000], i0=[1.0, 2.0, 3.0], it=[4.0, 5.0, 6.0], encoder=[7, 8, 9])
    board.channel("abort").put(0)
    board.channel("manual_busy").put(0)
    # A flight that the test before has left behind goes on by itself.
    busy = board.channel("busy")
    until(lambda: busy.get().value == 0)


@pytest.fixture
def endless(endless_options: dict[str, Any], flyer: Fly) -> Fly:
    """A flyer whose flight never ends by itself."""
    return lambda **options: flyer(**{**endless_options, **options})


def test_a_flight_that_does_not_end_fails_at_its_timeout_and_is_disarmed(
    board: Ioc, endless: Fly, run: Run, declared: Plan
) -> None:
    watch = Stopwatch()

    documents = run(declared(endless(timeout=0.6)), FlightTimeoutError)
    error = documents.error

    assert 0.55 <= watch.elapsed <= 2.0
    assert isinstance(error, TimeoutError)
    assert error.flyer == "board" and "0.6 s" in str(error) and board.pv("manual_busy") in str(error)
    assert board.channel("abort").get().value == 1
    [page], [stop] = documents.of("event_page"), documents.of("stop")
    assert page["data"]["i0"].tolist() == [1.0, 2.0, 3.0] and page["data"]["i0_valid"].all()
    assert stop["exit_status"] == "fail" and stop["num_events"] == {"primary": 3}


def test_a_start_that_goes_nowhere_is_told_from_a_flight_that_does_not_end(
    board: Ioc, flyer: Fly, run: Run, declared: Plan
) -> None:
    documents = run(declared(flyer(start=[(board.pv("dead_start"), 1)], timeout=0.4)), FlightTimeoutError)
    error = documents.error

    assert f"{board.pv('busy')} has been 'Done' all the time" in str(error)
    assert not documents.of("event_page"), "what was there before the flight is not its data"


def test_a_start_that_is_refused_breaks_the_flight_off(board: Ioc, flyer: Fly, run: Run, declared: Plan) -> None:
    documents = run(declared(flyer(start=[(board.pv("count"), "not a number")])), FlightError)
    error = documents.error

    assert board.pv("count") in str(error)
    assert board.channel("abort").get().value == 1


def test_stop_disarms_and_fails_what_waits_for_the_end(board: Ioc, endless: Fly) -> None:
    device = endless()
    device.kickoff().wait(5.0)
    ended = device.complete()

    watch = Stopwatch()
    device.stop()

    assert watch.elapsed <= 3.0
    assert board.channel("abort").get().value == 1
    with pytest.raises(FlightStoppedError, match=r"board: broken off: stop\(\) was called"):
        ended.wait(5.0)
    device.stop()
    device.discard()


def test_stop_says_when_it_could_not_disarm(board: Ioc, endless: Fly) -> None:
    device = endless(stop_timeout=0.3, io_timeout=0.3)
    device.kickoff().wait(5.0)
    ended = device.complete()

    with board.frozen():
        watch = Stopwatch()
        with pytest.raises(FlightError, match=r"could not be disarmed: no answer within 0\.3 s"):
            device.stop()
        assert watch.elapsed <= 1.3
        with pytest.raises(FlightStoppedError) as caught:
            ended.wait(5.0)

    assert caught.value.__notes__ == ["and it could not be disarmed: no answer within 0.3 s"]


def test_unstage_disarms(board: Ioc, engine: RunEngine, endless: Fly) -> None:
    device = endless()

    def plan() -> Any:
        yield from bps.stage(device)
        yield from bps.open_run()
        yield from bps.kickoff(device, wait=True)
        yield from bps.unstage(device)
        yield from bps.close_run()

    engine(plan())

    assert board.channel("abort").get().value == 1
    with pytest.raises(FlightStoppedError, match="unstaged"):
        device.complete().wait(5.0)
    device.discard()


@pytest.mark.parametrize("how", ["abort", "stop", "halt"])
def test_an_interrupted_run_disarms_and_keeps_what_was_measured_once(
    board: Ioc, engine: RunEngine, endless: Fly, how: str, declared: Plan, documents: Documents, filled: Filled
) -> None:
    device = endless()

    def interrupt() -> None:
        until(filled)
        engine.request_pause()

    threading.Thread(target=interrupt).start()
    with pytest.raises(RunEngineInterrupted):
        engine(declared(device), documents.keep)
    assert board.channel("abort").get().value == 1, "a paused flight is disarmed"
    getattr(engine, how)()

    [page], [stop] = documents.of("event_page"), documents.of("stop")
    assert page["data"]["i0"].tolist() == [1.0, 2.0, 3.0]
    assert stop["num_events"] == {"primary": 3}
    assert stop["exit_status"] == {"abort": "abort", "stop": "success", "halt": "abort"}[how]


@pytest.mark.parametrize("when", ["flying", "completing"])
def test_an_error_in_the_plan_disarms_and_keeps_what_was_measured_once(
    board: Ioc, run: Run, endless: Fly, when: str, filled: Filled
) -> None:
    device = endless()

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.declare_stream(device, name="primary", collect=True)
        yield from bps.kickoff(device, wait=True)
        if when == "completing":
            yield from bps.complete(device, group="flight")
        until(filled)
        raise LookupError("in the plan")

    documents = run(plan(), LookupError)

    [page], [stop] = documents.of("event_page"), documents.of("stop")
    assert [name for name, _ in documents][-2:] == ["event_page", "stop"]
    assert page["data"]["i0"].tolist() == [1.0, 2.0, 3.0]
    assert stop["exit_status"] == "fail"
    assert board.channel("abort").get().value == 1


def test_a_collect_before_the_end_breaks_off_and_says_so(board: Ioc, run: Run, endless: Fly, filled: Filled) -> None:
    device = endless()

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.declare_stream(device, name="primary", collect=True)
        yield from bps.kickoff(device, wait=True)
        until(filled)
        yield from bps.collect(device, return_payload=False)
        yield from bps.close_run()

    documents = run(plan(), FlightStoppedError)

    assert documents.of("event_page")[0]["data"]["i0"].tolist() == [1.0, 2.0, 3.0]
    assert documents.of("stop")[0]["exit_status"] == "fail"


def test_a_collect_while_completing_leaves_the_flight_alone(board: Ioc, run: Run, flyer: Fly) -> None:
    device = flyer()

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.declare_stream(device, name="primary", collect=True)
        yield from bps.kickoff(device, wait=True)
        yield from bps.collect_while_completing([device], [device], flush_period=0.05, stream_name="primary")
        yield from bps.close_run()

    documents = run(plan())

    assert [page["data"]["i0"].tolist() for page in documents.of("event_page")] == [[1.0, 2.0, 3.0]]
    assert board.channel("abort").get().value == 0


def test_a_resumed_plan_flies_again_and_keeps_both(
    board: Ioc, engine: RunEngine, endless: Fly, declared: Plan, documents: Documents, filled: Filled
) -> None:
    """Bluesky rewinds to the last checkpoint: the kickoff is repeated."""
    device = endless()

    def interrupt() -> None:
        until(filled)
        engine.request_pause()

    threading.Thread(target=interrupt).start()
    with pytest.raises(RunEngineInterrupted):
        engine(bp.fly([device.nested()]), documents.keep)
    before = board.channel("i0").get().timestamp_ns
    board.channel("i0_source").put([10.0, 20.0])

    def finish() -> None:
        until(lambda: board.channel("i0").get().timestamp_ns > before)
        board.channel("manual_busy").put(0)

    threading.Thread(target=finish).start()
    engine.resume()

    assert [page["data"]["i0"].tolist() for page in documents.of("event_page")] == [[1.0, 2.0, 3.0], [10.0, 20.0]]
    [stop] = documents.of("stop")
    assert stop["exit_status"] == "success" and stop["num_events"] == {"primary": 5}


def test_an_ioc_that_dies_in_flight_ends_it_within_its_timeouts(
    tmp_path_factory: pytest.TempPathFactory, run: Run
) -> None:
    mortal = Ioc(NETWORK.iocs[2], tmp_path_factory.mktemp("mortal"), [Path(__file__).parent / "records.db"])
    mortal.start()
    i0, busy, abort = (mortal.pv(name) for name in ("i0", "manual_busy", "abort"))
    device = WaveformFlyer(
        "board",
        [Column(i0, "i0")],
        RecordTime(i0),
        start=[(busy, 1)],
        done=(busy, 0),
        disarm=[(abort, 1)],
        timeout=1.0,
        io_timeout=0.5,
        stop_timeout=0.5,
    )

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.declare_stream(device, name="primary", collect=True)
        yield from bps.kickoff(device, wait=True)
        mortal.kill()
        yield from bps.complete(device, wait=True)

    watch = Stopwatch()
    documents = run(plan(), FlightTimeoutError)
    error = documents.error

    assert watch.elapsed <= 4.0
    assert "disconnected" in str(error)
    assert error.__notes__[0].startswith("and it could not be disarmed")
    assert [name for name, _ in documents] == ["start", "descriptor", "stop"]


# ---- out of turn


def test_out_of_turn_is_refused(flyer: Fly, endless: Fly) -> None:
    device = flyer()

    with pytest.raises(FlightError, match="complete without a kickoff"):
        device.complete()
    with pytest.raises(FlightError, match="nothing to collect"):
        asyncio.run(anext(aiter(device.collect_pages())))  # pyright: ignore[reportArgumentType]

    device = endless()
    device.kickoff().wait(5.0)
    with pytest.raises(FlightError, match="under way"):
        device.kickoff()
    with pytest.raises(FlightError, match="under way"):
        device.discard()
    device.stop()


def test_rows_that_nobody_collected_stop_the_next_kickoff(
    engine: RunEngine, run: Run, flyer: Fly, declared: Plan, forgetful: Plan
) -> None:
    """A plan that forgets to collect loses its rows, and bluesky calls it a success."""
    device = flyer()

    engine(forgetful(device))
    documents = run(declared(device), FlightError)

    assert "were not collected" in documents.of("stop")[0]["reason"]
    device.discard()
    assert run(declared(device)).of("stop")[0]["num_events"] == {"primary": 3}


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"columns": []}, ValueError, "at least one column"),
        ({"columns": [Column("X", "a"), Column("Y", "a")]}, ValueError, "two columns are called 'a'"),
        ({"columns": [Column("X", "a"), Column("Y", "a_valid")]}, ValueError, "two columns are called 'a_valid'"),
        ({"columns": [Column("X", "a")], "time_key": "a"}, ValueError, "two columns are called 'a'"),
        ({"time_key": "time"}, ValueError, "'time' is reserved"),
        ({"timeout": float("nan")}, ValueError, "timeout is positive, not nan"),
        ({"timeout": -1.0}, ValueError, "timeout is positive, not -1.0"),
        ({"timeout": "5"}, TypeError, "timeout is a number of seconds, not '5'"),
        ({"io_timeout": None}, TypeError, "io_timeout is a number of seconds, not None"),
        ({"stop_timeout": float("inf")}, ValueError, "stop_timeout is positive, not inf"),
        ({"rows": -1}, ValueError, "-1 is no number of rows"),
        ({"rows": 1.5}, ValueError, "1.5 is no number of rows"),
        ({"rows": True}, TypeError, "True is no number of rows"),
        ({"spread": -1.0}, ValueError, "spread is a number of seconds, not -1.0"),
        ({"settle": -1.0}, ValueError, "settle is positive, not -1.0"),
        ({"done": (7, 0)}, TypeError, "7 is no PV"),
        ({"arm": [(None, 0)]}, TypeError, "None is no PV"),
    ],
)
def test_a_bad_flyer_is_refused_when_it_is_made(
    flyer: Fly, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        flyer(**options)


def test_a_clock_may_be_a_column_as_well(board: Ioc, run: Run, flyer: Fly, declared: Plan) -> None:
    clock = board.pv("clock")
    columns = [Column(clock, "ticks", "u4", fill=0)]

    [page] = run(declared(flyer(columns=columns, times=ClockCounts(clock, 1e6)))).of("event_page")

    assert page["data"]["ticks"].tolist() == [1000, 1000, 1000]
