"""Flies until Ctrl-C, then aborts the run; prints the rows of the page, or of the file that the documents announce.

Arguments: the IOC's prefix, a folder for the file, and "page" or "file".
"""

import json
import sys
from typing import Any

import bluesky.plan_stubs as bps
import h5py
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted

from epicsrs_bulk import Column, RecordTime, WaveformFlyer, bulk_get

prefix, folder, kind = sys.argv[1:]
i0, busy, abort = (prefix + name for name in ("i0", "manual_busy", "abort"))
pages = WaveformFlyer(
    "board",
    [Column(i0, "i0")],
    RecordTime(i0),
    start=[(busy, 1), (f"{prefix}fill.PROC", 1)],
    done=(busy, 0),
    disarm=[(abort, 1), (busy, 0)],
    timeout=60.0,
)
device: Any = pages if kind == "page" else pages.stored_in(folder)
documents: list[tuple[str, dict[str, Any]]] = []


def plan() -> Any:
    yield from bps.open_run()
    yield from bps.declare_stream(device, name="primary", collect=True)
    yield from bps.kickoff(device, wait=True)
    yield from bps.complete(device, group="flight")
    print("flying", flush=True)
    yield from bps.wait("flight")


engine = RunEngine({})
try:
    engine(plan(), lambda name, doc: documents.append((name, doc)))
except RunEngineInterrupted:
    disarmed = bulk_get([abort])[abort] == 1
    engine.abort()
    announced = [doc for name, doc in documents if name in ("event_page", "stream_datum")]
    if kind == "page":
        rows = announced[0]["data"]["i0"].tolist()
    else:
        with h5py.File(device.path) as file:
            rows = file["i0"][:].tolist()
    stop = documents[-1][1]
    print(json.dumps({"rows": rows, "announced": len(announced), "disarmed": disarmed, "exit": stop["exit_status"]}))
