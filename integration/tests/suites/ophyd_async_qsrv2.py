"""A pytest plugin for ophyd-async's tests: their IOCs serve pvAccess by QSRV2 (pvxs), not by QSRV.

As a program it is such an IOC.
"""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    runpy.run_module("pvxslibs.ioc", run_name="__main__", alter_sys=True)
else:
    from ophyd_async.epics import testing
    from ophyd_async.testing import ManagedSubprocess

    start_theirs = testing.start_ioc

    def start_ioc(script: Path, *args: str) -> ManagedSubprocess:
        process = start_theirs(script, *args, "--softioc", sys.executable, __file__)
        assert "QSRV2" in process.output, process.output
        return process

    testing.start_ioc = start_ioc
