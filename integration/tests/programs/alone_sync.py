"""A scan by hand with ophyd's own devices on our control layer: a motor moves, a scaler counts, a monitor watches.

All that has to be installed is ophyd-epicsrs-sync and what it depends on.

Usage: alone_sync.py PREFIX
PREFIX is that of the simulated beamline, which the EPICS_* variables lead to. Prints one line; ends with 0 if all is
well.
"""

import sys
import threading

from ophyd_epicsrs_sync import use_epicsrs

use_epicsrs()

import ophyd  # noqa: E402
from ophyd import EpicsMotor, EpicsSignalRO  # noqa: E402
from ophyd.scaler import EpicsScaler  # noqa: E402

POINTS = (0.0, 0.2, 0.4)
TIMEOUT = 20.0

prefix = sys.argv[1]
assert ophyd.cl.name == "epicsrs", ophyd.cl
motor = EpicsMotor(f"{prefix}m2", name="motor")
scaler = EpicsScaler(f"{prefix}scaler1", name="scaler")
place = EpicsSignalRO(f"pva://{prefix}m2.RBV", name="place")
for device in (motor, scaler, place):
    device.wait_for_connection(timeout=TIMEOUT)

arrived = threading.Event()
place.subscribe(lambda value, **_: arrived.set() if abs(value - POINTS[-1]) < 1e-3 else None)
scaler.preset_time.set(0.1).wait(TIMEOUT)
counts: list[float] = []
for point in POINTS:
    motor.set(point).wait(TIMEOUT)
    assert abs(motor.read()["motor"]["value"] - point) < 1e-3, motor.read()
    scaler.trigger().wait(TIMEOUT)
    counts.append(scaler.channels.chan2.get())
assert all(count > 0 for count in counts), counts
assert arrived.wait(TIMEOUT), f"the monitor saw {place.get()} last"
print(f"moved, and counted at {len(counts)} points")
