"""Fly scans: bulk reads beside the peer's, 10,000 rows of 50 columns collected and journalled, a flyer that listens.

uv run integration/benchmarks/flyscan.py [result.json]

Prints a table and writes the figures as JSON. A fly scan is measured in a plan: from the `collect` message to its end,
with nobody subscribed to the documents, and the longest time that the RunEngine's loop did not run from kickoff to the
end of the run. Before that stands what declaring the stream takes, which is bluesky's check of each data key. A page is
journalled by a sink whose target drops it: from the call to its return, with the copy for the target and the fsync. The
peer is measured by this script in its own environment, in turn with ours, on the same IOC.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

WAVEFORMS, ROWS, SCALARS = 50, 10_000, 10_000
PEER = "ophyd-epicsrs"
TURNS = 3
# Journalled, of the size above.
PAGES = 9
LISTENED, RATE, SECONDS = 20, 1000, 10.0
# Seconds in which the loop has nothing to do: what it is late by then is the machine's doing.
IDLE = 2.0

# What is read, by the name of the figure: PVs, and how often in a turn.
READS = {
    "waveforms": ([f"w{n}" for n in range(WAVEFORMS)], 20),
    "scalars_1000": ([f"s{n}" for n in range(1000)], 20),
    "scalars_10000": ([f"s{n}" for n in range(SCALARS)], 3),
}


def main() -> None:
    import environments

    from ioc import SoftIoc

    environments.install(PEER)
    with SoftIoc(database()) as ioc:
        os.environ.update(ioc.environment)
        fill()
        figures: dict[str, float] = {}
        for part in (reads, flights, journalling, listening):
            start = time.perf_counter()
            figures |= part(ioc.environment)
            print(f"{part.__name__}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    show(figures)
    if len(sys.argv) > 1:
        rounded = {key: float(f"{value:.4g}") for key, value in figures.items()}
        Path(sys.argv[1]).write_text(json.dumps(rounded, indent=1) + "\n")


def database() -> str:
    """A board that fills 50 waveforms when it is started, scalars, and counters to listen to."""
    board = [
        'record(bo, "busy") { field(ZNAM, "Done") field(ONAM, "Counting") field(VAL, "0") field(PINI, "YES") }',
        """record(seq, "run") {
            field(DOL1, "1") field(LNK1, "busy PP")
            field(DLY2, "0.1") field(DOL2, "1") field(LNK2, "w0.PROC PP")
            field(DOL3, "0") field(LNK3, "busy PP")
        }""",
        'record(bo, "start") { field(FLNK, "run") }',
    ]
    for n in range(WAVEFORMS):
        following = f'field(FLNK, "w{n + 1}")' if n + 1 < WAVEFORMS else ""
        size = f'field(FTVL, "DOUBLE") field(NELM, "{ROWS}")'
        board.append(f'record(waveform, "source{n}") {{ {size} }}')
        board.append(f'record(waveform, "w{n}") {{ {size} field(INP, "source{n} NPP") {following} }}')
    scalars = [f'record(ao, "s{n}") {{ field(VAL, "{n}") field(PINI, "YES") }}' for n in range(SCALARS)]
    counters = [f'record(longout, "c{n}") {{ field(VAL, "0") field(PINI, "YES") }}' for n in range(LISTENED)]
    return "\n".join([*board, *scalars, *counters])


def fill() -> None:
    import numpy as np

    from epicsrs_bulk import bulk_put

    random = np.random.default_rng(1)
    bulk_put({f"source{n}": random.normal(size=ROWS) for n in range(WAVEFORMS)})
    bulk_put({"w0.PROC": 1})


def timed(call: Callable[[], Any], calls: int) -> list[float]:
    call()
    seconds: list[float] = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def reads(epics: dict[str, str]) -> dict[str, float]:
    from epicsrs_bulk import bulk_read

    ours: dict[str, list[float]] = {name: [] for name in READS}
    theirs: dict[str, list[float]] = {name: [] for name in READS}
    for _ in range(TURNS):
        for name, (pvs, calls) in READS.items():
            # All of it, as the peer gives values alone: each value, timestamp and severity is there.
            ours[name] += timed(lambda pvs=pvs: bulk_read(pvs, timeout=30.0).raise_first(), calls)
        for name, seconds in peer(epics).items():
            theirs[name] += seconds
    figures = {f"bulk_read_{name}": median(seconds) for name, seconds in ours.items()}
    return figures | {f"peer_bulk_get_{name}": median(seconds) for name, seconds in theirs.items()}


def peer(epics: dict[str, str]) -> dict[str, list[float]]:
    import environments

    command = [environments.python(PEER), Path(__file__).resolve(), "--as-peer"]
    done = subprocess.run(command, env={**os.environ, **epics}, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def as_peer() -> None:
    from ophyd_epicsrs import get_ca_context  # pyright: ignore[reportMissingImports]

    read = get_ca_context().bulk_get
    found: dict[str, list[float]] = {}
    for name, (pvs, calls) in READS.items():
        if any(value is None for value in read(pvs, timeout=30.0).values()):
            raise SystemExit(f"{name}: the peer did not read all PVs")
        found[name] = timed(lambda pvs=pvs: read(pvs, timeout=30.0), calls)
    print(json.dumps(found))


def flights(_epics: dict[str, str]) -> dict[str, float]:
    import bluesky.plan_stubs as bps
    from bluesky import RunEngine

    from epicsrs_bulk import Column, ConstantInterval, WaveformFlyer, fast_event_page_validation

    columns = [Column(f"w{n}", f"w{n}") for n in range(WAVEFORMS)]
    board = WaveformFlyer(
        "board",
        columns,
        ConstantInterval("w0", 1e-4),
        start=[("start", 1)],
        done=("busy", "Done"),
        timeout=60.0,
        rows=ROWS,
        io_timeout=30.0,
    )
    engine = RunEngine({}, context_managers=[])
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        modes = {
            "stream": (board.stored_in(folder), nullcontext, TURNS),
            "page_fast_validation": (board, fast_event_page_validation, TURNS),
            "page": (board, nullcontext, 1),
        }
        for name, (device, validation, turns) in modes.items():
            taken: list[float] = []
            declared: list[float] = []
            stalls: list[float] = []

            def plan(device: Any, late: list[float], declared: list[float], taken: list[float]) -> Any:
                yield from bps.open_run()
                yield from bps.declare_stream(device, name="primary", collect=True)
                # So that the loop has run before the kickoff.
                yield from bps.sleep(0.05)
                declared.append(max(late))
                late[:] = [0.0]
                yield from bps.kickoff(device, wait=True)
                yield from bps.complete(device, wait=True)
                start = time.perf_counter()
                yield from bps.collect(device, return_payload=False)
                taken.append(time.perf_counter() - start)
                yield from bps.close_run()

            for _ in range(turns):
                with validation(), watched(engine) as late:
                    engine(plan(device, late, declared, taken))
                stalls.append(max(late))
            figures |= {f"collect_{name}": median(taken), f"stall_{name}": median(stalls)}
            figures[f"stall_declaring_{name}"] = median(declared)
    with watched(engine) as stalled:
        time.sleep(IDLE)
    return figures | {"stall_idle": max(stalled)}


def journalling(_epics: dict[str, str]) -> dict[str, float]:
    """A page of as many rows and columns, taken by a sink."""
    import numpy as np

    from epicsrs_bulk import Sink

    random = np.random.default_rng(1)
    data = {f"w{n}": random.normal(size=ROWS) for n in range(WAVEFORMS)}
    times = 1.8e9 + 1e-4 * np.arange(ROWS)
    uids = [f"{row:036}" for row in range(ROWS)]
    page = {
        "descriptor": "descriptor",
        "uid": uids,
        "seq_num": list(range(1, ROWS + 1)),
        "time": times.tolist(),
        "data": data,
        "timestamps": dict.fromkeys(data, times),
        "filled": {},
    }
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder, Sink(lambda *_: None, folder) as sink:
        sink("start", {"uid": "run", "time": 1.0})
        sink("descriptor", {"uid": "descriptor", "run_start": "run", "time": 1.0, "name": "primary", "data_keys": {}})
        for _ in range(PAGES):
            start = time.perf_counter()
            sink("event_page", page)
            seconds.append(time.perf_counter() - start)
            sink.flush()
        size = next(Path(folder).glob("*.journal")).stat().st_size / PAGES
        sink("stop", {"uid": "stop", "run_start": "run", "time": 2.0, "exit_status": "success"})
    return {"journal_page": median(seconds), "journal_page_bytes": size}


@contextmanager
def watched(engine: Any) -> Iterator[list[float]]:
    """How late each of the loop's ticks of 1 ms comes."""
    import asyncio

    late = [0.0]

    async def tick() -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.001)
            late.append(time.perf_counter() - start - 0.001)

    ticking = asyncio.run_coroutine_threadsafe(tick(), engine.loop)
    try:
        yield late
    finally:
        ticking.cancel()


def listening(epics: dict[str, str]) -> dict[str, float]:
    import bluesky.plan_stubs as bps
    from bluesky import RunEngine

    from epicsrs_bulk import MonitorFlyer, Trace, fast_event_page_validation

    device = MonitorFlyer("counters", [Trace(f"c{n}", f"c{n}", "i8", fill=0) for n in range(LISTENED)], io_timeout=30.0)
    engine = RunEngine({}, context_managers=[])
    pages: list[dict[str, Any]] = []
    stalled: list[float] = []

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.kickoff(device, wait=True)
        with watched(engine) as late:
            command = [sys.executable, Path(__file__).resolve(), "--write"]
            with subprocess.Popen(command, env={**os.environ, **epics}, stdout=subprocess.PIPE, text=True) as writer:
                while writer.poll() is None:
                    yield from bps.sleep(0.05)
                assert writer.stdout is not None
                sent = int(writer.stdout.read())
            stalled.append(max(late))
        yield from bps.complete(device, wait=True)
        yield from bps.collect(device, return_payload=False)
        yield from bps.close_run()
        return sent

    def keep(name: str, doc: dict[str, Any]) -> None:
        if name == "event_page":
            pages.append(doc)

    sents: list[int] = []

    def counted() -> Any:
        sents.append((yield from plan()))

    with fast_event_page_validation():
        engine(counted(), keep)
    received = lost = 0
    for page in pages:
        key = min(page["data"], key=len)
        # Without the update that each PV has sent when it was subscribed to.
        received += len(page["data"][key]) - 1
        lost += int(page["data"][f"{key}_lost"][-1])
    return {
        "monitor_sent": sents[0],
        "monitor_received": received,
        "monitor_reported_lost": lost,
        "monitor_unaccounted": sents[0] - received - lost,
        "stall_monitor": stalled[0],
    }


def as_writer() -> None:
    """Write all counters 1000 times a second; print how many values were processed."""
    from epicsrs_native import get_context

    channels = [get_context().channel(f"c{n}") for n in range(LISTENED)]
    for error in get_context().connect_many(channels, timeout=30.0):
        if error is not None:
            raise error
    start = time.perf_counter()
    sent = 0
    for tick in range(round(RATE * SECONDS)):
        time.sleep(max(start + tick / RATE - time.perf_counter(), 0.0))
        sent += get_context().put_many(channels, [tick + 1] * LISTENED, timeout=30.0).count(None)
    print(sent)


def show(figures: dict[str, float]) -> None:
    ms = {key: f"{1e3 * value:10.2f} ms" for key, value in figures.items()}
    lines = [f"{'':44}{'ours':>13}{'peer':>13}{'ratio':>9}"]
    for name, (pvs, _) in READS.items():
        ours, theirs = figures[f"bulk_read_{name}"], figures[f"peer_bulk_get_{name}"]
        what = f"{len(pvs):,} waveforms x {ROWS:,} doubles" if name == "waveforms" else f"{len(pvs):,} scalars"
        mine, peers = (f"{1e3 * seconds:10.2f} ms" for seconds in (ours, theirs))
        if name != "waveforms":
            mine, peers = (f"{1e6 * seconds / len(pvs):10.2f} us" for seconds in (ours, theirs))
            what += ", per PV"
        lines.append(f"{'bulk read of ' + what:44}{mine:>13}{peers:>13}{ours / theirs:9.2f}")
    for name in ("stream", "page_fast_validation", "page"):
        title = f"collect {ROWS:,} x {WAVEFORMS}, {name.replace('_', ' ')}"
        lines.append(f"{title:44}{ms[f'collect_{name}']:>13}   loop stalled at most{ms[f'stall_{name}']}")
    declaring = ms["stall_declaring_stream"]
    lines.append(f"{f'declare {WAVEFORMS} columns and what stands beside':44}{'':13}   loop stalled at most{declaring}")
    lines.append(f"{'(a loop that has nothing to do':44}{'':13}   is stalled at most{ms['stall_idle']})")
    size = f"journal of such a page, {figures['journal_page_bytes'] / 1e6:.1f} MB"
    lines.append(f"{size:44}{ms['journal_page']:>13}   with fsync")
    counts = {key: int(figures[f"monitor_{key}"]) for key in ("sent", "received", "reported_lost", "unaccounted")}
    lines.append(f"{LISTENED} PVs x {RATE} Hz x {SECONDS:g} s: {counts}; loop stalled at most {ms['stall_monitor']}")
    print("\n".join(lines))


if __name__ == "__main__":
    {"--as-peer": as_peer, "--write": as_writer}.get(sys.argv[-1], main)()
