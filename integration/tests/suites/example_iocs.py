"""caproto's IOCs of ophyd's tests, one fresh process a test, forked from one that has imported what they need.

caproto's own fixture starts Python anew for each, traces it for coverage, and gives up after 5 s: a minute more for the
suite, and failures on a busy machine.
"""

import multiprocessing
import os
import runpy
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import pytest
from caproto.sync.client import read

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["caproto.asyncio.server", "caproto.server", "ophyd.tests", "pytest", __name__])
LIMIT = 30.0


def serve(module: str, arguments: Sequence[str], log: Path) -> None:
    """Be the IOC."""
    with log.open("ab") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def run_example_ioc(
    module_name: str, *, request: pytest.FixtureRequest, pv_to_check: str, args: Sequence[str] = ()
) -> object:
    """In place of caproto's: return when the IOC serves that PV; it ends with the test."""
    log = Path(os.environ["OUTCOMES"]).with_suffix(".iocs.log")
    process = CONTEXT.Process(target=serve, args=(module_name, args, log), daemon=True)
    # The first one starts what they are forked from, which needs no control layer.
    with patch.dict(os.environ, OPHYD_CONTROL_LAYER="dummy"):
        process.start()
    request.addfinalizer(process.join)
    request.addfinalizer(process.kill)
    end = time.monotonic() + LIMIT
    while True:
        try:
            read(pv_to_check, timeout=0.2, repeater=False)
        except (TimeoutError, ConnectionError):
            assert process.is_alive() and time.monotonic() < end, f"{module_name} does not serve: {log.read_text()}"
        else:
            return process
