"""Both adapters in one process: the same PVs, one RunEngine, one circuit to each IOC, and no leak."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ioc import NETWORK, Ioc

PROGRAM = Path(__file__).parent / "programs" / "both_adapters.py"
SLOTS = NETWORK.iocs[6:8]
# For imports and the last scan, on a machine that is busy.
LIMIT = 180.0


@pytest.fixture
def iocs(tmp_path: Path) -> Iterator[list[Ioc]]:
    iocs = [Ioc(ports, tmp_path) for ports in SLOTS]
    for ioc in iocs:
        ioc.start()
    yield iocs
    for ioc in iocs:
        ioc.kill()


@pytest.mark.parametrize("seconds", [15.0, pytest.param(600.0, marks=pytest.mark.slow)])
def test_legacy_and_async_devices_share_pvs_a_run_engine_and_circuits(iocs: list[Ioc], seconds: float) -> None:
    served = [str(word) for ioc in iocs for word in (ioc.prefix, ioc.ports.ca, ioc.ports.pva)]

    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(seconds), *served],
        env={**os.environ, **NETWORK.client(*SLOTS)},
        capture_output=True,
        text=True,
        timeout=seconds + LIMIT,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    scans = re.match(r"(\d+) scans; ", done.stdout)
    assert scans is not None
    assert int(scans[1]) >= 8, done.stdout
    print(done.stdout)
