"""Values at times of their own, brought onto a grid of common times; where nothing is known, nothing is made up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

METHODS = ("hold", "linear")


def resample(
    times_ns: ArrayLike,
    values: ArrayLike,
    grid_ns: ArrayLike,
    *,
    method: Literal["hold", "linear"] = "hold",
    max_gap: float | None = None,
    broken: ArrayLike | None = None,
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Values at the times of a grid.

    Args:
        times_ns: When each value was measured, in integer ns, in any order; of two at one time the later one counts.
        values: One number for each time.
        grid_ns: The times wanted, in integer ns.
        method: ``"hold"``: the last value before, which a record keeps until it changes. ``"linear"``: between the
            values before and after, as float64; unknown after the last value.
        max_gap: Seconds. ``hold`` knows nothing that long after a value, ``linear`` nothing between two values that
            are further apart; None for no limit.
        broken: For each value, whether updates may be missing since the one before it: nothing is known between them.

    Returns:
        The values, in the dtype of ``values`` for ``hold``, and where they are known. Elsewhere they mean nothing.

    Raises:
        ValueError: Lengths that differ, an unknown method, a gap that is negative or NaN.
        TypeError: Times that are no integers.
    """
    times, numbers, grid = np.asarray(times_ns), np.asarray(values), np.asarray(grid_ns)
    if method not in METHODS:
        raise ValueError(f"the method of resampling is one of {', '.join(METHODS)}, not {method!r}")
    if max_gap is not None and not (math.isfinite(max_gap) and max_gap >= 0):
        raise ValueError(f"max_gap is a number of seconds, not {max_gap!r}")
    breaks = np.zeros(len(times), np.bool_) if broken is None else np.asarray(broken, np.bool_)
    if not len(times) == len(numbers) == len(breaks):
        raise ValueError(f"{len(times)} times, {len(numbers)} values and {len(breaks)} breaks do not go together")
    for name, array in (("times_ns", times), ("grid_ns", grid)):
        if array.dtype.kind not in "iu" and array.size:
            raise TypeError(f"{name} holds integers, not {array.dtype}")
    if not len(times):
        return np.zeros(len(grid), numbers.dtype), np.zeros(len(grid), np.bool_)

    order = np.argsort(times, kind="stable")
    times, numbers, breaks = times[order].astype(np.int64), numbers[order], breaks[order]
    before = np.searchsorted(times, grid, side="right") - 1
    after = np.minimum(before + 1, len(times) - 1)
    started = before >= 0
    before = np.maximum(before, 0)
    since = grid - times[before]
    between = times[after] - times[before]
    # A break lies somewhere between two values; the first of them holds at its own moment only.
    unbroken = (since == 0) | (after == before) | ~breaks[after]
    if method == "hold":
        known = started & unbroken
        if max_gap is not None:
            known &= since <= max_gap * 1e9
        return numbers[before], known
    known = started & unbroken & ((since == 0) | (after != before))
    if max_gap is not None:
        known &= (since == 0) | (between <= max_gap * 1e9)
    part = np.divide(since, between, out=np.zeros(len(grid)), where=between > 0)
    first, last = numbers[before].astype(np.float64), numbers[after].astype(np.float64)
    return first + (last - first) * np.where(since == 0, 0.0, part), known
