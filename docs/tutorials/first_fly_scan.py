"""A fly scan from the beamline to a catalog: ``uv run python docs/tutorials/first_fly_scan.py [FOLDER]``."""

import os
import sys
import time
from pathlib import Path

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import h5py
import numpy as np
from bluesky import RunEngine
from matplotlib.figure import Figure

from epicsrs_beamline import Beamline
from epicsrs_bulk import ClockCounts, Column, LocalCatalog, Sink, TiledTarget, WaveformFlyer, xspress3
from ophyd_epicsrs_sync import use_epicsrs

use_epicsrs()
from ophyd import EpicsMotor  # noqa: E402 (after the choice of its client)

ROWS, DWELL, REGIONS = 200, 0.01, 48
# Where the sweep begins and ends, in mm.
BEGIN, END = -3.0, 3.0
# Ticks of the counter's clock in a second, and for which an event blocks it.
CLOCK, EVENT_WIDTH = 80e6, 6


def make_flyer(counter, folder):
    """The counter: a column for each of its waveforms, rows in an HDF5 file in the folder."""
    named = {"Encoder": "encoder", "I0": "i0", "ClockTicks": "ticks", "ResetTicks": "resets", "AllEvents": "events"}
    columns = [Column(f"{counter}{pv}", key) for pv, key in named.items()]
    columns += [Column(f"pva://{counter}ROI{number}", f"roi{number}") for number in range(1, REGIONS + 1)]
    pages = WaveformFlyer(
        "counter",
        columns,
        times=ClockCounts(f"{counter}ClockTicks", frequency=CLOCK),
        rows=ROWS,
        arm=[(f"{counter}NumPoints", ROWS), (f"{counter}Dwell", DWELL), (f"{counter}EventWidth", EVENT_WIDTH)],
        start=[(f"{counter}Acquire", 1)],
        done=(f"{counter}Acquire", "Done"),
        disarm=[(f"{counter}Acquire", 0)],
        timeout=ROWS * DWELL + 30.0,
    )
    return pages.stored_in(folder)


def fly(flyer, motor):
    """Sweep a motor while the counter counts."""

    @bpp.run_decorator(md={"plan_name": "first_fly_scan"})
    def flight():
        yield from bps.declare_stream(flyer, name="primary", collect=True)
        yield from bps.kickoff(flyer, wait=True)
        yield from bps.abs_set(motor, END, group="sweep")
        yield from bps.complete(flyer, wait=True)
        yield from bps.wait("sweep")
        yield from bps.collect(flyer, return_payload=False)

    yield from bps.mv(motor, BEGIN)
    yield from bps.mv(motor.velocity, (END - BEGIN) / (ROWS * DWELL))
    yield from flight()


class Stopwatch:
    """Passes documents on, and takes the time of the last one, with which a sink waits for its target."""

    def __init__(self, sink):
        self.sink, self.flush = sink, 0.0

    def __call__(self, name, doc):
        begin = time.perf_counter()
        self.sink(name, doc)
        self.flush = time.perf_counter() - begin


def draw(data, path):
    """A region as it was counted, and corrected for the dead time."""
    factor = xspress3(data["ticks"], data["resets"], data["events"], EVENT_WIDTH).value
    axes = (figure := Figure(figsize=(8, 4), layout="constrained")).add_subplot()
    axes.plot(data["encoder"], data["roi1"], label="counted")
    axes.plot(data["encoder"], data["roi1"] * factor, label="corrected for the dead time")
    axes.set(xlabel="encoder / mm", ylabel="region 1 / counts")
    axes.legend()
    figure.savefig(path)


def main(folder):
    """Fly, store, read back, draw."""
    folder.mkdir(parents=True, exist_ok=True)
    with Beamline() as beamline, LocalCatalog(folder / "catalog", readable=[folder]) as catalog:
        os.environ.update(beamline.env)
        motor = EpicsMotor(beamline.pv("m1"), name="sample_x")
        motor.wait_for_connection(timeout=30.0)
        flyer = make_flyer(beamline.pv("mcs1:"), folder)

        engine = RunEngine()
        with Sink(TiledTarget(catalog.client()), folder / "journal", stop_timeout=300.0) as sink:
            stopwatch = Stopwatch(sink)
            begin = time.perf_counter()
            [uid] = engine(fly(flyer, motor), stopwatch)
            plan = time.perf_counter() - begin - stopwatch.flush

        # By key, each with its values: what is in the catalog, and what is in the file.
        stored = {key: part.read() for key, part in catalog.client()[uid]["primary"].base.items()}
        with h5py.File(flyer.path) as file:
            written = {key: np.asarray(values) for key, values in file.items()}
        assert stored.keys() == written.keys()
        assert all(stored[key].tobytes() == values.tobytes() for key, values in written.items())

        draw(stored, folder / "first-fly-scan.png")
        size = sum(values.nbytes for values in stored.values())
        print(f"{len(stored)} columns of {ROWS} rows, {size:,} bytes, read back equal")
        print(f"plan {plan:.2f} s, of which the sweep {ROWS * DWELL:.2f} s; flush {stopwatch.flush:.2f} s")
        print(f"picture: {folder / 'first-fly-scan.png'}")
        print(f"to open the catalog again: {catalog.command}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "first-fly-scan").absolute())
