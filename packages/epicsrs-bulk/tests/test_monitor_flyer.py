"""MonitorFlyer under a RunEngine: updates as they come, and on a grid."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.protocols import Collectable, Configurable, EventPageCollectable, Flyable, Pausable, Stageable, Stoppable
from bluesky.utils import RunEngineInterrupted

from deadline import Stopwatch, until
from epicsrs_bulk import (
    FlightDataError,
    FlightError,
    FlightStoppedError,
    MonitorFlyer,
    Trace,
    fast_event_page_validation,
)
from epicsrs_native import get_context
from ioc import NETWORK, Ioc

Documents = Any
Run = Callable[..., Documents]


@pytest.fixture(autouse=True)
def at_rest(board: Ioc) -> None:
    for record in ("position", "counter", "shutter", "probe_sim"):
        board.channel(record).put(0)


def listen(device: Any, steps: Callable[[], object], *, declare: bool = True) -> Any:
    """A plan that listens while the steps are taken."""
    yield from bps.open_run()
    if declare:
        yield from bps.declare_stream(device, name="primary", collect=True)
    yield from bps.kickoff(device, wait=True)
    steps()
    yield from bps.complete(device, wait=True)
    yield from bps.collect(device, return_payload=False)
    yield from bps.close_run()


def by_stream(documents: Documents) -> dict[str, dict[str, Any]]:
    """The one page of each stream."""
    names = {descriptor["uid"]: descriptor["name"] for descriptor in documents.of("descriptor")}
    return {names[page["descriptor"]]: page for page in documents.of("event_page")}


def test_it_is_all_that_bluesky_asks_of_a_flyer(board: Ioc) -> None:
    device = MonitorFlyer("monitor", [Trace(board.pv("position"), "position")], interval=0.1)

    for protocol in (Flyable, Collectable, EventPageCollectable, Stoppable, Pausable, Stageable, Configurable):
        assert isinstance(device, protocol), protocol
        assert isinstance(device.nested(), protocol), protocol


@pytest.mark.parametrize("protocol", ["ca", "pva"])
def test_each_update_is_a_row_of_its_pvs_stream(board: Ioc, run: Run, protocol: str) -> None:
    position, counter = board.channel("position"), board.channel("counter")
    device = MonitorFlyer(
        "monitor",
        [
            Trace(board.pv("position", protocol), "position", units="mm"),
            Trace(board.pv("counter", protocol), "counter", np.int32, fill=0),
        ],
    )
    stamps: list[int | None] = []

    def steps() -> None:
        for n in range(1, 31):
            position.put(n / 2)
            stamps.append(position.get().timestamp_ns)
            counter.put(n)

    began = time.time_ns()
    documents = run(listen(device, steps, declare=False))

    pages = by_stream(documents)
    assert documents.of("stop")[0]["num_events"] == {"position": 31, "counter": 31}
    page = pages["position"]
    assert page["data"]["position"].tolist() == [n / 2 for n in range(31)]
    assert page["data"]["position_time_ns"].tolist()[1:] == stamps
    assert page["timestamps"]["position"].tolist()[1:] == pytest.approx([ns / 1e9 for ns in stamps if ns], abs=1e-6)
    received = page["data"]["position_received_ns"]
    assert (received >= began).all() and (received <= time.time_ns()).all() and (np.diff(received) >= 0).all()
    for key in ("position_severity", "position_lost", "position_disconnects"):
        assert not page["data"][key].any(), key
    assert pages["counter"]["data"]["counter"].tolist() == list(range(31))
    assert pages["counter"]["data"]["counter"].dtype == np.int32


def test_what_is_described_is_what_comes(board: Ioc, run: Run) -> None:
    traces = [Trace(board.pv("position"), "position", units="mm"), Trace(board.pv("shutter"), "open", "?", fill=False)]

    for interval in (None, 0.01):
        documents = run(
            listen(MonitorFlyer("m", traces, interval=interval), lambda: None, declare=interval is not None)
        )
        keys = {descriptor["uid"]: descriptor["data_keys"] for descriptor in documents.of("descriptor")}
        for page in documents.of("event_page"):
            described = keys[page["descriptor"]]
            assert {key: values.dtype.str for key, values in page["data"].items()} == {
                key: described[key]["dtype_numpy"] for key in described
            }
            for values in (*page["data"].values(), *page["timestamps"].values()):
                assert not values.flags.writeable


def test_severities_are_those_of_the_updates(board: Ioc, run: Run) -> None:
    device = MonitorFlyer("monitor", [Trace(board.pv("position"), "position")])

    def steps() -> None:
        for value in (5.0, 2000.0, 6.0):
            board.channel("position").put(value)

    page = by_stream(run(listen(device, steps, declare=False)))["position"]

    assert page["data"]["position_severity"].tolist() == [0, 0, 2, 0]


@pytest.mark.parametrize("style", ["declared", "nested"])
def test_a_grid_holds_or_interpolates(board: Ioc, run: Run, style: str) -> None:
    position = board.pv("position")
    device = MonitorFlyer(
        "monitor",
        [
            Trace(position, "held"),
            Trace(position, "between", method="linear"),
            Trace(board.pv("shutter"), "open", np.int16, fill=-1),
        ],
        interval=0.01,
    )

    def steps() -> None:
        channel, shutter = board.channel("position"), board.channel("shutter")
        until(lambda: channel.put(channel.get().value + 1) or channel.get().value >= 60, 20.0)
        shutter.put("Open")
        until(lambda: channel.put(channel.get().value + 1) or channel.get().value >= 120, 20.0)

    plan = listen(device, steps) if style == "declared" else listen(device.nested(), steps, declare=False)
    documents = run(plan)

    [page] = documents.of("event_page")
    data = page["data"]
    rows = len(data["held"])
    assert set(np.diff(data["monitor_time_ns"])) == {10_000_000}
    assert documents.of("stop")[0]["num_events"] == {"primary": rows}
    assert data["held_valid"].all()
    assert (np.diff(data["held"]) >= 0).all() and 0 <= data["held"][0] <= 2 and 60 < data["held"][-1] <= 120
    known = data["between_valid"]
    assert known[: rows // 2].all()
    # Each step is 1: what lies between two updates is less than 1 above what is held.
    apart = data["between"][known] - data["held"][known]
    assert (apart >= 0).all() and (apart < 1).all() and apart.any()
    assert np.isnan(data["between"][~known]).all()
    switched = int(np.argmax(data["open"] == 1))
    assert data["open"].tolist() == [0] * switched + [1] * (rows - switched) and 0 < switched < rows


def test_bp_fly_takes_a_flyer_without_a_grid_as_it_is(board: Ioc, run: Run) -> None:
    documents = run(bp.fly([MonitorFlyer("monitor", [Trace(board.pv("position"), "position")])]))

    assert documents.of("stop")[0]["num_events"] == {"position": 1}


def test_the_descriptor_records_how_the_grid_was_made(board: Ioc, run: Run) -> None:
    traces = [
        Trace(board.pv("position"), "position", method="linear", max_gap=2.5),
        Trace(board.pv("counter"), "counter"),
    ]

    [descriptor] = run(listen(MonitorFlyer("monitor", traces, interval=0.5), lambda: None)).of("descriptor")

    assert descriptor["configuration"]["monitor"]["data"] == {
        "monitor_interval": 0.5,
        "monitor_position_method": "linear",
        "monitor_position_max_gap": 2.5,
        "monitor_counter_method": "hold",
    }


def test_invalid_values_are_not_valid_cells(board: Ioc, run: Run) -> None:
    """The probe turns INVALID in flight."""
    device = MonitorFlyer("monitor", [Trace(board.pv("probe"), "probe")], interval=0.002)
    probe = board.channel("probe")

    def steps() -> None:
        board.channel("probe_sim").put(1)
        until(lambda: probe.get().severity == 3)
        # At least one row of the grid lies after the change.
        turned = probe.get().timestamp_ns
        until(lambda: time.time_ns() > turned + 10_000_000)

    [page] = run(listen(device, steps)).of("event_page")

    severity, valid = page["data"]["probe_severity"], page["data"]["probe_valid"]
    assert set(severity) == {0, 3}
    assert (valid == (severity < 3)).all()
    assert np.isnan(page["data"]["probe"][~valid]).all()


# ---- what is lost is told


def test_what_was_sent_is_what_came_and_what_was_lost(board: Ioc, run: Run) -> None:
    counter = board.channel("counter")
    device = MonitorFlyer("monitor", [Trace(counter.pv, "counter", "i8", fill=0)], limit=100)

    def steps() -> None:
        for n in range(1, 301):
            counter.put(n)

    page = by_stream(run(listen(device, steps, declare=False)))["counter"]

    rows, lost = page["data"]["counter"].tolist(), page["data"]["counter_lost"]
    assert rows == list(range(201, 301))
    assert len(rows) + lost[-1] == 301 and (lost == 201).all()


def test_twenty_pvs_at_once_lose_nothing_and_do_not_hold_up_the_engine(
    board: Ioc, engine: RunEngine, documents: Documents
) -> None:
    channels = [board.channel(f"many{n}") for n in range(20)]
    for channel in channels:
        channel.put(0)
    device = MonitorFlyer("monitor", [Trace(channel.pv, f"many{n}") for n, channel in enumerate(channels)])
    stalls: list[float] = []
    flying = threading.Event()

    async def tick() -> None:
        while True:
            watch = Stopwatch()
            await asyncio.sleep(0.01)
            if flying.is_set():
                stalls.append(watch.elapsed - 0.01)

    def steps() -> None:
        for n in range(1, 301):
            assert get_context().put_many(channels, [n] * 20) == [None] * 20

    ticking = asyncio.run_coroutine_threadsafe(tick(), engine.loop)

    def plan() -> Any:
        with ThreadOf(steps) as writer:
            yield from bps.open_run()
            yield from bps.kickoff(device, wait=True)
            writer.start()
            flying.set()
            while writer.is_alive():
                yield from bps.sleep(0.01)
            flying.clear()
            yield from bps.complete(device, wait=True)
            yield from bps.collect(device, return_payload=False)
            yield from bps.close_run()

    with fast_event_page_validation():
        engine(plan(), documents.keep)
    ticking.cancel()

    pages = by_stream(documents)
    assert len(pages) == 20
    for n in range(20):
        data = pages[f"many{n}"]["data"]
        assert data[f"many{n}"].tolist() == list(range(301)) and not data[f"many{n}_lost"].any()
    assert stalls and max(stalls) < 0.25, "while it listens"


class ThreadOf(threading.Thread):
    """A thread whose end is waited for."""

    def __init__(self, function: Callable[[], object]) -> None:
        super().__init__(target=function)

    def __enter__(self) -> "ThreadOf":
        return self

    def __exit__(self, *error: object) -> None:
        if self.ident is not None:
            self.join()


def test_a_lost_connection_is_counted_and_nothing_is_known_across_it(
    engine: RunEngine, tmp_path_factory: pytest.TempPathFactory, documents: Documents
) -> None:
    mortal = Ioc(NETWORK.iocs[2], tmp_path_factory.mktemp("mortal"), [Path(__file__).parent / "records.db"])
    mortal.start()
    pv = mortal.pv("position")
    streams = MonitorFlyer("streams", [Trace(pv, "position")])
    grid = MonitorFlyer("grid", [Trace(pv, "position")], interval=0.01)

    def steps() -> None:
        channel = mortal.channel("position")
        channel.put(5.0)
        mortal.kill()
        until(lambda: not channel.connected)
        mortal.start()
        channel.connect(timeout=30.0)
        channel.put(7.0)

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.kickoff(streams, wait=True)
        yield from bps.kickoff(grid, wait=True)
        steps()
        for device in (streams, grid.nested()):
            yield from bps.complete(device, wait=True)
            yield from bps.collect(device, return_payload=False)
        yield from bps.close_run()

    engine(plan(), documents.keep)
    mortal.kill()

    pages = by_stream(documents)
    data = pages["position"]["data"]
    assert data["position"].tolist()[:2] == [0.0, 5.0] and data["position"][-1] == 7.0
    assert data["position_disconnects"].tolist()[:2] == [0, 0] and data["position_disconnects"][-1] == 1
    data = pages["primary"]["data"]
    down = ~data["position_valid"]
    assert down.sum() > 2 and np.isnan(data["position"][down]).all()
    assert set(data["position"][~down]) <= {0.0, 5.0, 7.0} and data["position_valid"][-1]
    assert sorted(set(data["position_disconnects"].tolist())) == [0, 1]


def test_a_pv_that_is_gone_at_the_end_is_named(tmp_path_factory: pytest.TempPathFactory, run: Run) -> None:
    mortal = Ioc(NETWORK.iocs[2], tmp_path_factory.mktemp("mortal"), [Path(__file__).parent / "records.db"])
    mortal.start()
    device = MonitorFlyer("monitor", [Trace(mortal.pv("position"), "position")], interval=0.01)
    channel = mortal.channel("position")
    channel.connect()

    def steps() -> None:
        mortal.kill()
        until(lambda: not channel.connected)

    documents = run(listen(device, steps), FlightDataError)

    assert documents.error.problems == (f"{channel.pv}: disconnected at the end",)
    [page] = documents.of("event_page")
    assert not page["data"]["position_valid"].any()


def test_a_clock_that_differs_is_named(board: Ioc, run: Run) -> None:
    device = MonitorFlyer("monitor", [Trace(board.pv("undated"), "undated")])

    documents = run(listen(device, lambda: board.channel("undated").put(3.0), declare=False), FlightDataError)

    assert f"{board.pv('undated')}: updates arrive" in str(documents.error)


def test_a_value_that_its_dtype_does_not_hold_costs_its_column_only(board: Ioc, run: Run) -> None:
    traces = [Trace(board.pv("position"), "position", "i4", fill=-1), Trace(board.pv("counter"), "counter")]

    device = MonitorFlyer("monitor", traces, interval=0.01)
    documents = run(listen(device, lambda: board.channel("position").put(0.5)), FlightDataError)

    assert documents.error.problems == (f"{board.pv('position')}: row 1 is 0.5, which int32 does not hold",)
    [page] = documents.of("event_page")
    assert set(page["data"]["position"]) == {-1} and not page["data"]["position_valid"].any()
    assert page["data"]["counter_valid"].all()


# ---- refused, broken off


@pytest.mark.parametrize(
    ("record", "words"),
    [("sample", "single numbers"), ("spectrum", "single numbers"), ("missing", "missing")],
)
def test_a_pv_that_cannot_be_listened_to_stops_the_flight(board: Ioc, record: str, words: str, run: Run) -> None:
    device = MonitorFlyer("monitor", [Trace(board.pv(record), "key")], io_timeout=0.3)

    error = run(bp.fly([device]), FlightError).error

    assert board.pv(record) in str(error) and words in str(error)


def test_what_came_before_an_abort_is_kept_once(board: Ioc, engine: RunEngine, documents: Documents) -> None:
    device = MonitorFlyer("monitor", [Trace(board.pv("counter"), "counter")])

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.kickoff(device, wait=True)
        for n in (1, 2, 3):
            board.channel("counter").put(n)
        yield from bps.pause()

    with pytest.raises(RunEngineInterrupted):
        engine(plan(), documents.keep)
    engine.abort()

    assert [page["data"]["counter"].tolist() for page in documents.of("event_page")] == [[0, 1, 2, 3]]
    assert documents.of("stop")[0]["exit_status"] == "abort"


def test_stop_ends_the_flight(board: Ioc) -> None:
    device = MonitorFlyer("monitor", [Trace(board.pv("counter"), "counter")])
    device.kickoff().wait(5.0)

    device.stop()

    with pytest.raises(FlightStoppedError, match="stop"):
        device.complete().wait(5.0)
    device.discard()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"traces": []}, ValueError, "at least one trace"),
        ({"interval": 0.0}, ValueError, "interval is positive, not 0.0"),
        ({"interval": float("nan")}, ValueError, "interval is positive, not nan"),
        ({"limit": 0}, ValueError, "limit is positive, not 0"),
        ({"traces": [Trace("X", "a"), Trace("Y", "a")]}, ValueError, "two columns are called 'a'"),
        ({"traces": [Trace("X", "a"), Trace("Y", "a_lost")]}, ValueError, "two columns are called 'a_lost'"),
        ({"traces": [Trace("X", "a")], "interval": 1.0, "time_key": "a"}, ValueError, "two columns are called 'a'"),
        ({"time_key": "time"}, ValueError, "'time' is reserved"),
    ],
)
def test_a_bad_flyer_is_refused_when_it_is_made(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        MonitorFlyer(**{"name": "monitor", "traces": [Trace("X", "a")], **options})


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"pv": ""}, TypeError, "a name, not ''"),
        ({"key": "time"}, ValueError, "X: the key 'time' is reserved"),
        ({"dtype": "i4"}, ValueError, "X: int32 has no NaN"),
        ({"dtype": "U5"}, TypeError, "X: a column holds"),
        ({"method": "cubic"}, ValueError, "X: the method is one of hold, linear"),
        ({"method": "linear", "dtype": "i4", "fill": 0}, ValueError, "X: int32 cannot be interpolated"),
        ({"max_gap": -1.0}, ValueError, "max_gap"),
    ],
)
def test_a_bad_trace_is_refused_when_it_is_made(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Trace(**{"pv": "X", "key": "x", **options})
