"""How long a fresh process takes to have a client, and how many threads it then has."""

import json
import subprocess

import environments
from process import Figures, TaskError

# What a user writes to have a client of every protocol that the library speaks.
CONTEXTS = {
    "epicsrs": "import epicsrs_native; epicsrs_native.get_context()",
    "ophyd-epicsrs": "import ophyd_epicsrs as o; o.get_ca_context(); o.get_pva_context()",
    "pyepics": "import epics; epics.ca.initialize_libca()",
    # It makes its context with the first channel.
    "aioca": "import asyncio, aioca; asyncio.run(aioca.connect('bench:single'))",
    "p4p": "from p4p.client.thread import Context; context = Context('pva')",
}
# And to have signals of ophyd-async, behind what ophyd-async itself imports for them.
SIGNALS = {
    "epicsrs": "import ophyd_epicsrs_async",
    "stock": "",
    "ophyd-epicsrs": "import ophyd_epicsrs.ophyd_async",
}
OPHYD_ASYNC = "import ophyd_async.epics.core"
# The workspace has p4p for its tests, and ophyd-async imports it where it is; our users do not need it.
ALONE = "import sys; sys.modules['p4p'] = None"
SCRIPT = """
import time
{before}
start = time.perf_counter()
{first}
middle = time.perf_counter()
{then}
end = time.perf_counter()
import json, os
threads = len(os.listdir("/proc/self/task")) - 1
print(json.dumps({{"ms": (end - start) * 1e3, "added": (end - middle) * 1e3, "threads": threads}}), flush=True)
os._exit(0)
"""
LIMIT = 30.0


def measure_start(client: str, epics: dict[str, str], layer: str) -> Figures:
    """Import and context of one client, timed inside a process of its own."""
    if layer == "async":
        before = ALONE if client == environments.OURS else ""
        script = SCRIPT.format(before=before, first=OPHYD_ASYNC, then=SIGNALS[client])
    else:
        script = SCRIPT.format(before="", first="", then=CONTEXTS[client])
    result = subprocess.run(
        [environments.python(client, layer), "-c", script],
        env=environments.variables(epics),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    if result.returncode:
        raise TaskError(result.stderr.strip().splitlines()[-1])
    return json.loads(result.stdout.splitlines()[-1])
