"""What bluesky does with a flyer in plans of every style, and that no row is lost without a word in any of them."""

from collections.abc import Callable
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import pytest
from bluesky.protocols import EventCollectable, WritesExternalAssets, WritesStreamAssets
from jsonschema import ValidationError

from epicsrs_bulk import Column, FlightDataError, FlightError, WaveformFlyer
from ioc import Ioc

Plan = Callable[..., Any]
Fly = Callable[..., WaveformFlyer]
Measure = Callable[..., None]
Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def three_rows(board: Ioc, measure: Measure) -> None:
    measure(clock=[1000] * 3, i0=[1.0, 2.0, 3.0], it=[4.0, 5.0, 6.0], encoder=[7, 8, 9])
    board.channel("abort").put(0)


def flight(device: Any, **collect: Any) -> Any:
    yield from bps.kickoff(device, wait=True)
    yield from bps.complete(device, wait=True)
    yield from bps.collect(device, **{"return_payload": False, **collect})
    yield from bps.close_run()


def kept_for_later(device: WaveformFlyer, run: Run, declared: Plan) -> bool:
    """Whether the next run is told that rows were not collected."""
    told = "were not collected" in str(run(declared(device), FlightError).error)
    device.discard()
    return told


def test_a_flat_flyer_in_bp_fly_is_refused_and_its_rows_are_kept(flyer: Fly, run: Run, declared: Plan) -> None:
    device = flyer()

    error = run(bp.fly([device]), AssertionError).error

    assert "Single nested data keys should be pre-declared" in str(error)
    assert kept_for_later(device, run, declared)


@pytest.mark.parametrize("name", [{}, {"name": "primary"}])
def test_a_declared_stream_is_collected_with_and_without_its_name(flyer: Fly, run: Run, name: dict[str, str]) -> None:
    device = flyer()

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.declare_stream(device, name="primary", collect=True)
        yield from flight(device, **name)

    [page] = run(plan()).of("event_page")

    assert page["data"]["i0"].tolist() == [1.0, 2.0, 3.0]


def test_a_payload_is_given_to_a_plan_that_asks_for_it(flyer: Fly, run: Run) -> None:
    device, payloads = flyer(), []

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.declare_stream(device, name="primary", collect=True)
        yield from bps.kickoff(device, wait=True)
        yield from bps.complete(device, wait=True)
        payloads.append((yield from bps.collect(device)))
        yield from bps.close_run()

    run(plan())

    [[page]] = payloads
    assert page["data"]["i0"].tolist() == [1.0, 2.0, 3.0]


def test_a_nested_flyer_is_not_for_declared_streams(board: Ioc, flyer: Fly, run: Run) -> None:
    """Refused before anything moves."""
    began = board.channel("start").get().timestamp_ns

    def plan() -> Any:
        device = flyer().nested()
        yield from bps.open_run()
        yield from bps.declare_stream(device, name="primary", collect=True)
        yield from flight(device)

    run(plan(), ValidationError)

    assert board.channel("start").get().timestamp_ns == began


def test_a_name_that_was_not_declared_is_refused_and_the_rows_are_kept(flyer: Fly, run: Run, declared: Plan) -> None:
    device = flyer()

    def plan() -> Any:
        yield from bps.open_run()
        yield from flight(device, name="primary")

    error = run(plan(), AssertionError).error

    assert "declare stream needs to be called first" in str(error)
    assert kept_for_later(device, run, declared)


def test_a_collect_of_single_events_is_refused_and_the_rows_come_all_the_same(flyer: Fly, run: Run) -> None:
    device = flyer()

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.declare_stream(device, name="primary", collect=True)
        yield from flight(device, stream=True)

    documents = run(plan(), RuntimeError)

    assert "no longer supported" in str(documents.error)
    assert [page["data"]["i0"].tolist() for page in documents.of("event_page")] == [[1.0, 2.0, 3.0]]
    assert documents.of("stop")[0]["exit_status"] == "fail"


def test_a_pv_that_fails_costs_its_own_column_only(board: Ioc, flyer: Fly, run: Run, declared: Plan) -> None:
    columns = [Column(board.pv("i0"), "i0"), Column(board.pv("undefined"), "broken")]

    documents = run(declared(flyer(columns=columns)), FlightDataError)

    [page] = documents.of("event_page")
    assert board.pv("undefined") in str(documents.error)
    assert page["data"]["i0"].tolist() == [1.0, 2.0, 3.0] and page["data"]["i0_valid"].all()
    assert not page["data"]["broken_valid"].any()


def test_rows_are_counted_on_over_pages_of_one_collect(flyer: Fly, measure: Measure, run: Run) -> None:
    """Two flights, the first of which a pause has broken off."""
    device = flyer()

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.declare_stream(device, name="primary", collect=True)
        for _ in range(2):
            yield from bps.kickoff(device, wait=True)
            yield from bps.complete(device, wait=True)
            device.resume()
        yield from bps.collect(device, return_payload=False)
        yield from bps.close_run()

    documents = run(plan())

    assert [list(page["seq_num"]) for page in documents.of("event_page")] == [[1, 2, 3], [4, 5, 6]]
    assert documents.of("stop")[0]["num_events"] == {"primary": 6}


def test_it_answers_to_one_way_of_collecting_only(flyer: Fly) -> None:
    """Bluesky takes the first way that it finds, and leaves the rows of the others behind."""
    for device in (flyer(), flyer().nested()):
        for protocol in (EventCollectable, WritesStreamAssets, WritesExternalAssets):
            assert not isinstance(device, protocol), protocol
