"""Which readings do not belong to one acquisition."""

import math
from typing import Any

import pytest

from deadline import until
from epicsrs_bulk import BulkRead, bulk_read, incoherent
from ioc import Ioc


@pytest.fixture
def set_of_four(board: Ioc) -> Any:
    """Four waveforms, written together; a test writes into one of them again."""
    names = ("i0_source", "it_source", "encoder_source", "clock_source")
    channels = {name: board.channel(name) for name in names}
    for channel in channels.values():
        channel.put([1, 2, 3])

    def read(**again: Any) -> BulkRead:
        for name, values in again.items():
            before = channels[name].get().timestamp_ns

            def later(name: str = name, values: Any = values, before: int = before) -> bool:
                channels[name].put(values)
                return channels[name].get().timestamp_ns > before + 60_000_000

            until(later)
        return bulk_read(channels.values())

    return read


def test_readings_of_one_acquisition_go_together(set_of_four: Any) -> None:
    readings = set_of_four()

    first = min(reading.timestamp_ns for reading in readings.values())
    assert incoherent(readings, spread=5.0, since_ns=first, same_count=True) == {}
    assert incoherent(readings) == {}


def test_one_record_that_is_later_than_the_others_is_named(board: Ioc, set_of_four: Any) -> None:
    readings = set_of_four(it_source=[1, 2, 3])
    late = board.pv("it_source")
    others = sorted(reading.timestamp_ns for reading in readings.values())[:3]
    assert others[-1] - others[0] < 50_000_000

    problems = incoherent(readings, spread=0.05)

    assert list(problems) == [late]
    assert problems[late].startswith(f"{late}: processed 0.") and problems[late].endswith(" s after the others")


def test_of_two_the_older_one_is_named(board: Ioc, set_of_four: Any) -> None:
    set_of_four(i0_source=[1, 2, 3])
    old = board.pv("forgotten")

    problems = incoherent(bulk_read([board.pv("i0_source"), old]), spread=0.01)

    assert list(problems) == [old] and problems[old].endswith(" s before the others")


def test_a_record_from_before_the_start_is_named(board: Ioc, set_of_four: Any) -> None:
    readings = set_of_four(it_source=[4, 5, 6])
    began = readings[board.pv("it_source")].timestamp_ns

    problems = incoherent(readings, since_ns=began)

    assert list(problems) == [board.pv(name) for name in ("i0_source", "encoder_source", "clock_source")]
    assert all("s too early" in line for line in problems.values())


def test_another_length_is_named(board: Ioc, set_of_four: Any) -> None:
    problems = incoherent(set_of_four(encoder_source=[1, 2]), same_count=True)

    odd = board.pv("encoder_source")
    assert problems == {odd: f"{odd}: 2 elements, where most PVs have 3"}


def test_of_two_lengths_the_shorter_one_is_odd(board: Ioc) -> None:
    problems = incoherent(bulk_read([board.pv("spectrum"), board.pv("shorts")]), same_count=True)

    assert list(problems) == [board.pv("spectrum")]


def test_a_pv_that_failed_goes_with_nothing(board: Ioc) -> None:
    missing = board.pv("missing")
    readings = bulk_read([board.pv("steps"), missing], timeout=0.2)

    assert incoherent(readings) == {missing: str(readings.errors[missing])}


@pytest.mark.parametrize("spread", [-1.0, math.nan])
def test_a_bad_spread_is_refused(board: Ioc, spread: float) -> None:
    with pytest.raises(ValueError, match="spread"):
        incoherent(bulk_read([board.pv("steps")]), spread=spread)
