"""The plans. Each run says in its start document which one it is: ``scan`` names its file, ``title`` the run itself.

What they watch is a signal of ophyd-async, whose updates come in the RunEngine's own loop. Those of ophyd come in a
thread, where the last one may become an event after the run's stop document.
"""

from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
from bluesky.utils import MsgGenerator
from ophyd.positioner import PositionerBase
from ophyd_async.core import SignalR

from epicsrs_bulk import WaveformFlyer
from epicsrs_demo.async_devices import AsyncBeamline
from epicsrs_demo.latency import LatencyMeter
from epicsrs_demo.sync_devices import SyncBeamline

FROM, TO, POINTS = -5.0, 5.0, 41
BATCHES = 10


def step_scan(beamline: SyncBeamline | AsyncBeamline, watched: SignalR[float]) -> MsgGenerator[Any]:
    """Move the stage step by step and count at each; a signal is watched all along."""
    metadata = {"scan": f"step-{beamline.name}", "title": f"step scan, {beamline.name}"}
    scan = bp.scan(beamline.readables, beamline.stage, FROM, TO, POINTS, md=metadata)
    yield from bpp.monitor_during_wrapper(scan, [watched])


def fly_scan(flyer: WaveformFlyer, stage: PositionerBase, points: int, watched: SignalR[float]) -> MsgGenerator[Any]:
    """Sweep the stage, and take what was measured as one page; a signal is watched all along."""
    metadata = {
        "scan": "fly-bulk",
        "title": "fly scan, epicsrs-bulk",
        "plan_name": "fly_scan",
        "motors": ["stage"],
        "num_points": points,
    }

    @bpp.monitor_during_decorator([watched])
    @bpp.run_decorator(md=metadata)
    def flight() -> MsgGenerator[Any]:
        yield from bps.declare_stream(flyer, name="primary", collect=True)
        yield from bps.kickoff(flyer, wait=True)
        yield from bps.complete(flyer, wait=True)
        yield from bps.collect(flyer, return_payload=False)

    yield from bps.mv(stage, FROM)
    yield from flight()


def measure_latency(meter: LatencyMeter) -> MsgGenerator[Any]:
    """Read one PV through each layer in turn."""
    yield from bp.count([meter], BATCHES, md={"scan": "latency", "title": "latency of single reads"})
