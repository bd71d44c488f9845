"""Counts that a detector missed while it was busy: correction by the usual models. Raw columns stay as they are.

Every function gives a factor or a rate and, beside it, where that can be relied on: cells where a model has no
answer are NaN and not valid, and never a number.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from numpy.typing import ArrayLike, NDArray

    Model: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.float64]]

# The largest measured rate x dead time of a paralyzable detector, at a true rate of 1 / dead time.
_PEAK = 1.0 / math.e
# Newton's steps double the digits; near the peak the root is double and they only halve the error.
_STEPS = 60


class Corrected(NamedTuple):
    """A corrected column.

    Attributes:
        value: float64, of the shape of the arguments; NaN where the model has no answer.
        valid: bool, of the same shape; false where it is NaN.
    """

    value: NDArray[np.float64]
    valid: NDArray[np.bool_]


def nonparalyzable(rate: ArrayLike, dead_time: float) -> Corrected:
    """The true rate of a detector that is blind for ``dead_time`` after each event that it counts.

    ``n = m / (1 - m tau)``, for m tau < 1.

    Args:
        rate: Measured, in 1/s.
        dead_time: tau, in s.

    Raises:
        ValueError: ``dead_time`` is negative or not finite.
    """
    measured = _rates(rate)
    tau = _dead_time(dead_time)
    return _where(measured * tau < 1.0, lambda m: m / (1.0 - m * tau), measured)


def paralyzable(rate: ArrayLike, dead_time: float) -> Corrected:
    """The true rate of a detector whose blind time begins anew with each event, counted or not.

    ``m = n exp(-n tau)`` solved for the smaller of its two roots, ``n = -W0(-m tau) / tau``, for m tau <= 1/e. Beyond
    a true rate of 1/tau the measured rate falls again: what is given then is too low, and nothing in the measured rate
    tells so.

    Args:
        rate: Measured, in 1/s.
        dead_time: tau, in s.

    Raises:
        ValueError: ``dead_time`` is negative or not finite.
    """
    measured = _rates(rate)
    tau = _dead_time(dead_time)
    if tau == 0.0:
        return _where(np.ones(measured.shape, np.bool_), lambda m: m, measured)
    return _where(measured * tau <= _PEAK, lambda m: _smaller_root(m * tau) / tau, measured)


def icr_ocr(input_rate: ArrayLike, output_rate: ArrayLike) -> Corrected:
    """The factor by which a pulse processor's counts are too low: input over output count rate, or counts.

    1 where both are 0. The input rate is itself that of the fast channel, whose own dead time ``paralyzable`` corrects.

    Args:
        input_rate: ICR: events that came, in 1/s or per row.
        output_rate: OCR: events that were counted, in the same unit.

    Raises:
        ValueError: The shapes do not go together.
    """
    came, counted = np.broadcast_arrays(_rates(input_rate), _rates(output_rate))
    nothing = (came == 0.0) & (counted == 0.0)
    return _ratio(np.where(nothing, 1.0, came), np.where(nothing, 1.0, counted))


def xspress3(clock_ticks: ArrayLike, reset_ticks: ArrayLike, all_events: ArrayLike, event_width: float) -> Corrected:
    """The factor by which an Xspress3 channel's counts are too low: ``T / (T - R - A w)``.

    Args:
        clock_ticks: T, scaler 0: the exposure in ticks of 12.5 ns.
        reset_ticks: R, scaler 1: ticks spent on resets.
        all_events: A, scaler 3: events of any energy.
        event_width: w, in ticks: how long each event blocks the channel; 5 to 6 as a rule, set for each channel.

    Raises:
        ValueError: ``event_width`` is negative or not finite, or the shapes do not go together.

    Source: epics-modules/xspress3, its installation notes on dead time.
    """
    width = _dead_time(event_width, "event_width")
    ticks, resets, events = np.broadcast_arrays(_rates(clock_ticks), _rates(reset_ticks), _rates(all_events))
    lost = np.where((resets >= 0.0) & (events >= 0.0), resets + events * width, np.nan)
    return _ratio(ticks, ticks - lost)


def _ratio(whole: NDArray[np.float64], part: NDArray[np.float64]) -> Corrected:
    good = np.isfinite(whole) & np.isfinite(part) & (whole > 0.0) & (part > 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return Corrected(np.where(good, whole / part, np.nan), good)


def _where(in_range: NDArray[np.bool_], model: Model, measured: NDArray[np.float64]) -> Corrected:
    good = np.asarray(in_range & np.isfinite(measured) & (measured >= 0.0))
    value = np.full(measured.shape, np.nan)
    value[good] = model(measured[good])
    return Corrected(value, good)


def _smaller_root(product: NDArray[np.float64]) -> NDArray[np.float64]:
    """X in ``product = x exp(-x)``, 0 <= x <= 1, by Newton's method from below, where it converges monotonically."""
    root = product.copy()
    for _ in range(_STEPS):
        slope = (1.0 - root) * np.exp(-root)
        short = product - root * np.exp(-root)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.where((slope > 0.0) & (short > 0.0), short / slope, 0.0)
        # Rounding may carry a step past the peak, to the other root's side.
        root = np.minimum(root + step, 1.0)
        if (step <= np.spacing(root)).all():
            break
    return root


def _rates(values: ArrayLike) -> NDArray[np.float64]:
    rates = np.asarray(values)
    if rates.dtype.kind not in "fiu":
        raise TypeError(f"rates are numbers, not {rates.dtype}")
    return rates.astype(np.float64)


def _dead_time(seconds: float, name: str = "dead_time") -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):  # pyright: ignore[reportUnnecessaryIsInstance] (callers need not be typed)
        raise TypeError(f"{name} is a number, not {seconds!r}")
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{name} is 0 or more, not {seconds!r}")
    return float(seconds)
