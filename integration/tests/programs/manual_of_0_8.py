"""Runs the Python in a manual of ophyd-epicsrs 0.8, with its imports changed, and checks what it leaves.

Usage: manual_of_0_8.py MANUAL MONGO_ADDRESS
The EPICS_* variables lead to an IOC with the PVs of manual_of_0_8.db and a motor IOC:m1. Ends with 0 if all is well.
"""

import ast
import asyncio
import inspect
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bluesky import RunEngine
from bluesky.plans import fly
from pymongo import MongoClient

IMPORTS = {
    "from ophyd_epicsrs import use_epicsrs": "from ophyd_epicsrs_sync import use_epicsrs",
    "from ophyd_epicsrs.ophyd_async import": "from ophyd_epicsrs_async import",
    "from ophyd_epicsrs import": "from epicsrs_native.compat import",
    "from bluesky_dataforge import": "from epicsrs_bulk import",
}
manual, mongo = sys.argv[1:]
# No IOC lets a client write a motor's readback, as the manual does once; and the server has a port of its own.
PLACES = {'create_pv("IOC:motor.RBV")': 'create_pv("IOC:motor.VAL")', "localhost:27017": mongo}
POINTS = 5

RE = RunEngine()
names: dict[str, Any] = {"RE": RE}
blocks = re.findall(r"```python\n(.*?)```", Path(manual).read_text(), re.DOTALL)
assert len(blocks) == 8, len(blocks)
for number, block in enumerate(blocks):
    for old, new in (IMPORTS | PLACES).items():
        block = block.replace(old, new)  # noqa: PLW2901
    code = compile(block, f"block {number + 1}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)
    if inspect.isawaitable(result):
        asyncio.run(result)
    print(f"-- block {number + 1} ran", flush=True)

# The motor's reading and its names, as ophyd has them; a signal without a prefix, with ca://, with pva://.
assert set(names["motor"].read()) == {"motor1", "motor1_user_setpoint"}
for signal, value in (("sig_ca", None), ("sig_pva", 0.5)):
    assert value is None or asyncio.run(names[signal].get_value()) == value
assert names["data"] == {
    "IOC:enc_wf": [0.5, 1.5, 2.5, 3.5, 4.5, 0.0, 0.0, 0.0],
    "IOC:I0_wf": [10.0, 11.0, 12.0, 13.0, 14.0, 0.0, 0.0, 0.0],
    "IOC:ROI1:total_wf": [1, 2, 3, 4, 5, 0, 0, 0],
    "IOC:ROI2:total_wf": [6, 7, 8, 9, 10, 0, 0, 0],
}
assert names["ctx"].create_pv("IOC:motor.VAL").get_with_metadata()["value"] == 0.5
assert logging.getLogger("ophyd_epicsrs.pva").level == logging.DEBUG


class Flyer:
    """What the manual's collect_pages() is a method of."""

    name, parent = "flyer", None
    collect_pages = names["collect_pages"]

    def __init__(self) -> None:
        self.enc_wf_pv, self.i0_wf_pv = "IOC:enc_wf", "IOC:I0_wf"
        self.numROI, self.numPoints = 2, POINTS

    def kickoff(self) -> Any:
        from ophyd.status import Status

        status = Status()
        status.set_finished()
        return status

    complete = kickoff

    def describe_collect(self) -> dict[str, dict[str, Any]]:
        key = {"source": "IOC", "dtype": "number", "shape": []}
        return {"primary": dict.fromkeys(("ENC", "I0", "ROI1", "ROI2"), key)}


def plan() -> Iterator[Any]:
    yield from fly([Flyer()])


(uid,) = RE(plan())
names["writer"].flush()
with MongoClient(f"mongodb://{mongo}") as client:
    stored = sorted(client["metadatastore"]["event"].find(), key=lambda event: event["seq_num"])
assert [event["data"]["ENC"] for event in stored] == [0.5, 1.5, 2.5, 3.5, 4.5], stored
assert [event["data"]["ROI2"] for event in stored] == [6, 7, 8, 9, 10], stored
names["writer"].close()
print(f"-- {len(stored)} events of run {uid} are in MongoDB")
