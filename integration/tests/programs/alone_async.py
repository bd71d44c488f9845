"""A move and a fly scan of a motor with a camera, by ophyd-async's own classes on our backends.

All that has to be installed is ophyd-epicsrs-async and what it depends on.

Usage: alone_async.py PREFIX
PREFIX is that of the simulated beamline, which the EPICS_* variables lead to. Prints one line; ends with 0 if all is
well.
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import ophyd_async.epics.core
from bluesky import RunEngine
from ophyd_async.core import FlyMotorInfo, StaticFilenameProvider, StaticPathProvider, TriggerInfo, init_devices
from ophyd_async.epics.adcore import ADWriterFactory
from ophyd_async.epics.adsimdetector import SimDetector
from ophyd_async.epics.core import epics_signal_rw
from ophyd_async.epics.motor import Motor

from ophyd_epicsrs_async import EpicsRsSignalBackend, install

FRAMES = 10
HDF5 = b"\x89HDF\r\n\x1a\n"

prefix = sys.argv[1]
install()
for theirs in (ophyd_async.epics.core.CaSignalBackend, ophyd_async.epics.core.PvaSignalBackend):
    assert issubclass(theirs, EpicsRsSignalBackend)


def fly(motor: Motor, camera: SimDetector) -> Iterator[Any]:
    """The camera takes its frames while the motor passes from 0 to 1."""
    yield from bps.stage_all(motor, camera)
    yield from bps.open_run()
    yield from bps.prepare(motor, FlyMotorInfo(start_position=0.0, end_position=1.0, time_for_move=0.5), wait=True)
    yield from bps.prepare(camera, TriggerInfo(number_of_events=FRAMES, livetime=0.01), wait=True)
    yield from bps.declare_stream(camera, name="frames")
    yield from bps.kickoff_all(motor, camera, wait=True)
    yield from bps.collect_while_completing([motor, camera], [camera], flush_period=0.1, stream_name="frames")
    yield from bps.close_run()
    yield from bps.unstage_all(motor, camera)


engine = RunEngine({}, call_returns_result=True)
documents: list[tuple[str, dict[str, Any]]] = []
engine.subscribe(lambda name, document: documents.append((name, document)))

with tempfile.TemporaryDirectory() as folder:
    provider = StaticPathProvider(StaticFilenameProvider("frames"), Path(folder))
    # One device by Channel Access, the other by pvAccess.
    with init_devices(timeout=20.0):
        fastest = epics_signal_rw(float, f"{prefix}m3.VMAX")
        motor = Motor(f"{prefix}m3")
        camera = SimDetector(f"pva://{prefix}cam:", ADWriterFactory.hdf(provider))

    # ophyd-async does not know that 0, as it is here, means any.
    engine(bps.mv(motor, 0.5, fastest, 10.0))
    place = engine(bps.rd(motor)).plan_result
    assert abs(place - 0.5) < 1e-3, place

    flown = engine(fly(motor, camera))
    assert flown.exit_status == "success", flown
    place = engine(bps.rd(motor)).plan_result
    assert place > 1.0, f"the motor has stopped at {place}"
    (path,) = Path(folder).glob("*.h5")
    assert path.read_bytes().startswith(HDF5)

counts = Counter(name for name, _ in documents)
frames = max(document["indices"]["stop"] for name, document in documents if name == "stream_datum")
assert frames == FRAMES, counts
assert counts["stop"] == counts["stream_resource"] == 1, counts
print(f"moved, and flew with {frames} frames")
