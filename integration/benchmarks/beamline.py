"""The beamline IOC as a server: ready after how long, how many reads beside softIocPVX, how many frames.

uv run integration/benchmarks/beamline.py
"""

import json
import os
import subprocess
import threading
import time
from statistics import median

import environments
from process import command

from epicsrs_beamline import Beamline
from epicsrs_native import Reading, get_context
from ioc import SoftIoc

BOOTS = 10
READS, TURNS = 20_000, 7
FRAME_SECONDS = 10.0
RECORD = 'record(ao, "float1") { field(VAL, "1") field(PINI, "YES") }'


def main() -> None:
    environments.install("raw_ca")
    seconds = [boot() for _ in range(BOOTS)]
    print(f"ready after {median(seconds):.2f} s ({min(seconds):.2f} - {max(seconds):.2f}), {BOOTS} boots")
    with Beamline(prefix="") as beamline, SoftIoc(RECORD) as soft:
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(TURNS):
            ours.append(reads(beamline.env))
            theirs.append(reads(soft.environment))
        print(f"raw CA gets, one after the other: {median(ours):.0f}/s, softIocPVX {median(theirs):.0f}/s")
        print(f"  {median(theirs) / median(ours):.2f} of softIocPVX's time")
    frames()


def boot() -> float:
    start = time.perf_counter()
    with Beamline():
        return time.perf_counter() - start


def reads(epics: dict[str, str]) -> float:
    """Reads a second of one circuit, from the median round trip."""
    done = subprocess.run(
        [*command("raw_ca", epics), "get", "float1", str(READS), "0"], capture_output=True, text=True, check=True
    )
    return 1e6 / json.loads(done.stdout)["p50"]


def frames() -> None:
    """Frames of 512 x 512 uint16 through NTNDArray to one client, with every plugin on."""
    with Beamline() as beamline:
        os.environ.update(beamline.env)
        context = get_context()
        for plugin in ("image1", "ROI1", "Stats1", "HDF1", "Pva1"):
            context.channel(f"pva://{beamline.pv('cam:')}{plugin}:EnableCallbacks").put(1)
        for name, value in (("ImageMode", "Continuous"), ("AcquireTime", 0.0), ("AcquirePeriod", 0.0)):
            context.channel(f"pva://{beamline.pv('cam:cam1:')}{name}").put(value)
        acquire = context.channel(f"pva://{beamline.pv('cam:cam1:Acquire')}")
        counter = context.channel(f"pva://{beamline.pv('cam:cam1:ArrayCounter_RBV')}")
        seen, over = [0], threading.Event()

        def came(_: Reading) -> None:
            seen[0] += 1
            if time.perf_counter() - start > FRAME_SECONDS:
                over.set()

        start = time.perf_counter()
        subscription = context.channel(f"pva://{beamline.pv('cam:Pva1:Image')}").monitor(came)
        acquire.put(1, wait=False)
        over.wait(FRAME_SECONDS + 5)
        elapsed, taken, count = time.perf_counter() - start, counter.get().value, seen[0]
        acquire.put(0)
        subscription.close()
        print(
            f"frames of 512 x 512 uint16: {taken / elapsed:.0f}/s taken, {count / elapsed:.0f}/s seen by epicsrs_native"
        )


if __name__ == "__main__":
    main()
