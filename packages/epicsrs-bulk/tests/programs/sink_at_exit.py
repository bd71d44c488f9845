"""A process with a sink, which ends in a way of its own.

Usage: sink_at_exit.py HOW FOLDER. Its target takes nothing before the process ends.
"""

import logging
import signal
import sys
import time
from pathlib import Path
from typing import Any

from epicsrs_bulk import JsonLinesTarget, Sink

logging.basicConfig()
how, folder = sys.argv[1], Path(sys.argv[2])


class Late(JsonLinesTarget):
    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        while how == "stuck" or not sink.health().closed:
            time.sleep(0.001)
        super().__call__(name, doc)


if how == "handled":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
patience = 0.2 if how == "stuck" else 60.0
sink = Sink(Late(folder / "out"), folder / "journal", stop_timeout=patience, sigterm=how != "left")
sink("start", {"uid": "run", "time": 1.0})
sink("descriptor", {"uid": "d", "run_start": "run", "time": 1.0, "name": "primary", "data_keys": {}})
for n in range(30):
    sink("event", {"uid": f"e{n}", "descriptor": "d", "time": 1.0, "seq_num": n + 1, "data": {}})
assert sink.health().queued == 32
print("queued", flush=True)
if how in ("terminated", "handled", "left"):
    signal.pause()
elif how == "error":
    raise RuntimeError("of the user's")
