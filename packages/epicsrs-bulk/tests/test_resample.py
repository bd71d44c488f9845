"""Values brought onto a grid."""

import math
from typing import Any

import numpy as np
import pytest

from epicsrs_bulk import resample

S = 1_000_000_000
NOW = 1_800_000_000 * S


@pytest.mark.parametrize("seed", range(20))
def test_hold_is_the_last_value_before(seed: int) -> None:
    random = np.random.default_rng(seed)
    times = NOW + random.integers(0, 1000, random.integers(0, 60)) * 1000
    values = random.integers(0, 100, len(times)).astype(np.int32)
    grid = NOW + np.arange(-100, 1100) * 1000
    max_gap = None if seed % 2 else 50e-6

    result, known = resample(times, values, grid, max_gap=max_gap)

    assert result.dtype == np.int32
    for at, value, good in zip(grid, result, known, strict=True):
        earlier = [n for n in range(len(times)) if times[n] <= at]
        last = max(earlier, key=lambda n: (times[n], n), default=None)
        assert good == (last is not None and (max_gap is None or at - times[last] <= 50_000))
        assert not good or value == values[last]


@pytest.mark.parametrize("seed", range(20))
def test_linear_is_numpys_between_the_first_and_the_last(seed: int) -> None:
    random = np.random.default_rng(seed)
    times = NOW + np.cumsum(random.integers(1, 50, 40)) * 1000
    values = random.normal(size=40)
    grid = NOW + np.arange(-100, 2500) * 1000

    result, known = resample(times, values, grid, method="linear")

    assert known.tolist() == ((grid >= times[0]) & (grid <= times[-1])).tolist()
    wanted = np.interp((grid - NOW).astype(float), (times - NOW).astype(float), values)
    assert result[known] == pytest.approx(wanted[known], abs=1e-12)


def test_nanoseconds_count() -> None:
    """In float64 these times would be one and the same."""
    result, known = resample([NOW, NOW + 100], [0.0, 1.0], [NOW + 25, NOW + 50], method="linear")

    assert known.all() and result.tolist() == [0.25, 0.5]


def test_a_gap_is_unknown_but_for_its_ends() -> None:
    times, values, grid = [0, 1 * S, 5 * S], [0.0, 1.0, 5.0], np.arange(7) * S

    assert resample(times, values, grid, method="linear", max_gap=2.0)[1].tolist() == [1, 1, 0, 0, 0, 1, 0]
    assert resample(times, values, grid, method="hold", max_gap=2.0)[1].tolist() == [1, 1, 1, 1, 0, 1, 1]


@pytest.mark.parametrize("method", ["hold", "linear"])
def test_across_a_break_nothing_is_known(method: Any) -> None:
    times, values, grid = [0, 1 * S, 4 * S, 5 * S], [0.0, 1.0, 4.0, 5.0], np.arange(6) * S

    result, known = resample(times, values, grid, method=method, broken=[False, False, True, False])

    assert known.tolist() == [True, True, False, False, True, True]
    assert result[known].tolist() == [0.0, 1.0, 4.0, 5.0]


def test_of_two_values_at_one_time_the_later_one_counts() -> None:
    for method in ("hold", "linear"):
        result, known = resample([0, S, S, 2 * S], [0.0, 1.0, 7.0, 8.0], [S], method=method)
        assert known.all() and result.tolist() == [7.0]


def test_without_values_nothing_is_known() -> None:
    result, known = resample([], np.empty(0, np.float32), [0, 1])

    assert result.dtype == np.float32 and known.tolist() == [False, False]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"method": "cubic"}, ValueError, "one of hold, linear, not 'cubic'"),
        ({"max_gap": -1.0}, ValueError, "max_gap is a number of seconds"),
        ({"max_gap": math.nan}, ValueError, "max_gap is a number of seconds"),
        ({"values": [1.0]}, ValueError, "2 times, 1 values"),
        ({"broken": [True]}, ValueError, "1 breaks"),
        ({"times_ns": [0.0, 1.0]}, TypeError, "times_ns holds integers"),
        ({"grid_ns": [0.5]}, TypeError, "grid_ns holds integers"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        resample(**{"times_ns": [0, 1], "values": [0.0, 1.0], "grid_ns": [0], **options})
