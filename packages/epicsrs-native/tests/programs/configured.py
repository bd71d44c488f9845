"""A client that its program configures: no EPICS variable is set.

Usage: configured.py SETTINGS PV... Prints a line of JSON: what each get gives and how long it took, the configuration,
what a second configure() says, and what the environment has of EPICS.
"""

import json
import os
import sys
import time

from epicsrs_native import EpicsError, configure, get_context

settings, *pvs = sys.argv[1:]
configure(**json.loads(settings))
context = get_context()
answers = []
for pv in pvs:
    channel = context.channel(pv)
    channel.connect(timeout=10.0)
    start = time.monotonic()
    try:
        value = channel.get(timeout=10.0).value
        answer = value if isinstance(value, float) else len(value)
    except EpicsError as error:
        answer = str(error)
    answers.append([answer, time.monotonic() - start])
try:
    configure(EPICS_CA_ADDR_LIST="127.0.0.1")
    again = "accepted"
except RuntimeError as error:
    again = str(error)
left = [name for name in os.environ if name.startswith("EPICS_")]
print(json.dumps({"answers": answers, "config": context.config, "again": again, "environment": left}), flush=True)
