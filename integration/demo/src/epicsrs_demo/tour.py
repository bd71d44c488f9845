"""The tour of the beamline, once it serves."""

from pathlib import Path

from rich.console import Console

from epicsrs_demo.async_devices import AsyncBeamline
from epicsrs_demo.crowd import crowd
from epicsrs_demo.deadtime import correct
from epicsrs_demo.documents import Emitted, Recorder
from epicsrs_demo.engine import Engine
from epicsrs_demo.flyer import make_flyer
from epicsrs_demo.frames import frames_of
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
from epicsrs_demo.storage import Storage
from epicsrs_demo.stored import read_back
from epicsrs_demo.sync_devices import SyncBeamline
from epicsrs_demo.tables import show_crowd, show_latencies, show_parts, show_regions, show_runs
from epicsrs_native import get_context


def tour(options: Options, storage: Storage, parts: Parts, console: Console) -> None:
    """Read and write in bulk, scan, read the runs from the catalog, print the tables, draw the picture.

    Raises:
        PartError: A part failed.
        KeyboardInterrupt: Ctrl-C.
    """
    with parts.part("bulk read and write of 1,000 PVs"):
        phases = crowd()
    show_crowd(console, phases)
    emitted = scan(options, storage, parts, console)
    with parts.part("comparison with the catalog"):
        client = storage.client()
        runs = {run.start["scan"]: read_back(client, run) for run in emitted}
    with parts.part("correction of the dead time"):
        regions = correct(runs["fly"])
    with parts.part("drawing"):
        frames = frames_of(runs["frames"])
        draw(runs, frames, regions, options.picture)
    show_runs(console, list(runs.values()))
    show_regions(console, regions)
    show_latencies(console, runs["latency"])
    show_parts(console, parts)
    places: dict[str, Path] = {"catalog": storage.catalog.folder, "journal": storage.journal, "frames": frames.path}
    places |= {"fly scan": runs["fly"].files[0], "picture": options.picture}
    for name, path in places.items():
        console.print(f"{name}: {path.resolve()}", soft_wrap=True, highlight=False)
    console.print("\nTo open the catalog again (then, in Python: tiled.client.from_uri('http://127.0.0.1:8000')):")
    # Not by rich, which would break the line.
    print(storage.catalog.command, flush=True)


def scan(options: Options, storage: Storage, parts: Parts, console: Console) -> list[Emitted]:
    """Run every scan in one RunEngine; what it emitted."""
    sizes = QUICK if options.quick else Sizes()
    recorder = Recorder()
    engine = Engine()
    try:
        with parts.part("connection of the devices"):
            sync, other, meter = SyncBeamline(), AsyncBeamline(options.folder), LatencyMeter()
            flyer = make_flyer(sizes.rows, options.folder)
            engine.run(connect(other, meter))
        with parts.part("start of the catalog, as far as left"):
            storage.client()
            sink = storage.sink()
        engine.engine.subscribe(sink)
        engine.engine.subscribe(recorder)
        with LiveView(console) as live:
            engine.engine.subscribe(live)
            with parts.part("step scan with ophyd"):
                engine.run(step_scan(sync, sizes.steps, other.current))
            with parts.part("energy scan with ophyd"):
                engine.run(energy_scan(sync, sizes.energies, other.current))
            with parts.part("camera scan with ophyd-async"):
                engine.run(frame_scan(other, sizes.frames, other.current))
            with parts.part("fly scan with epicsrs-bulk"):
                begin, end = SAMPLE
                place = get_context().channel(sync.sample_x.user_readback.pvname)
                sweep = place.monitor(lambda x: live.reached(round(sizes.rows * (x.value - begin) / (end - begin))))
                engine.run(fly_scan(flyer, sync.sample_x, sizes.rows, other.current))
                sweep.close()
            with parts.part("latency measurement"):
                engine.run(measure_latency(meter, sizes.batches))
    finally:
        engine.close()
    return recorder.runs
