"""How long a fresh process takes to have a client, and how many threads it then has."""

import json
import os
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
SCRIPT = """
import time
start = time.perf_counter()
{context}
end = time.perf_counter()
import json, os
print(json.dumps({{"ms": (end - start) * 1e3, "threads": len(os.listdir("/proc/self/task")) - 1}}), flush=True)
os._exit(0)
"""
LIMIT = 30.0


def measure_start(client: str, epics: dict[str, str]) -> Figures:
    """Import and context of one client, timed inside a process of its own."""
    result = subprocess.run(
        [environments.python(client), "-c", SCRIPT.format(context=CONTEXTS[client])],
        env={**os.environ, **epics, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    if result.returncode:
        raise TaskError(result.stderr.strip().splitlines()[-1])
    return json.loads(result.stdout.splitlines()[-1])
