"""The counts of a fly scan, corrected for the detector's dead time, beside what truly came."""

from dataclasses import dataclass

import numpy as np

from epicsrs_bulk import bulk_read, xspress3
from epicsrs_demo.flyer import COUNTER, REGIONS
from epicsrs_demo.stored import Stored

# A region's counts are whole numbers; the factor is not rounded.
ROUNDING = 0.501


class DeadTimeError(RuntimeError):
    """The corrected counts are not what came."""


def detector() -> dict[str, float | list[float]]:
    """What the correction needs to know of the detector, for the start document.

    Returns:
        event_width: Ticks for which an event blocks it.
        share: The part of all events that falls into each region.
    """
    width, share = f"{COUNTER}EventWidth", f"{COUNTER}Share"
    readings = bulk_read([width, share])
    readings.raise_first()
    return {"event_width": readings[width].value, "share": readings[share].value.tolist()}


@dataclass(frozen=True)
class Regions:
    """Counts by row and region.

    Attributes:
        encoder: Where each row was measured.
        factor: By which each row's counts are too low.
        raw, corrected, true: Of shape (rows, regions): as counted, corrected, and as the IOC knows that they came.
    """

    encoder: np.ndarray
    factor: np.ndarray
    raw: np.ndarray
    corrected: np.ndarray
    true: np.ndarray


def correct(run: Stored) -> Regions:
    """Correct all regions of a fly scan.

    Raises:
        DeadTimeError: One of them is off by more than its counts are rounded.
    """
    columns = run.stream("primary").data
    detector = run.start["detector"]
    factor = xspress3(
        columns["clock_ticks"], columns["reset_ticks"], columns["all_events"], detector["event_width"]
    ).value[:, np.newaxis]
    raw = np.stack([columns[f"roi{region}"] for region in range(1, REGIONS + 1)], axis=1)
    corrected = raw * factor
    true = np.outer(columns["true_events"], detector["share"])
    # NaN, where there is no correction, is off as well.
    off = ~(np.abs(corrected - true) <= ROUNDING * factor)
    if off.any():
        row, region = np.argwhere(off)[0]
        raise DeadTimeError(
            f"fly scan, row {row + 1}: region {region + 1} has {corrected[row, region]:.1f} corrected counts, "
            f"and {true[row, region]:.1f} came"
        )
    return Regions(columns["encoder"], factor[:, 0], raw, corrected, true)
