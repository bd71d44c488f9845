"""Whether readings belong to one acquisition."""

from __future__ import annotations

import math
from collections import Counter
from statistics import median_high
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from epicsrs_bulk._read import BulkRead


def incoherent(
    readings: BulkRead, *, spread: float | None = None, since_ns: int | None = None, same_count: bool = False
) -> dict[str, str]:
    """The PVs that do not go with the others, and why, in a line that begins with the PV; empty where all do.

    Only looks: no reading is changed or left out.

    Args:
        readings: Of one bulk read. A PV that failed is among those that do not go with the others.
        spread: Seconds by which a record's timestamp may be away from the median of all, or of two from the later.
        since_ns: Timestamps before this one are too old; in ns, by the clock of the same IOC.
        same_count: Whether all must have as many elements as most of them.

    Raises:
        ValueError: ``spread`` is negative or NaN.
    """
    if spread is not None and not (math.isfinite(spread) and spread >= 0):
        raise ValueError(f"spread is a number of seconds, not {spread!r}")
    problems = {pv: str(error) for pv, error in readings.errors.items()}
    answered = {pv: reading for pv, reading in readings.items() if reading.error is None}
    stamps = {pv: reading.timestamp_ns for pv, reading in answered.items() if reading.timestamp_ns is not None}
    if spread is not None or since_ns is not None:
        undated = answered.keys() - stamps.keys()
        problems |= {pv: f"{pv}: the server gives no timestamp" for pv in answered if pv in undated}
    if since_ns is not None:
        problems |= {
            pv: f"{pv}: processed {(since_ns - stamp) / 1e9:.6g} s too early"
            for pv, stamp in stamps.items()
            if stamp < since_ns
        }
    if spread is not None and stamps:
        middle = median_high(stamps.values())
        for pv, stamp in stamps.items():
            apart = (stamp - middle) / 1e9
            if abs(apart) > spread:
                problems.setdefault(pv, f"{pv}: processed {abs(apart):.6g} s {_side(apart)} the others")
    if same_count and answered:
        counts = {pv: int(np.size(reading.value)) for pv, reading in answered.items()}
        [(usual, _)] = Counter(sorted(counts.values(), reverse=True)).most_common(1)
        for pv, count in counts.items():
            if count != usual:
                problems.setdefault(pv, f"{pv}: {count} elements, where most PVs have {usual}")
    return {pv: problems[pv] for pv in readings if pv in problems}


def _side(apart: float) -> str:
    return "after" if apart > 0 else "before"
