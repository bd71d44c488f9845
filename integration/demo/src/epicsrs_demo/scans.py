"""The plans. Each run says in its start document which one it is: by ``scan`` in a word, by ``title`` for people.

What they watch is a signal of ophyd-async, whose updates come in the RunEngine's own loop. Those of ophyd come in a
thread, where the last one may become an event after the run's stop document.
"""

from dataclasses import dataclass
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
from bluesky.utils import MsgGenerator
from ophyd import EpicsMotor
from ophyd_async.core import SignalR
from ophyd_async.plan_stubs import ensure_connected

from epicsrs_bulk import FileFlyer
from epicsrs_demo.async_devices import AsyncBeamline
from epicsrs_demo.deadtime import detector
from epicsrs_demo.flyer import DWELL
from epicsrs_demo.latency import LatencyMeter
from epicsrs_demo.sync_devices import SyncBeamline

# Where the sample goes, in mm, the monochromator in keV, and the spot on the camera in pixels.
SAMPLE = (-5.0, 5.0)
ENERGY = (7.0, 13.0)
SPOT = (-150.0, 150.0)
# Seconds; longer than the 0.1 s from one reading of a point detector to the next.
COUNT_TIME = 0.12


@dataclass(frozen=True)
class Sizes:
    """How many points each run has."""

    steps: int = 31
    energies: int = 21
    frames: int = 21
    rows: int = 500
    batches: int = 10


QUICK = Sizes(steps=9, energies=5, frames=5, rows=100, batches=2)


def connect(beamline: AsyncBeamline, meter: LatencyMeter) -> MsgGenerator[Any]:
    """Connect what is made for the RunEngine's loop, and let the camera's plugin add up its pixels."""
    yield from ensure_connected(*beamline.devices, beamline.current, *meter.signals.values())
    yield from bps.mv(beamline.stats.compute_statistics, True)


def step_scan(beamline: SyncBeamline, points: int, watched: SignalR[float]) -> MsgGenerator[Any]:
    """Move the sample step by step and count at each; a signal is watched all along."""
    yield from bps.mv(beamline.scaler.preset_time, COUNT_TIME)
    metadata = {"scan": "step", "title": "step scan, ophyd"}
    scan = bp.scan([beamline.scaler, beamline.diode], beamline.sample_x, *SAMPLE, points, md=metadata)
    yield from bpp.monitor_during_wrapper(scan, [watched])


def energy_scan(beamline: SyncBeamline, points: int, watched: SignalR[float]) -> MsgGenerator[Any]:
    """Move the monochromator in energy and count at each; a signal is watched all along."""
    # Narrow enough for its peak to be seen.
    yield from bps.mv(beamline.analyser.sigma, 1.0, beamline.analyser.noise, 0.03)
    metadata = {"scan": "energy", "title": "energy scan, ophyd"}
    counted = [beamline.scaler, beamline.analyser, beamline.monochromator.theta]
    scan = bp.scan(counted, beamline.energy, *ENERGY, points, md=metadata)
    yield from bpp.monitor_during_wrapper(scan, [watched])


def frame_scan(beamline: AsyncBeamline, points: int, watched: SignalR[float]) -> MsgGenerator[Any]:
    """Move the spot on the camera and take a frame at each step; a signal is watched all along."""
    metadata = {"scan": "frames", "title": "camera, ophyd-async"}
    scan = bp.scan([beamline.camera], beamline.spot_x, *SPOT, points, md=metadata)
    yield from bpp.monitor_during_wrapper(scan, [watched])


def fly_scan(flyer: FileFlyer, motor: EpicsMotor, rows: int, watched: SignalR[float]) -> MsgGenerator[Any]:
    """Sweep the sample while the counter counts, and take that as a file; a signal is watched all along."""
    metadata = {
        "scan": "fly",
        "title": "fly scan, epicsrs-bulk",
        "plan_name": "fly_scan",
        "motors": [motor.name],
        "num_points": rows,
        "detector": detector(),
    }
    begin, end = SAMPLE
    speed = motor.velocity.get()

    @bpp.monitor_during_decorator([watched])
    @bpp.run_decorator(md=metadata)
    def flight() -> MsgGenerator[Any]:
        yield from bps.declare_stream(flyer, name="primary", collect=True)
        yield from bps.kickoff(flyer, wait=True)
        yield from bps.abs_set(motor, end, group="sweep")
        yield from bps.complete(flyer, wait=True)
        yield from bps.wait("sweep")
        yield from bps.collect(flyer, return_payload=False)

    def sweep() -> MsgGenerator[Any]:
        yield from bps.mv(motor.velocity, (end - begin) / (rows * DWELL))
        yield from flight()

    yield from bps.mv(motor, begin)
    yield from bpp.finalize_wrapper(sweep(), bps.mv(motor.velocity, speed))


def measure_latency(meter: LatencyMeter, batches: int) -> MsgGenerator[Any]:
    """Read one PV through each layer in turn, and watch it."""
    yield from bp.count([meter], batches, md={"scan": "latency", "title": "latency of reads, updates"})
