"""The fly scan's hardware, through epicsrs-bulk: the counter mcs1, which counts while the sample is swept."""

from pathlib import Path

from epicsrs_bulk import ClockCounts, Column, FileFlyer, WaveformFlyer
from epicsrs_demo.records import PREFIX

COUNTER = f"{PREFIX}mcs1:"
REGIONS = 48
# Of the detector's clock, in Hz.
CLOCK = 80e6
# Seconds for each row.
DWELL = 0.01


def make_flyer(rows: int, folder: Path) -> FileFlyer:
    """A flyer with the columns that the dead time is corrected by, and the truth; the regions come over pvAccess.

    Its rows go into a file in the folder, which the documents announce.
    """
    columns = [
        Column(f"{COUNTER}Encoder", "encoder", units="mm"),
        *(Column(f"{COUNTER}{name}", key, units=units) for name, key, units in COLUMNS),
        *(Column(f"pva://{COUNTER}ROI{region}", f"roi{region}", units="counts") for region in range(1, REGIONS + 1)),
    ]
    pages = WaveformFlyer(
        "fly",
        columns,
        times=ClockCounts(f"{COUNTER}ClockTicks", frequency=CLOCK),
        rows=rows,
        arm=[
            (f"{COUNTER}Mode", "At end"),
            (f"{COUNTER}TriggerMode", "Internal"),
            (f"{COUNTER}NumPoints", rows),
            (f"{COUNTER}Dwell", DWELL),
        ],
        start=[(f"{COUNTER}Acquire", 1)],
        done=(f"{COUNTER}Acquire", "Done"),
        disarm=[(f"{COUNTER}Acquire", 0)],
        timeout=rows * DWELL + 10.0,
    )
    flyer = pages.stored_in(folder, above=0)
    assert isinstance(flyer, FileFlyer)
    return flyer


COLUMNS = (
    ("I0", "i0", "counts"),
    ("ClockTicks", "clock_ticks", "ticks"),
    ("ResetTicks", "reset_ticks", "ticks"),
    ("AllEvents", "all_events", "events"),
    ("TrueEvents", "true_events", "events"),
)
