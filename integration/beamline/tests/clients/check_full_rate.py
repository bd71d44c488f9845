"""The camera as fast as it goes, with every plugin, through p4p: none drops a frame, and the memory stays as it is."""

import os
import threading
import time
from pathlib import Path

import numpy as np
from p4p.client.thread import Context

from epicsrs_beamline import Beamline

LIMIT = 10.0
SECONDS = 12.0
PLUGINS = ["image1", "ROI1", "Stats1", "HDF1", "Pva1"]


def resident(pid):
    """Bytes of memory in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_twelve_seconds_at_full_rate():
    with Beamline() as beamline, Context("pva", conf=beamline.env, useenv=False) as context:
        get = lambda name: context.get(beamline.pv(f"cam:{name}"), timeout=LIMIT)  # noqa: E731
        put = lambda name, value: context.put(beamline.pv(f"cam:{name}"), value, timeout=LIMIT)  # noqa: E731
        for plugin in PLUGINS:
            put(f"{plugin}:EnableCallbacks", 1)
        for name, value in (("ImageMode", "Continuous"), ("AcquireTime", 0.0), ("AcquirePeriod", 0.0)):
            put(f"cam1:{name}", value)
        memory, over, start = [], threading.Event(), time.monotonic()

        def came(frame):
            if not isinstance(frame, Exception):
                memory.append(resident(beamline.pid))
                if time.monotonic() - start > SECONDS:
                    over.set()

        subscription = context.monitor(beamline.pv("cam:Pva1:Image"), came)
        context.put(beamline.pv("cam:cam1:Acquire"), 1, timeout=LIMIT, wait=False)
        assert over.wait(SECONDS + LIMIT)
        put("cam1:Acquire", 0)
        subscription.close()
        taken = int(get("cam1:ArrayCounter_RBV"))

        print(f"{taken / SECONDS:.0f} frames/s taken, {len(memory) / SECONDS:.0f} seen by one client")
        # Four times the rate that it has when nothing is set.
        assert taken > 80 * SECONDS
        assert {plugin: int(get(f"{plugin}:DroppedArrays_RBV")) for plugin in PLUGINS} == dict.fromkeys(PLUGINS, 0)
        # From the third second on, when every pool and queue has been filled.
        later = memory[len(memory) // 4 :]
        half = len(later) // 2
        assert np.mean(later[half:]) < np.mean(later[:half]) + 5e6
