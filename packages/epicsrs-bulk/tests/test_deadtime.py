"""Dead-time corrections, against simulated detectors and against themselves."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import lambertw

from epicsrs_bulk import Corrected, icr_ocr, nonparalyzable, paralyzable, xspress3

TAU = 100e-9
TRUE = 2e6


@pytest.fixture(scope="module")
def arrivals() -> Any:
    """Moments at which a million photons come, at random, TRUE of them in a second on average."""
    return np.cumsum(np.random.default_rng(2).exponential(1.0 / TRUE, 1_000_000))


def test_a_simulated_nonparalyzable_detector_is_corrected_to_half_a_percent(arrivals: Any) -> None:
    counted, free = 0, 0.0
    for moment in arrivals.tolist():
        if moment >= free:
            counted += 1
            free = moment + TAU
    measured = counted / arrivals[-1]

    assert measured < 0.9 * TRUE
    assert nonparalyzable(measured, TAU).value == pytest.approx(len(arrivals) / arrivals[-1], rel=0.005)


def test_a_simulated_paralyzable_detector_is_corrected_to_half_a_percent(arrivals: Any) -> None:
    measured = (1 + (np.diff(arrivals) > TAU).sum()) / arrivals[-1]

    assert measured < 0.9 * TRUE
    assert paralyzable(measured, TAU).value == pytest.approx(len(arrivals) / arrivals[-1], rel=0.005)


@pytest.mark.parametrize(
    ("correct", "detect"),
    [
        (nonparalyzable, lambda n: n / (1.0 + n * TAU)),
        (paralyzable, lambda n: n * np.exp(-n * TAU)),
    ],
)
def test_what_a_detector_loses_comes_back(correct: Callable[..., Corrected], detect: Callable[[Any], Any]) -> None:
    """Up to n tau = 0.99; at 1 the paralyzable root is double, and half of the digits are lost by nature."""
    true = np.concatenate([np.linspace(0.0, 0.99, 500), np.logspace(-12, -2, 50)]) / TAU

    value, valid = correct(detect(true), TAU)

    assert valid.all()
    assert value == pytest.approx(true, rel=1e-9, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, st.integers(1, 20), elements=st.floats(0.0, 0.99999 / math.e)), st.floats(1e-12, 1e-3))
def test_the_root_is_that_of_lamberts_w(product: Any, tau: float) -> None:
    """N tau = -W0(-m tau); near the peak half of the digits are lost by nature."""
    value, valid = paralyzable(product / tau, tau)

    wanted = -lambertw(-(product / tau * tau)).real
    assert valid.all()
    assert value * tau == pytest.approx(wanted, rel=1e-7, abs=1e-14)
    away = wanted < 0.9
    assert (value * tau)[away] == pytest.approx(wanted[away], rel=1e-12, abs=1e-14)


def test_the_root_fulfils_its_equation_up_to_the_peak() -> None:
    product = np.concatenate([np.linspace(0.0, 1.0 / math.e, 1000), 1.0 / math.e - np.logspace(-16, -2, 50)])

    value, valid = paralyzable(product / TAU, TAU)
    root = value * TAU

    assert valid.all() and (root <= 1.0).all()
    assert root * np.exp(-root) == pytest.approx(product, rel=1e-12, abs=1e-15)


def test_beyond_the_models_range_is_nan_and_not_valid() -> None:
    measured = np.array([0.0, 0.999 / TAU, 1.0 / TAU, 2.0 / TAU, -1.0, math.nan, math.inf])
    value, valid = nonparalyzable(measured, TAU)
    assert valid.tolist() == [True, True, False, False, False, False, False]
    assert np.isnan(value).tolist() == (~valid).tolist()
    assert value[0] == 0.0

    peak = 1.0 / math.e / TAU
    value, valid = paralyzable(np.array([0.0, 0.999 * peak, 1.0001 * peak, 5 * peak, -1.0, math.nan]), TAU)
    assert valid.tolist() == [True, True, False, False, False, False]
    assert np.isnan(value).tolist() == (~valid).tolist()


def test_without_dead_time_nothing_changes() -> None:
    for correct in (nonparalyzable, paralyzable):
        assert correct([0, 5, 1_000_000], 0.0).value.tolist() == [0.0, 5.0, 1e6]


def test_columns_of_integers_and_single_numbers_are_taken() -> None:
    assert nonparalyzable(np.array([1000], np.uint32), 1e-6).value == pytest.approx([1000 / 0.999])
    assert nonparalyzable(1000, 1e-6).value.shape == ()
    assert paralyzable(np.zeros((2, 3)), 1e-6).valid.shape == (2, 3)


def test_input_over_output_rate() -> None:
    value, valid = icr_ocr([1000.0, 0.0, 10.0, 0.0, 5.0, math.nan], [800.0, 0.0, 0.0, 3.0, -1.0, 1.0])

    assert valid.tolist() == [True, True, False, False, False, False]
    assert value[:2].tolist() == [1.25, 1.0] and np.isnan(value[2:]).all()


def test_xspress3_factor() -> None:
    ticks = np.array([80_000_000, 80_000_000, 1000, 1000, 0, 1000])
    resets = np.array([4_000_000, 0, 500, 1000, 0, -5])
    events = np.array([1_000_000, 0, 100, 1, 0, 0])

    value, valid = xspress3(ticks, resets, events, 6.0)

    assert valid.tolist() == [True, True, False, False, False, False]
    assert value[0] == pytest.approx(80 / (80 - 4 - 6)) and value[1] == 1.0
    assert np.isnan(value[2:]).all()


def test_one_width_for_each_column_and_shapes_that_go_together() -> None:
    assert xspress3(1000, [0, 100], 10, 5.0).value.shape == (2,)
    with pytest.raises(ValueError, match="shape"):
        xspress3([1, 2, 3], [1, 2], 0, 5.0)


@pytest.mark.parametrize(
    ("dead_time", "error"),
    [(-1e-9, ValueError), (math.nan, ValueError), (math.inf, ValueError), ("1", TypeError), (True, TypeError)],
)
def test_a_bad_dead_time_is_refused(dead_time: Any, error: type[Exception]) -> None:
    for refuse in (lambda: nonparalyzable([1.0], dead_time), lambda: paralyzable([1.0], dead_time)):
        with pytest.raises(error, match="dead_time"):
            refuse()
    with pytest.raises(error, match="event_width"):
        xspress3(1, 0, 0, dead_time)


def test_rates_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(TypeError, match="rates are numbers"):
        nonparalyzable(["a"], 1e-6)  # pyright: ignore[reportArgumentType]
