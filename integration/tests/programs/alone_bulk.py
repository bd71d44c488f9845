"""All waveforms of a fly-scan counter in one read, corrected for dead time, beside what truly came.

All that has to be installed is epicsrs-bulk and what it depends on.

Usage: alone_bulk.py PREFIX
PREFIX is that of the simulated beamline, which the EPICS_* variables lead to. Prints one line; ends with 0 if all is
well.
"""

import sys

import numpy as np

from epicsrs_bulk import ClockCounts, Column, WaveformFlyer, bulk_read, xspress3
from epicsrs_native import get_context

ROWS = 20
REGIONS = 48
TIMEOUT = 20.0

counter = f"{sys.argv[1]}mcs1:"
context = get_context()
for name, value in [("Mode", "At end"), ("TriggerMode", "Internal"), ("NumPoints", ROWS), ("Dwell", 0.005)]:
    context.channel(counter + name).put(value, timeout=TIMEOUT)
# A busy record: it has finished when the counter has.
context.channel(f"{counter}Acquire").put(1, timeout=TIMEOUT)

regions = [f"pva://{counter}ROI{number}" for number in range(1, REGIONS + 1)]
about = [counter + name for name in ("ClockTicks", "ResetTicks", "AllEvents", "TrueEvents", "EventWidth", "Share")]
read = bulk_read([*regions, *about, f"{counter}NOBODY"], timeout=2.0)
assert list(read.errors) == [f"{counter}NOBODY"], read.errors
ticks, resets, events, true, width, share = (read[pv].value for pv in about)
raw = np.stack([read[pv].value for pv in regions], axis=1)
assert raw.shape == (ROWS, REGIONS), raw.shape
factor = xspress3(ticks, resets, events, width).value[:, np.newaxis]
# Counts are whole numbers, and their correction is not.
assert (abs(raw * factor - np.outer(true, share)) <= 0.501 * factor).all()

try:
    times = ClockCounts(about[0], frequency=80e6)
    WaveformFlyer("fly", [Column(regions[0], "roi")], times, done=(f"{counter}Acquire", 0), timeout=1.0)
except ImportError as error:
    assert "epicsrs-bulk[sync]" in str(error), error
else:
    assert "ophyd" in sys.modules, "a flyer without ophyd's Status"
print(f"read and corrected {ROWS} rows of {REGIONS} regions")
