"""Devices of ophyd and of ophyd-async on the same PVs of two IOCs, in one RunEngine, for some time.

Usage: both_adapters.py SECONDS PREFIX CA_PORT PVA_PORT PREFIX CA_PORT PVA_PORT
Prints one line; ends with 0 if every value was right and in order, with one circuit to each port and no leak.
"""

import gc
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from ophyd_epicsrs_sync import use_epicsrs

use_epicsrs()

import bluesky.plan_stubs as bps  # noqa: E402
from bluesky import RunEngine  # noqa: E402
from bluesky.preprocessors import run_decorator  # noqa: E402
from ophyd import EpicsSignal, EpicsSignalRO  # noqa: E402
from ophyd_async.core import init_devices  # noqa: E402

from epicsrs_native import caught_panic_count  # noqa: E402
from ophyd_epicsrs_async import epicsrs_signal_r, epicsrs_signal_rw  # noqa: E402

POINTS = 11
TIMEOUT = 20.0
# Of what a process has after its first scans; bluesky, ophyd and Python keep some of their own.
OBJECTS = 500
MEGABYTES = 12.0

seconds = float(sys.argv[1])
iocs = [(sys.argv[first], int(sys.argv[first + 1]), int(sys.argv[first + 2])) for first in (2, 5)]
engine = RunEngine()
documents: list[dict[str, Any]] = []
engine.subscribe(lambda _, document: documents.append(document), "event")


def circuits() -> dict[int, int]:
    """How many TCP connections this process has to each of the IOCs' ports."""
    links = (os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink())
    own = {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:[")}
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    # A row may come twice while sockets of other processes come and go: it is told by its socket.
    ports = list({row[9]: int(row[2].split(":")[1], 16) for row in rows if row[9] in own}.values())
    return {port: ports.count(port) for _, ca, pva in iocs for port in (ca, pva)}


def footprint() -> tuple[int, int, int, float]:
    """Objects of Python, threads, descriptors, and MB of memory."""
    gc.collect()
    resident = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    assert resident is not None
    counts = (len(gc.get_objects()), len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")))
    return *counts, int(resident[1]) / 1024


def scan(prefix: str, number: int) -> None:
    """Either kind of device moves, both are read over both protocols, and both watch."""
    pv = f"{prefix}put_double"
    legacy = EpicsSignal(pv, name="legacy", put_complete=True)
    legacy_pva = EpicsSignalRO(f"pva://{pv}", name="legacy_pva")
    legacy_watch = EpicsSignalRO(f"pva://{pv}", name="legacy_watch")
    with init_devices(timeout=TIMEOUT):
        modern = epicsrs_signal_rw(float, pv, name="modern")
        modern_pva = epicsrs_signal_r(float, f"pva://{pv}", name="modern_pva")
        modern_watch = epicsrs_signal_r(float, pv, name="modern_watch")
    for signal in (legacy, legacy_pva, legacy_watch):
        signal.wait_for_connection(timeout=TIMEOUT)
    readers = [legacy, legacy_pva, modern, modern_pva]
    mover = legacy if number % 2 else modern
    expected = [float(number + step) for step in range(POINTS)]
    watched: dict[str, list[float]] = {"legacy": [], "modern": []}

    def watch_legacy(value: float, **_: object) -> None:
        watched["legacy"].append(value)

    def watch_modern(reading: dict[str, Any]) -> None:
        watched["modern"].append(reading["modern_watch"]["value"])

    @run_decorator()
    def plan() -> Any:
        yield from bps.mv(mover, number - 1.0)
        legacy_watch.subscribe(watch_legacy)
        modern_watch.subscribe_reading(watch_modern)
        end = time.monotonic() + TIMEOUT
        while not all(watched.values()):
            assert time.monotonic() < end, watched
            yield from bps.sleep(0.001)
        for value in expected:
            yield from bps.mv(mover, value)
            yield from bps.trigger_and_read(readers)
        while any(values[-1] != expected[-1] for values in watched.values()):
            assert time.monotonic() < end, watched
            yield from bps.sleep(0.001)
        modern_watch.clear_sub(watch_modern)

    documents.clear()
    engine(plan())
    for reader in readers:
        assert [event["data"][reader.name] for event in documents] == expected, (reader.name, documents)
    for values in watched.values():
        changes = [value for value, before in zip(values, [None, *values], strict=False) if value != before]
        assert changes == [number - 1.0, *expected], watched
    found = circuits()
    assert set(found.values()) <= {0, 1}, found
    for signal in (legacy, legacy_pva, legacy_watch):
        signal.destroy()


scans = 0
before = None
began = time.monotonic()
# What the first third of the time leaves behind is no leak.
while time.monotonic() < began + seconds:
    for prefix, *_ in iocs:
        scan(prefix, scans)
        scans += 1
    if before is None and time.monotonic() > began + seconds / 3:
        before, warm = footprint(), scans
assert before is not None
found = circuits()
assert set(found.values()) == {1}, found
grown = [after - start for after, start in zip(footprint(), before, strict=True)]
assert grown[0] < OBJECTS, (grown, scans - warm)
assert grown[1:3] <= [0, 0], (grown, scans - warm)
assert grown[3] < MEGABYTES, (grown, scans - warm)
assert caught_panic_count() == 0
print(f"{scans} scans; grown in the last {scans - warm}: {grown[0]} objects, {grown[3]:.1f} MB")
