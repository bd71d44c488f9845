"""Time axes, from readings of the IOC."""

import math
from typing import Any

import numpy as np
import pytest

from epicsrs_bulk import ClockCounts, ConstantInterval, RecordTime, TimeWaveform, bulk_read
from epicsrs_bulk import PvReading as Reading
from ioc import Ioc


@pytest.fixture
def reading(board: Ioc) -> Any:
    """A reading of a waveform that holds what the test gives it."""

    def put(values: Any, record: str = "i0_source") -> Reading:
        channel = board.channel(record)
        channel.put(values)
        return bulk_read([channel])[channel.pv]

    return put


def test_record_time_gives_every_row_the_records_own(reading: Any) -> None:
    record = reading([1.0, 2.0])

    times = RecordTime(record.pv).times(record, 3)

    assert times.dtype == np.int64 and times.tolist() == [record.timestamp_ns] * 3


@pytest.mark.parametrize("rows", [0, 1, 2, 1000])
def test_a_constant_interval_starts_or_ends_at_the_record(reading: Any, rows: int) -> None:
    record = reading([1.0])

    before = ConstantInterval(record.pv, 0.001).times(record, rows)
    after = ConstantInterval(record.pv, 0.001, anchor="start").times(record, rows)

    assert len(before) == len(after) == rows
    assert before[-1:].tolist() == after[:1].tolist() == [record.timestamp_ns][:rows]
    assert set(np.diff(before)) | set(np.diff(after)) <= {1_000_000}


@pytest.mark.parametrize("seed", range(10))
def test_clock_counts_add_up_to_the_records_time(reading: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    counts = random.integers(1, 50_000, random.integers(1, 200))
    record = reading(counts, "clock_source")
    offset, stride = int(random.integers(0, 3)), int(random.integers(1, 4))
    sums = np.cumsum(counts[offset:])[stride - 1 :: stride]

    times = ClockCounts(record.pv, 1e6, offset=offset, stride=stride).times(record, 500)
    late = ClockCounts(record.pv, 1e6, anchor="start", offset=offset, stride=stride).times(record, 500)

    assert len(times) == len(late) == len(sums)
    assert times[-1:].tolist() == [record.timestamp_ns][: len(sums)]
    assert np.diff(times).tolist() == np.diff(late).tolist() == (np.diff(sums) * 1000).tolist()
    assert late.tolist() == [record.timestamp_ns + int(total) * 1000 for total in sums]


def test_rows_that_are_left_out_move_no_row(reading: Any) -> None:
    record = reading([1000] * 10, "clock_source")
    clock = ClockCounts(record.pv, 1e6)

    assert clock.times(record, 4).tolist() == clock.times(record, 10).tolist()[:4]


def test_a_running_sum_is_taken_as_it_is(reading: Any) -> None:
    record = reading([10, 20, 40, 50], "clock_source")

    times = ClockCounts(record.pv, 10.0, cumulative=True, offset=1, stride=2).times(record, 9)

    assert (times - record.timestamp_ns).tolist() == [-3_000_000_000, 0]


def test_a_clock_that_runs_backwards_is_refused_by_row(reading: Any) -> None:
    record = reading([10, 20, 5], "clock_source")

    with pytest.raises(ValueError, match=r"clock_source: .* backwards at row 2"):
        ClockCounts(record.pv, 10.0, cumulative=True).times(record, 3)


@pytest.mark.parametrize(("epoch", "zero"), [("unix", 0), ("epics", 631_152_000)])
def test_a_time_waveform_counts_from_its_epoch(reading: Any, epoch: Any, zero: int) -> None:
    record = reading([1.25, 2.5, 1_700_000_000.0])

    times = TimeWaveform(record.pv, epoch).times(record, 5)

    assert times.tolist() == [
        (zero + 1) * 10**9 + 250_000_000,
        (zero + 2) * 10**9 + 500_000_000,
        (zero + 17 * 10**8) * 10**9,
    ]


def test_a_time_waveform_may_count_from_its_record(reading: Any) -> None:
    record = reading([0.0, 0.001, 0.1, 7.0])

    times = TimeWaveform(record.pv, "start", offset=1, stride=2).times(record, 5)

    assert (times - record.timestamp_ns).tolist() == [1_000_000, 7_000_000_000]


def test_nanoseconds_survive_beside_a_unix_time(reading: Any) -> None:
    """A float64 of ns since 1970 has steps of 256."""
    record = reading([1e-9 * n for n in range(50)])

    times = TimeWaveform(record.pv, "start").times(record, 50)

    assert (times - record.timestamp_ns).tolist() == list(range(50))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_time_that_is_no_number_is_refused_by_row(reading: Any, bad: float) -> None:
    record = reading([1.0, bad])

    with pytest.raises(ValueError, match="i0_source: row 1"):
        TimeWaveform(record.pv).times(record, 2)


def test_strings_are_no_times(board: Ioc) -> None:
    record = bulk_read([board.pv("names")])[board.pv("names")]

    with pytest.raises(TypeError, match="names"):
        TimeWaveform(record.pv).times(record, 2)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: ConstantInterval("X", 0.0), ValueError, "X: interval is positive, not 0.0"),
        (lambda: ConstantInterval("X", math.nan), ValueError, "X: interval is positive, not nan"),
        (lambda: ConstantInterval("X", "1"), TypeError, "X: interval is a number, not '1'"),  # pyright: ignore[reportArgumentType]
        (lambda: ConstantInterval("X", 1.0, "middle"), ValueError, "X: anchor is one of start, end"),  # pyright: ignore[reportArgumentType]
        (lambda: ClockCounts("X", -5.0), ValueError, "X: frequency is positive"),
        (lambda: ClockCounts("X", 5.0, stride=0), ValueError, "X: offset is 0 or more and stride 1 or more"),
        (lambda: TimeWaveform("X", "1990"), ValueError, "X: epoch is one of unix, epics, start"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_a_bad_axis_is_refused_when_it_is_made(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()
