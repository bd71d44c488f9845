"""The demo from end to end, once there is an IOC."""

from pathlib import Path

from ophyd_async.plan_stubs import ensure_connected
from rich.console import Console

import epicsrs_native
from epicsrs_demo.async_devices import AsyncBeamline
from epicsrs_demo.crowd import crowd
from epicsrs_demo.documents import Journal
from epicsrs_demo.engine import Engine
from epicsrs_demo.flyer import INDEX, POINTS, make_flyer
from epicsrs_demo.latency import LatencyMeter
from epicsrs_demo.live import LiveView
from epicsrs_demo.parts import Parts
from epicsrs_demo.picture import draw
from epicsrs_demo.scans import fly_scan, measure_latency, step_scan
from epicsrs_demo.sync_devices import SyncBeamline
from epicsrs_demo.tables import show_crowd, show_latencies, show_parts, show_runs


def tour(parts: Parts, folder: Path, picture: Path) -> None:
    """Read and write in bulk, scan, compare the documents, print the tables, draw the picture.

    Raises:
        PartError: A part failed.
        KeyboardInterrupt: Ctrl-C.
    """
    console = Console()
    try:
        with parts.part("bulk read and write of 1,000 PVs"):
            phases = crowd()
        show_crowd(console, phases)
        journal = Journal(folder)
        scan(parts, console, journal)
        with parts.part("comparison of the documents"):
            runs = [run.read_back() for run in journal.runs]
        with parts.part("drawing"):
            draw(runs, picture)
        show_runs(console, runs)
        show_latencies(console, runs)
        show_parts(console, parts)
    finally:
        epicsrs_native.shutdown_all()
    console.print(f"documents: {folder.resolve()}", f"picture: {picture.resolve()}", sep="\n", soft_wrap=True)


def scan(parts: Parts, console: Console, journal: Journal) -> None:
    """Run every scan in one RunEngine."""
    engine = Engine()
    engine.engine.subscribe(journal)
    try:
        with parts.part("connection of the devices"):
            sync, other, meter, flyer = SyncBeamline(), AsyncBeamline(), LatencyMeter(), make_flyer()
            engine.run(ensure_connected(other.stage, other.detectors, other.current, *meter.signals.values()))
            points = epicsrs_native.get_context().channel(POINTS).get().value
        with LiveView(console) as live:
            engine.engine.subscribe(live)
            with parts.part("step scan with ophyd"):
                engine.run(step_scan(sync, other.current))
            with parts.part("step scan with ophyd-async"):
                engine.run(step_scan(other, other.current))
            with parts.part("fly scan with epicsrs-bulk"):
                index = epicsrs_native.get_context().channel(INDEX).monitor(lambda row: live.reached(row.value))
                engine.run(fly_scan(flyer, sync.stage, points, other.current))
                index.close()
            with parts.part("latency measurement"):
                engine.run(measure_latency(meter))
    finally:
        engine.close()
