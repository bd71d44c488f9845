"""The awaitable calls under uvloop, which this workspace does not install.

Its folder is that of an environment of its own.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ioc import NETWORK, Ioc

PROGRAM = Path(__file__).parent / "programs" / "under_uvloop.py"
# For the environment to be made, from the network at worst.
LIMIT = 180.0
SLOT = NETWORK.iocs[6]


@pytest.fixture
def ioc(tmp_path: Path) -> Iterator[Ioc]:
    ioc = Ioc(SLOT, tmp_path)
    ioc.start()
    yield ioc
    ioc.kill()


def run(command: list[str], **options: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("EPICS_", "VIRTUAL_ENV"))}
    done = subprocess.run(
        command, env={**environment, **options}, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_calls_monitors_and_cancellation_work_under_uvloop(ioc: Ioc) -> None:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    where = "import uvloop, pathlib; print(pathlib.Path(uvloop.__file__).parent.parent)"
    uv = ["uv", "run", "--quiet", "--no-project", "--isolated", f"--python={python}", "--with", "uvloop==0.22.1"]
    folder = run([*uv, "python", "-c", where])
    path = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
    pvs = [ioc.pv(record, protocol) for protocol in ("ca", "pva") for record in ("long", "put_double", "counter")]

    said = run([sys.executable, str(PROGRAM), *pvs], **NETWORK.client(SLOT), PYTHONPATH=path)

    assert said.splitlines() == ["uvloop", *["1000 gets, put 1.5, 3 updates, cancelled", "set and saw 2.5"] * 2]
