"""What a flight has left in its records, where it is missing or doubtful: the run fails, and the rest is kept."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deadline import Stopwatch, until
from epicsrs_bulk import Column, FlightDataError, WaveformFlyer
from ioc import Ioc

Failing = Callable[..., tuple[dict[str, Any], tuple[str, ...]]]
Fly = Callable[..., WaveformFlyer]
Measure = Callable[..., None]
Plan = Callable[..., Any]
Run = Callable[..., Any]

ROWS = 5


@pytest.fixture(autouse=True)
def five_rows(board: Ioc, measure: Measure) -> None:
    measure(
        clock=[100_000] * ROWS,
        i0=[1.5, 2.5, 3.5, 4.5, 5.5],
        it=[10.0, 20.0, 30.0, 40.0, 50.0],
        encoder=[-2, -1, 0, 1, 2],
    )


@pytest.fixture
def failing(run: Run, declared: Plan) -> Failing:
    """The page of a flight whose data is not complete, and what the error says of it."""

    def page_and_problems(device: Any, *steps: Callable[[], object]) -> tuple[dict[str, Any], tuple[str, ...]]:
        documents = run(declared(device, *steps), FlightDataError)
        assert documents.error.flyer == "board"
        [page], [stop] = documents.of("event_page"), documents.of("stop")
        assert stop["exit_status"] == "fail" and stop["num_events"] == {"primary": len(page["seq_num"])}
        return page, documents.error.problems

    return page_and_problems


def test_a_record_that_the_flight_did_not_process_is_named(board: Ioc, flyer: Fly, failing: Failing) -> None:
    device = flyer(columns=[Column(board.pv("i0"), "i0"), Column(board.pv("forgotten"), "old")])

    page, problems = failing(device)

    assert problems == (f"{board.pv('forgotten')}: not processed during the flight",)
    assert page["data"]["i0"].tolist() == [1.5, 2.5, 3.5, 4.5, 5.5] and page["data"]["i0_valid"].all()
    assert page["data"]["old"].tolist()[:3] == [1.0, 2.0, 3.0] and not page["data"]["old_valid"].any()


def test_a_record_that_was_set_up_before_may_be_old(board: Ioc, flyer: Fly, run: Run, declared: Plan) -> None:
    device = flyer(columns=[Column(board.pv("i0"), "i0"), Column(board.pv("forgotten"), "old", fresh=False)])

    [page] = run(declared(device)).of("event_page")

    assert page["data"]["old_valid"].tolist() == [True, True, True, False, False]


def test_less_than_what_was_asked_for_is_named(flyer: Fly, failing: Failing) -> None:
    page, problems = failing(flyer(rows=8))

    assert problems == ("8 rows wanted, 5 measured",)
    assert len(page["seq_num"]) == ROWS


def test_no_rows_at_all_is_an_error(flyer: Fly, measure: Measure, run: Run, declared: Plan) -> None:
    measure(i0=[], it=[], encoder=[], clock=[])

    documents = run(declared(flyer()), FlightDataError)

    assert str(documents.error) == "board: data missing or doubtful: no row was measured"
    assert not documents.of("event_page")
    assert documents.of("stop")[0]["exit_status"] == "fail"


def test_a_clock_shorter_than_the_data_leaves_rows_without_a_time_of_their_own(
    board: Ioc, flyer: Fly, measure: Measure, failing: Failing
) -> None:
    measure(clock=[100_000] * 3)

    page, problems = failing(flyer())

    assert problems == (f"{board.pv('clock')}: times for 3 of 5 rows",)
    assert page["data"]["board_time_ns_valid"].tolist() == [True, True, True, False, False]
    assert len(set(page["data"]["board_time_ns"].tolist()[2:])) == 1
    assert page["data"]["i0_valid"].all()


def test_a_value_that_its_dtype_does_not_hold_costs_its_column_only(
    board: Ioc, flyer: Fly, measure: Measure, failing: Failing
) -> None:
    measure(encoder=[0, 300, 2])
    i0, encoder = Column(board.pv("i0"), "i0"), Column(board.pv("encoder"), "encoder", np.int8, fill=0)

    page, problems = failing(flyer(columns=[i0, encoder]))

    assert problems == (f"{board.pv('encoder')}: row 1 is 300, which int8 does not hold",)
    assert page["data"]["i0_valid"].all() and not page["data"]["encoder_valid"].any()


def test_an_invalid_record_is_named(board: Ioc, flyer: Fly, failing: Failing) -> None:
    """A record that was never processed is INVALID by its UDF."""
    device = flyer(columns=[Column(board.pv("i0"), "i0"), Column(board.pv("undefined"), "bad", fresh=False)])

    page, problems = failing(device)

    assert problems == (f"{board.pv('undefined')}: the record says its value is INVALID",)
    assert page["data"]["i0_valid"].all() and not page["data"]["bad_valid"].any()


@pytest.fixture
def manual(board: Ioc, flyer: Fly) -> Fly:
    """A flyer whose flight a test makes itself, step by step."""

    def make(**options: Any) -> WaveformFlyer:
        return flyer(start=[], done=(board.pv("manual_busy"), "Done"), **options)

    return make


def test_records_that_come_in_after_done_are_waited_for_if_asked(
    board: Ioc, run: Run, manual: Fly, declared: Plan
) -> None:
    def late() -> None:
        board.channel("manual_busy").put("Counting")
        board.channel("manual_busy").put("Done")
        # The flyer has read by now what there was; that it goes on reading is what is tested.
        threading.Timer(0.2, lambda: board.channel("fill.PROC").put(1)).start()

    [page] = run(declared(manual(settle=5.0), late)).of("event_page")

    assert page["data"]["i0"].tolist() == [1.5, 2.5, 3.5, 4.5, 5.5]
    assert all(page["data"][f"{key}_valid"].all() for key in ("i0", "it", "encoder", "board_time_ns"))


def test_records_that_do_not_come_in_are_named_when_the_time_is_over(board: Ioc, manual: Fly, failing: Failing) -> None:
    def nothing() -> None:
        board.channel("manual_busy").put("Counting")
        board.channel("manual_busy").put("Done")

    watch = Stopwatch()
    page, problems = failing(manual(settle=0.3), nothing)

    assert 0.3 <= watch.elapsed <= 3.0
    assert not page["data"]["i0_valid"].any() and len(problems) == 4


def test_records_of_another_moment_are_named(board: Ioc, manual: Fly, failing: Failing) -> None:
    """All were processed during the flight, but one much later than the others."""
    it = board.channel("it")

    def apart() -> None:
        board.channel("manual_busy").put("Counting")
        board.channel("fill.PROC").put(1)
        before = it.get().timestamp_ns

        def later() -> bool:
            board.channel("it.PROC").put(1)
            return it.get().timestamp_ns > before + 200_000_000

        until(later)
        board.channel("manual_busy").put("Done")

    page, problems = failing(manual(spread=0.1), apart)

    [problem] = problems
    assert problem.startswith(f"{board.pv('it', 'pva')}: processed 0.") and problem.endswith(" s after the others")
    assert not page["data"]["it_valid"].any() and page["data"]["it"].tolist() == [10.0, 20.0, 30.0, 40.0, 50.0]
    assert page["data"]["i0_valid"].all() and page["data"]["encoder_valid"].all()
