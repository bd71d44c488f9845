"""The tour of the beamline, once it serves."""

from rich.console import Console

from epicsrs_bulk import fast_event_page_validation
from epicsrs_demo.async_devices import AsyncBeamline
from epicsrs_demo.crowd import crowd
from epicsrs_demo.deadtime import correct
from epicsrs_demo.documents import Journal, Run
from epicsrs_demo.engine import Engine
from epicsrs_demo.flyer import make_flyer
from epicsrs_demo.frames import read_frames
from epicsrs_demo.latency import LatencyMeter
from epicsrs_demo.live import LiveView
from epicsrs_demo.options import Options
from epicsrs_demo.parts import Parts
from epicsrs_demo.picture import draw
from epicsrs_demo.scans import (
    QUICK,
    SAMPLE,
    Sizes,
    connect,
    energy_scan,
    fly_scan,
    frame_scan,
    measure_latency,
    step_scan,
)
from epicsrs_demo.sync_devices import SyncBeamline
from epicsrs_demo.tables import show_crowd, show_latencies, show_parts, show_regions, show_runs
from epicsrs_native import get_context


def tour(options: Options, parts: Parts, console: Console) -> None:
    """Read and write in bulk, scan, compare the documents, print the tables, draw the picture.

    Raises:
        PartError: A part failed.
        KeyboardInterrupt: Ctrl-C.
    """
    with parts.part("bulk read and write of 1,000 PVs"):
        phases = crowd()
    show_crowd(console, phases)
    emitted = scan(options, parts, console)
    with parts.part("comparison of the documents"):
        runs = {run.path.stem: run.read_back() for run in emitted}
    with parts.part("reading of the frames"):
        frames = read_frames(runs["frames"])
    with parts.part("correction of the dead time"):
        regions = correct(runs["fly"])
    with parts.part("drawing"):
        draw(runs, frames, regions, options.picture)
    show_runs(console, list(runs.values()))
    show_regions(console, regions)
    show_latencies(console, runs["latency"])
    show_parts(console, parts)
    for name, path in (("documents", options.folder), ("frames", frames.path), ("picture", options.picture)):
        console.print(f"{name}: {path.resolve()}", soft_wrap=True, highlight=False)


def scan(options: Options, parts: Parts, console: Console) -> list[Run]:
    """Run every scan in one RunEngine; what it emitted."""
    sizes = QUICK if options.quick else Sizes()
    journal = Journal(options.folder)
    engine = Engine()
    engine.engine.subscribe(journal)
    try:
        with parts.part("connection of the devices"):
            sync, other, meter = SyncBeamline(), AsyncBeamline(options.folder), LatencyMeter()
            flyer = make_flyer(sizes.rows)
            engine.run(connect(other, meter))
        with LiveView(console) as live:
            engine.engine.subscribe(live)
            with parts.part("step scan with ophyd"):
                engine.run(step_scan(sync, sizes.steps, other.current))
            with parts.part("energy scan with ophyd"):
                engine.run(energy_scan(sync, sizes.energies, other.current))
            with parts.part("camera scan with ophyd-async"):
                engine.run(frame_scan(other, sizes.frames, other.current))
            with parts.part("fly scan with epicsrs-bulk"), fast_event_page_validation():
                begin, end = SAMPLE
                place = get_context().channel(sync.sample_x.user_readback.pvname)
                sweep = place.monitor(lambda x: live.reached(round(sizes.rows * (x.value - begin) / (end - begin))))
                engine.run(fly_scan(flyer, sync.sample_x, sizes.rows, other.current))
                sweep.close()
            with parts.part("latency measurement"):
                engine.run(measure_latency(meter, sizes.batches))
    finally:
        engine.close()
    return journal.runs
